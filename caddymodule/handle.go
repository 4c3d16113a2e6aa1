// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/session"
)

// handle is what `bff` leaves in a request's context for what comes after it:
// the session, not yet looked for, and how to answer. It is used by the
// goroutine of its request alone.
type handle struct {
	bff *Handler
	// cookies is a request with nothing but the Cookie header that the browser
	// sent, and its User-Agent; the real one has lost our cookies by now.
	cookies *http.Request
	// url is the one that the browser asked for, before any rewrite.
	url *url.URL
	// query is its query, which a callback's url has lost.
	query string
	// origin is that of the site; siteErr says why there is none.
	origin   string
	siteErr  error
	site     *session.Site
	from     site
	user     *user
	bearerOf *Protect // it takes tokens of clients without a session
	pageURL  string   // where a sign-in link returns to; empty: the default
	result   string   // how the request was answered or let through; empty: it is none of ours

	opened  bool
	session *session.Session
	openErr error
}

type handleKey struct{}

// Whatever prints a context, or a value of it, gets a constant.
func (handleKey) String() string             { return "bff" }
func (*handle) String() string               { return "bff" }
func (*handle) GoString() string             { return "bff" }
func (*handle) Format(f fmt.State, _ rune)   { f.Write([]byte("bff")) } //nolint:errcheck // of fmt
func (*handle) MarshalText() ([]byte, error) { return []byte("bff"), nil }

// handleVar is the variable that holds the handle as well: when a request goes on
// to a site's handle_errors it has lost its context, and not its variables.
const handleVar = "bff_handle"

// handleFrom gives the handle of the `bff` that ran last on the request.
func handleFrom(ctx context.Context) (*handle, bool) {
	if hd, ok := ctx.Value(handleKey{}).(*handle); ok {
		return hd, true
	}
	hd, ok := caddyhttp.GetVar(ctx, handleVar).(*handle)
	return hd, ok
}

// put leaves the handle to what comes after.
func (hd *handle) put(ctx context.Context) context.Context {
	caddyhttp.SetVar(ctx, handleVar, hd)
	return context.WithValue(ctx, handleKey{}, hd)
}

// newHandle prepares a request: what identifies the session goes into the
// handle and off the request.
func (h *Handler) newHandle(r *http.Request) *handle {
	hd := &handle{bff: h, url: originalURL(r)}
	hd.query = hd.url.RawQuery
	if earlier, ok := handleFrom(r.Context()); ok {
		// Another `bff` was here: it took the cookies off already.
		hd.cookies, hd.user = earlier.cookies, earlier.user
		hd.user.session.Store(nil)
	} else {
		hd.cookies = &http.Request{Header: http.Header{"User-Agent": r.Header["User-Agent"]}}
		if c := r.Header["Cookie"]; len(c) > 0 {
			hd.cookies.Header["Cookie"] = c
		}
		hd.user = &user{}
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Map(hd.user.placeholder)
		}
	}
	hd.origin, hd.siteErr = requestOrigin(r, h.publicOrigin)
	if hd.siteErr == nil {
		hd.site = h.manager.Site(hd.origin)
	}
	hd.from = site{
		origin: hd.origin, trusted: h.trustedOrigins,
		csrfHeader: csrfHeaderOf(r, h.csrfName, h.csrfValue),
	}
	stripRequest(r, h.csrfName)
	return hd
}

// count counts the request, once it is over.
func (hd *handle) count() {
	if hd.result != "" {
		hd.bff.metrics.requested(hd.result)
	}
}

// originalURL is the URL as it came, whatever rewrites were done since.
func originalURL(r *http.Request) *url.URL {
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && orig.URL != nil {
		return orig.URL
	}
	return r.URL
}

// open resolves the session, once for the request. Errors are those of
// [session.Manager.Open] and of an unusable origin.
func (hd *handle) open(ctx context.Context) (*session.Session, error) {
	if !hd.opened {
		hd.opened = true
		switch {
		case hd.siteErr != nil:
			hd.openErr = hd.siteErr
		case hd.cookies.Header["Cookie"] == nil:
			hd.openErr = session.ErrNoSession
		default:
			hd.session, hd.openErr = hd.bff.manager.Open(ctx, hd.site, hd.cookies)
		}
		if hd.openErr == nil {
			hd.user.session.Store(&identity{session: hd.session})
		}
	}
	return hd.session, hd.openErr
}

// hasSessionCookie reports whether the browser sent a cookie of the session's
// name, whatever is in it.
func (hd *handle) hasSessionCookie() bool {
	return hd.site != nil && len(hd.cookies.CookiesNamed(hd.site.CookieName())) > 0
}

// endpointURL gives the path of one of our endpoints.
func (hd *handle) endpointURL(name string) string { return hd.bff.BasePath + "/" + name }

// redirectURI is the absolute form, as the authorization server knows it.
func (hd *handle) redirectURI(name string) string { return hd.origin + hd.endpointURL(name) }

// loginURL is where signing in starts, and returns to the page if one is given.
func (hd *handle) loginURL(returnTo string) string {
	u := hd.endpointURL("login")
	if returnTo != "" {
		u += "?return_to=" + url.QueryEscape(returnTo)
	}
	return u
}

// reloadable reports a document that came from another site without a session
// cookie, which a same-site request for it may well have.
func (hd *handle) reloadable(r *http.Request) bool {
	return crossSiteDocument(r) && !hd.hasSessionCookie()
}
