// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Modes of the CSRF check.
const (
	csrfAuto   = "auto"   // header, or same origin by fetch metadata, or a harmless navigation
	csrfStrict = "strict" // header
	csrfOff    = "off"
)

// site is what a request says about where it comes from, beside what the site
// accepts. The CSRF header is off the request by the time it is asked about.
type site struct {
	origin     string   // of the site
	trusted    []string // further origins
	csrfHeader bool     // the request carried the CSRF header with its value
}

// csrfHeaderOf reports whether the request carries the header once, with its value.
func csrfHeaderOf(r *http.Request, name, value string) bool {
	v := r.Header[http.CanonicalHeaderKey(name)]
	return len(v) == 1 && v[0] == value
}

// only gives the value of a header that came exactly once. Fetch metadata that
// came twice was not written by a browser.
func only(r *http.Request, name string) (value string, present bool) {
	switch v := r.Header[name]; len(v) {
	case 0:
		return "", false
	case 1:
		return v[0], true
	}
	return "ambiguous", true
}

// originAccepted reports whether Origin is absent, the site's own, or, if
// further is set, a trusted one. Origins are compared whole; "null" is foreign.
func (s site) originAccepted(r *http.Request, further bool) bool {
	origin, present := only(r, "Origin")
	return !present || origin == s.origin || further && slices.Contains(s.trusted, origin)
}

// csrfAccepted is the CSRF check (RFC 10017 section 6.1.3.3).
func (s site) csrfAccepted(r *http.Request, mode string) bool {
	if mode == csrfOff {
		return true
	}
	// (a) A header that a foreign page cannot send without a preflight.
	if s.csrfHeader && s.originAccepted(r, true) {
		return true
	}
	if mode == csrfStrict || !s.originAccepted(r, false) {
		return false
	}
	// (b) The browser vouches for the page.
	fetchSite, present := only(r, "Sec-Fetch-Site")
	if fetchSite == "same-origin" {
		return true
	}
	// (c) Nothing but looking, and not on behalf of a foreign page.
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return !present || fetchSite == "none" || topLevelNavigation(r)
}

// webSocketAccepted is the check of a WebSocket handshake, which no preflight
// guards and which cannot carry a header: the Origin must be there and must be
// right (RFC 6455 section 10.2).
func (s site) webSocketAccepted(r *http.Request) bool {
	_, present := only(r, "Origin")
	return present && s.originAccepted(r, true)
}

// topLevelNavigation reports a browser that loads a document into a window, by
// fetch metadata.
func topLevelNavigation(r *http.Request) bool {
	mode, _ := only(r, "Sec-Fetch-Mode")
	dest, _ := only(r, "Sec-Fetch-Dest")
	return mode == "navigate" && dest == "document"
}

// documentRequest reports a top-level document that is being loaded: by fetch
// metadata, or, from browsers that send none, by what is accepted.
func documentRequest(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	for _, name := range []string{"Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-Site"} {
		if _, present := only(r, name); present {
			return topLevelNavigation(r)
		}
	}
	return acceptsHTML(r) && r.Header.Get("X-Requested-With") == ""
}

// wantsPage reports whether a person will look at the answer.
func wantsPage(r *http.Request) bool {
	if documentRequest(r) {
		return true
	}
	// A form that was posted, a callback by form_post: also a page to come.
	if _, present := only(r, "Sec-Fetch-Mode"); present {
		return topLevelNavigation(r)
	}
	return r.Method == http.MethodPost && acceptsHTML(r) && formBody(r)
}

func acceptsHTML(r *http.Request) bool {
	return strings.Contains(strings.ToLower(r.Header.Get("Accept")), "text/html")
}

// crossSiteDocument reports a document that another site sent the browser to: a
// Strict cookie stays at home then.
func crossSiteDocument(r *http.Request) bool {
	fetchSite, _ := only(r, "Sec-Fetch-Site")
	return fetchSite == "cross-site" && documentRequest(r)
}

// webSocket reports a WebSocket handshake: an HTTP/1.1 upgrade (RFC 6455), or
// extended CONNECT over HTTP/2 and HTTP/3 (RFC 8441, RFC 9220).
func webSocket(r *http.Request) bool {
	switch {
	case r.Method == http.MethodConnect && r.ProtoMajor == 2:
		return r.Header.Get(":protocol") == "websocket"
	case r.Method == http.MethodConnect && r.ProtoMajor == 3:
		return r.Proto == "websocket"
	}
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// prefetch reports a browser that fetches ahead of its user's wish.
func prefetch(r *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Moz", "X-Purpose"} {
		v := strings.ToLower(r.Header.Get(name))
		if strings.Contains(v, "prefetch") || strings.Contains(v, "preview") || strings.Contains(v, "prerender") {
			return true
		}
	}
	return false
}
