// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/session"
)

// identityHeaders are the names under which gateways tell applications who the
// user is. Made up by a client, one of them would be believed by some
// application; so no request brings them. Spelled as nameKey spells.
var identityHeaders = map[string]bool{
	"x-user": true, "x-userid": true, "x-username": true, "x-userinfo": true,
	"x-email": true, "x-groups": true, "x-roles": true, "x-subject": true,
	"x-id-token": true, "x-access-token": true, "x-refresh-token": true,
	"x-token": true, "x-authorization": true, "x-forwarded-user": true, "x-forwarded-email": true, "x-forwarded-groups": true,
	"x-forwarded-preferred-username": true, "x-forwarded-access-token": true, "x-forwarded-id-token": true,
	"remote-user": true, "remote-name": true, "remote-email": true, "remote-groups": true,
}

// identityPrefixes are the families of such names.
var identityPrefixes = []string{
	"x-auth-", "x-user-", "x-remote-", "x-authenticated-", "x-webauth-", "x-token-",
	"oidc-", "x-oidc-", "x-authentik-", "x-vouch-", "x-pomerium-", "x-authelia-",
	"x-jwt-", "x-client-cert", "x-ssl-client-", "ssl-client-", "client-cert",
	"x-goog-authenticated-", "x-amzn-oidc-", "cf-access-", "x-ms-client-principal", "x-ms-token-",
}

// rewriteHeaders tell an application that the request was for another path.
// Trusted proxies may say so; clients may not.
var rewriteHeaders = map[string]bool{
	"x-original-url": true, "x-original-uri": true, "x-rewrite-url": true,
	"x-forwarded-uri": true, "x-forwarded-path": true, "x-forwarded-prefix": true, "x-forwarded-method": true,
	"forwarded": true,
}

// stripRequest takes off the request what no handler after us, no placeholder
// and no resource server is to see: cookies of the gateway in every spelling,
// the CSRF header, identity headers that the client made up. It works on the
// request's own header map, which Caddy's placeholders read as well, and leaves
// alone the old slices, which are shared.
func stripRequest(r *http.Request, csrfHeader string) {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	csrfKey := nameKey(csrfHeader)
	for name := range r.Header {
		if !mayBeReserved(name, csrfKey) {
			continue
		}
		key := nameKey(name)
		if key == csrfKey || identityHeaders[key] || !trusted && rewriteHeaders[key] || hasAnyPrefix(key, identityPrefixes) {
			delete(r.Header, name)
		}
	}
	if lines := r.Header["Cookie"]; len(lines) > 0 {
		if kept, changed := stripCookies(lines); !changed {
			return
		} else if len(kept) == 0 {
			delete(r.Header, "Cookie")
		} else {
			r.Header["Cookie"] = kept
		}
	}
}

// reservedHeader reports whether a field name is one that no client may send to
// a resource server, in a trailer for instance.
func (h *Handler) reservedHeader(name string) bool {
	key := nameKey(name)
	return key == nameKey(h.csrfName) || identityHeaders[key] || rewriteHeaders[key] || hasAnyPrefix(key, identityPrefixes)
}

// mayBeReserved tells by the first letter, which spares most headers of a
// request the work of nameKey.
func mayBeReserved(name, csrfKey string) bool {
	if name == "" {
		return false
	}
	switch c := name[0] | 0x20; c {
	case 'x', 'r', 'o', 'c', 'f':
		return true
	case 's': // not those of fetch metadata, which every request has
		return len(name) > 1 && name[1]|0x20 == 's' || c == csrfKey[0]
	default:
		return c == csrfKey[0]
	}
}

// stripCookies leaves out the cookies that are ours, or that some server might
// read as ours, and keeps the others byte for byte.
func stripCookies(lines []string) (kept []string, changed bool) {
	for _, line := range lines {
		rest, lineChanged := stripCookieLine(line)
		changed = changed || lineChanged
		if rest != "" {
			kept = append(kept, rest)
		}
	}
	return kept, changed
}

func stripCookieLine(line string) (rest string, changed bool) {
	var b strings.Builder
	for pair := range strings.SplitSeq(line, ";") {
		name, value, _ := strings.Cut(pair, "=")
		// A quoted value may hide a cookie from one parser and show it to
		// another: where our name stands in a value, the pair goes too.
		if session.OwnCookie(strings.TrimSpace(name)) || hidesOwnCookie(value) {
			changed = true
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(';')
		} else {
			pair = strings.TrimLeft(pair, " \t")
		}
		b.WriteString(pair)
	}
	if !changed {
		return line, false
	}
	return strings.TrimSpace(b.String()), true
}

func hidesOwnCookie(value string) bool {
	return len(value) > len("__host-bff=") && strings.Contains(strings.ToLower(value), "__host-") && session.OwnCookie(value)
}

// nameKey makes header names that some server may take for the same one equal:
// CGI knows neither case nor the difference between "-", "_" and ".".
func nameKey(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c == '_' || c == '.' || c == ' ':
			return '-'
		}
		return c
	}, name)
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
