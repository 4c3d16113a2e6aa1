// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/session"
)

// endpoint is one address of ours with one method.
type endpoint struct {
	serve func(*handle, http.ResponseWriter, *http.Request) error
	// csrf is the mode of the check. csrfOff: the endpoint has a check of its own.
	csrf string
	// session: there has to be one, which is said before a failed CSRF check.
	session bool
	// arrival: browsers come here from the authorization server, or it comes itself,
	// so a reload before looking would be one too many.
	arrival bool
	// on reports that the configuration has the endpoint; nil: always.
	on func(*Handler) bool
}

// endpoints are all addresses below the base path, by method. HEAD goes with GET.
var endpoints = map[string]map[string]endpoint{
	"session":         {http.MethodGet: {serve: (*handle).serveSession, csrf: csrfAuto}},
	"session/extend":  {http.MethodPost: {serve: (*handle).serveExtend, csrf: csrfStrict, session: true}},
	"user":            {http.MethodGet: {serve: (*handle).serveUser, csrf: csrfStrict, session: true}},
	"refresh":         {http.MethodPost: {serve: (*handle).serveRefresh, csrf: csrfStrict, session: true}},
	"silent-login":    {http.MethodGet: {serve: (*handle).serveSilentLogin, csrf: csrfOff}},
	"logout/callback": {http.MethodGet: {serve: (*handle).serveLogoutCallback, csrf: csrfOff, arrival: true}},
	"jwks":            {http.MethodGet: {serve: (*handle).serveJWKS, csrf: csrfOff, arrival: true, on: (*Handler).hasPublicKeys}},
	"client.js":       {http.MethodGet: {serve: (*handle).serveClientModule, csrf: csrfOff, arrival: true}},
	"backchannel": {http.MethodPost: {
		serve: (*handle).serveBackchannel, csrf: csrfOff, arrival: true,
		on: func(h *Handler) bool { return h.Logout.Backchannel == "on" },
	}},
	"frontchannel": {http.MethodGet: {
		serve: (*handle).serveFrontchannel, csrf: csrfOff, arrival: true,
		on: func(h *Handler) bool { return h.Logout.Frontchannel == "on" },
	}},
	"login": {
		http.MethodGet:  {serve: (*handle).serveLogin, csrf: csrfOff},
		http.MethodPost: {serve: (*handle).serveLoginStart, csrf: csrfStrict},
	},
	"login/initiate": {
		http.MethodGet:  {serve: (*handle).serveInitiate, csrf: csrfOff, arrival: true},
		http.MethodPost: {serve: (*handle).serveInitiate, csrf: csrfOff, arrival: true},
	},
	"callback": {
		http.MethodGet:  {serve: (*handle).serveCallback, csrf: csrfOff, arrival: true},
		http.MethodPost: {serve: (*handle).serveCallback, csrf: csrfOff, arrival: true},
	},
	"logout": {
		http.MethodGet:  {serve: (*handle).serveLogoutLink, csrf: csrfOff},
		http.MethodPost: {serve: (*handle).serveLogout, csrf: csrfOff},
	},
}

