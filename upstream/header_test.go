// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func isOurs(name string) bool {
	return strings.Contains(strings.ToLower(name), "__host-http-bff")
}

// TestSanitizeRequest: A111, A406, B202, B205, D102.
func TestSanitizeRequest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		have, want http.Header
	}{
		{"nothing to do", http.Header{"Accept": {"*/*"}, "Cookie": {"a=1"}}, http.Header{"Accept": {"*/*"}, "Cookie": {"a=1"}}},
		{"credentials", http.Header{"Authorization": {"Bearer x", "y"}, "Dpop": {"p"}, "Proxy-Authorization": {"Basic z"}}, http.Header{}},
		{"credentials in other spellings", http.Header{
			"authorization": {"x"}, "AUTHORIZATION": {"x"}, "DPoP": {"x"}, "Proxy_Authorization": {"x"}, "proxy.authorization": {"x"},
			"Authorizations": {"stays"}, "Proxy-Authorize": {"stays"}, "Host": {"stays"},
		}, http.Header{"Authorizations": {"stays"}, "Proxy-Authorize": {"stays"}, "Host": {"stays"}}},
		{"our cookie alone", http.Header{"Cookie": {"__Host-Http-bff=x"}}, http.Header{}},
		{"our cookie among others", http.Header{"Cookie": {`a=1;b="2;3";  __Host-Http-bff=x;c==;d`, "__Host-Http-bff-shop=y", "e=5"}},
			http.Header{"Cookie": {`a=1;b="2;3";c==;d`, "e=5"}}},
		{"our cookie first", http.Header{"Cookie": {"__Host-Http-bff=x; a=1"}}, http.Header{"Cookie": {"a=1"}}},
		{"our cookie in a sandwich", http.Header{"Cookie": {`$Version=1; a="x; __Host-Http-bff=secret; b="`}},
			http.Header{"Cookie": {`$Version=1; a="x; b="`}}},
		{"our cookie without a value", http.Header{"Cookie": {"a=1; __Host-Http-bff"}}, http.Header{"Cookie": {"a=1"}}},
		{"our cookie behind a missing name", http.Header{"Cookie": {"a=1; =__Host-Http-bff=x"}}, http.Header{"Cookie": {"a=1"}}},
		{"WebSocket", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"WebSocket"}}, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"WebSocket"}}},
		{"h2c", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"h2c"}, "Http2-Settings": {"x"}}, http.Header{}},
		{"h2c beside WebSocket", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket", "h2c"}}, http.Header{}},
		{"h2c behind WebSocket", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket, h2c"}}, http.Header{}},
	} {
		g := &Grant{ReservedCookie: isOurs}
		shared := make(map[string][]string)
		for name, values := range tt.have {
			shared[name] = slices.Clone(values)
		}
		h := maps.Clone(tt.have)
		g.sanitizeRequest(h)
		if !reflect.DeepEqual(h, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, h, tt.want)
		}
		if !reflect.DeepEqual(map[string][]string(tt.have), shared) {
			t.Errorf("%s: values of the caller were written to: %q", tt.name, tt.have)
		}
	}
}

// TestSanitizeResponse: B212, PX-12, and CONTRACT's list of what a browser does
// not get.
func TestSanitizeResponse(t *testing.T) {
	t.Parallel()
	cors := func() http.Header {
		return http.Header{
			"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"},
			"Access-Control-Expose-Headers": {"X-A"}, "Access-Control-Max-Age": {"5"},
		}
	}
	for _, tt := range []struct {
		name       string
		grant      Grant
		have, want http.Header
	}{
		{"nothing to do", Grant{}, http.Header{"X-A": {"b"}, "Clear-Site-Data": {"*"}}, http.Header{"X-A": {"b"}, "Clear-Site-Data": {"*"}}},
		{"ours", Grant{}, http.Header{"X-Bff-Error": {"forbidden"}, "Dpop-Nonce": {"n"}}, http.Header{}},
		{"challenge", Grant{}, http.Header{"Www-Authenticate": {`Basic realm="x"`}}, http.Header{}},
		{"cors", Grant{}, cors(), http.Header{}},
		{"cors kept", Grant{KeepCORS: true}, cors(), http.Header{"Access-Control-Expose-Headers": {"X-A"}, "Access-Control-Max-Age": {"5"}}},
		{"cookies", Grant{ReservedCookie: isOurs}, http.Header{"Set-Cookie": {
			"a=1; Path=/", "__Host-Http-bff=x; Path=/; Secure", " \t__host-http-bff = x", "__Host-Http-bff-shop", "=__Host-Http-bff=x", "b=__Host-Http-bff=x", "; __Host-Http-bff=x",
		}}, http.Header{"Set-Cookie": {"a=1; Path=/", "b=__Host-Http-bff=x", "; __Host-Http-bff=x"}}},
		{"only our cookies", Grant{ReservedCookie: isOurs}, http.Header{"Set-Cookie": {"__Host-Http-bff=x"}}, http.Header{}},
		{"shared caches", Grant{}, http.Header{
			"Cdn-Cache-Control": {"max-age=60"}, "Cloudflare-Cdn-Cache-Control": {"public"}, "Surrogate-Control": {"max-age=60"},
			"X-Accel-Expires": {"60"}, "Edge-Control": {"cache-maxage=60"}, "Expires": {"0"},
		}, http.Header{"Expires": {"0"}}},
		{"shared caches wanted", Grant{CacheUpstream: true}, http.Header{"Cdn-Cache-Control": {"max-age=60"}}, http.Header{"Cdn-Cache-Control": {"max-age=60"}}},
	} {
		h := maps.Clone(tt.have)
		tt.grant.sanitizeResponse(h)
		if !reflect.DeepEqual(h, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, h, tt.want)
		}
	}
}

// FuzzStripCookies: cookies of ours never pass, and the others do so byte for
// byte, in their order.
func FuzzStripCookies(f *testing.F) {
	f.Add("a=1; __Host-Http-bff=x; b=2")
	f.Add(`$Version=1; a="; __Host-Http-bff=x; "`)
	f.Add("=__Host-Http-bff;;")
	f.Fuzz(func(t *testing.T, line string) {
		h := http.Header{"Cookie": {line}}
		stripCookies(h, isOurs)
		var want []string
		for pair := range strings.SplitSeq(line, ";") {
			if !isOurs(cookieName(pair)) {
				want = append(want, pair)
			}
		}
		got := headerLine(h, "Cookie")
		if len(want) == strings.Count(line, ";")+1 {
			if got != line {
				t.Fatalf("%q became %q", line, got)
			}
			return
		}
		if got != strings.TrimLeft(strings.Join(want, ";"), " \t") {
			t.Fatalf("%q became %q", line, got)
		}
		for pair := range strings.SplitSeq(got, ";") {
			if isOurs(cookieName(pair)) {
				t.Fatalf("%q became %q", line, got)
			}
		}
	})
}
