// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/http"
	"slices"
	"strings"
)

// headerLine returns the first line of a field whose canonical name is given.
func headerLine(h http.Header, name string) string {
	if lines := h[name]; len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// sameField reports whether two field names are one and the same to a resource
// server that folds "_" and "." into "-", as CGI and PHP do. want is in lower
// case.
func sameField(name, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '.':
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// credentialField reports whether a request field carries credentials, which
// only this package puts on a request.
func credentialField(name string) bool {
	switch len(name) {
	case len("dpop"):
		return sameField(name, "dpop")
	case len("authorization"):
		return sameField(name, "authorization")
	case len("proxy-authorization"):
		return sameField(name, "proxy-authorization")
	}
	return false
}

// reservedTrailer reports whether a field has no business in a trailer section
// of a client (RFC 9110 section 6.5.1).
func reservedTrailer(name string) bool {
	return credentialField(name) || sameField(name, "cookie")
}

// sanitizeRequest removes from h what a resource server must not get from a
// browser: credentials, cookies of the gateway, protocols other than WebSocket.
func (g *Grant) sanitizeRequest(h http.Header) {
	for name := range h {
		if credentialField(name) {
			delete(h, name)
		}
	}
	if g.ReservedCookie != nil {
		stripCookies(h, g.ReservedCookie)
	}
	if protocols, ok := h["Upgrade"]; ok && !onlyWebSocket(protocols) {
		delete(h, "Upgrade")
		delete(h, "Connection")
		delete(h, "Http2-Settings")
	}
}

// onlyWebSocket reports whether an Upgrade field asks for WebSocket alone. A
// tunnel of any other protocol, h2c above all, would carry requests that nobody
// looks at.
func onlyWebSocket(protocols []string) bool {
	return len(protocols) == 1 && strings.EqualFold(strings.TrimSpace(protocols[0]), "websocket")
}

// stripCookies removes cookies from the Cookie field (RFC 6265 section 4.2.1) by
// name and leaves the others as they are, byte for byte. The slices in h may be
// shared: they are replaced, never written to.
func stripCookies(h http.Header, reserved func(string) bool) {
	lines := h["Cookie"]
	if !slices.ContainsFunc(lines, func(line string) bool { return hasCookie(line, reserved) }) {
		return
	}
	var kept []string
	for _, line := range lines {
		var pairs []string
		for pair := range strings.SplitSeq(line, ";") {
			if !reserved(cookieName(pair)) {
				pairs = append(pairs, pair)
			}
		}
		if rest := strings.TrimLeft(strings.Join(pairs, ";"), " \t"); rest != "" {
			kept = append(kept, rest)
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = kept
}

func hasCookie(line string, reserved func(string) bool) bool {
	for pair := range strings.SplitSeq(line, ";") {
		if reserved(cookieName(pair)) {
			return true
		}
	}
	return false
}

// cookieName returns the name of a cookie pair. A pair without a name is one by
// its value: the browser would send that back as if it were a name (RFC 6265bis
// section 5.6).
func cookieName(pair string) string {
	name, value, ok := strings.Cut(pair, "=")
	if ok && strings.Trim(name, " \t") == "" {
		name, _, _ = strings.Cut(value, "=")
	}
	return strings.Trim(name, " \t")
}

// sanitizeResponse removes from h what a browser, or a cache in front of the
// gateway, must not get from a resource server.
func (g *Grant) sanitizeResponse(h http.Header) {
	delete(h, "X-Bff-Error")
	delete(h, "Dpop-Nonce")
	stripChallenges(h)
	if g.ReservedCookie != nil {
		stripSetCookies(h, g.ReservedCookie)
	}
	const cors = "Access-Control-"
	for name := range h {
		switch {
		case strings.HasPrefix(name, cors):
			if !g.KeepCORS || name == cors+"Allow-Origin" || name == cors+"Allow-Credentials" {
				delete(h, name)
			}
		case !g.CacheUpstream && targetedCacheControl(name):
			delete(h, name)
		}
	}
}

// stripSetCookies removes Set-Cookie lines for cookies of the gateway.
func stripSetCookies(h http.Header, reserved func(string) bool) {
	foreign := func(line string) bool {
		pair, _, _ := strings.Cut(line, ";")
		return !reserved(cookieName(pair))
	}
	lines := h["Set-Cookie"]
	kept := lines
	for i, line := range lines {
		if foreign(line) {
			continue
		}
		kept = slices.Clone(lines[:i])
		for _, line := range lines[i+1:] {
			if foreign(line) {
				kept = append(kept, line)
			}
		}
		break
	}
	switch {
	case len(kept) == len(lines):
	case len(kept) == 0:
		delete(h, "Set-Cookie")
	default:
		h["Set-Cookie"] = kept
	}
}