// serveEndpoint answers whatever was asked below the base path.
func (hd *handle) serveEndpoint(w http.ResponseWriter, r *http.Request, name string) error {
	// First of all: whatever becomes of the request, its address stays hidden.
	if hd.addressIsSecret() {
		r = hd.hideAddress(r)
		w.Header().Set("Referrer-Policy", "no-referrer")
	}
	if hd.siteErr != nil {
		return hd.fail(w, r, hd.siteErr)
	}
	if earlyData(r) && name != "client.js" && name != "session" {
		return hd.fail(w, r, errEarlyData)
	}
	methods, ok := endpoints[name]
	if !ok || !hd.bff.offers(methods) {
		return hd.fail(w, r, &httpError{code: codeNotFound})
	}
	if preflight(r) {
		if hd.from.servePreflight(w, r) {
			hd.result = resultPreflight
			return nil
		}
		return hd.fail(w, r, &httpError{code: codeCSRFRejected, err: errors.New("preflight of an origin that is not trusted")})
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	e, ok := methods[method]
	if !ok {
		return hd.fail(w, r, &httpError{code: codeMethodNotAllowed, allow: allowed(methods)})
	}
	if !e.arrival && hd.reloadable(r) {
		if e.csrf == csrfStrict {
			return hd.fail(w, r, &httpError{code: codeCSRFRejected, err: errors.New("document from another site")})
		}
		return hd.writeReload(w)
	}
	if e.session {
		if _, err := hd.open(r.Context()); err != nil {
			return hd.fail(w, r, err)
		}
	}
	if !hd.from.csrfAccepted(r, e.csrf) {
		return hd.fail(w, r, &httpError{code: codeCSRFRejected, err: errors.New("CSRF check")})
	}
	hd.from.corsHeaders(w.Header(), r)
	hd.result = resultEndpoint
	return e.serve(hd, w, r)
}

// offers reports that the configuration has an address.
func (h *Handler) offers(methods map[string]endpoint) bool {
	for _, e := range methods {
		if e.on != nil && !e.on(h) {
			return false
		}
	}
	return true
}

func allowed(methods map[string]endpoint) string {
	names := slices.Sorted(maps.Keys(methods))
	if slices.Contains(names, http.MethodGet) {
		names = slices.Insert(names, slices.Index(names, http.MethodGet)+1, http.MethodHead)
	}
	return strings.Join(names, ", ")
}

// addressIsSecret reports whether the query may hold a code, a state, the proof in
// a logout link or the sid that a session can be ended with. Odd spellings of a callback count: they are no
// endpoint, but somebody may have registered one.
func (hd *handle) addressIsSecret() bool {
	if hd.query == "" {
		return false
	}
	p := strings.ToLower(hd.url.Path)
	return strings.Contains(p, "callback") || strings.Contains(p, "logout") || strings.Contains(p, "channel")
}

// hideAddress keeps the query of the address out of everything that is written
// down, and off what comes after: the access log prints the address as it came
// in, the error log that of every request that ends with an error, a site's
// handle_errors what its placeholders say. The endpoint reads hd.query.
func (hd *handle) hideAddress(r *http.Request) *http.Request {
	hideFromLog(r)
	r.URL.RawQuery, r.URL.ForceQuery = "", false
	r.RequestURI = r.URL.EscapedPath()
	orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		return r
	}
	orig.URL.RawQuery, orig.URL.ForceQuery = "", false // hd.url is the same
	orig.RequestURI = orig.URL.EscapedPath()
	// The placeholder looks into a context that is out of reach by now; what is
	// set by hand goes before it.
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.request.orig_uri", orig.RequestURI)
	}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))
}

// hideFromLog leaves a request out of the access log: its address or the
// Location of its answer holds what no log may hold.
func hideFromLog(r *http.Request) { caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true) }

// redirect sends the browser elsewhere.
func (hd *handle) redirect(w http.ResponseWriter, r *http.Request, status int, target string) error {
	h := w.Header()
	ownAnswer(h)
	addVary(h, "Cookie", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Location", target)
	closeUnread(w, r)
	w.WriteHeader(status)
	return nil
}

// redirectAway sends the browser to the authorization server. State, nonce, and
// at logout perhaps the ID token, are in the address, so it goes into no log.
func (hd *handle) redirectAway(w http.ResponseWriter, r *http.Request, status int, target string) error {
	hideFromLog(r)
	return hd.redirect(w, r, status, target)
}

func setCookies(w http.ResponseWriter, cookies []*http.Cookie) {
	for _, c := range cookies {
		http.SetCookie(w, c)
	}
}

// nothing answers a HEAD where GET has an effect.
func nothing(w http.ResponseWriter) error {
	ownAnswer(w.Header())
	w.WriteHeader(http.StatusOK)
	return nil
}

// noSession reports an error that is the sure absence of a session.
func noSession(err error) (reason session.Reason, sure bool) {
	var ended *session.EndedError
	switch {
	case errors.As(err, &ended):
		return ended.Reason, true
	case errors.Is(err, session.ErrNoSession):
		return session.ReasonNone, true
	}
	return "", false
}
