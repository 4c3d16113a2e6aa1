// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
)

// D102, A406, BFF-04: our cookies go in every spelling, the others stay byte for byte.
func TestStripCookies(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a=b":                               "a=b",
		"a=b;c=d ;  e":                      "a=b;c=d ;  e",
		"bff=x":                             "",
		"__Host-Http-bff=x":                 "",
		"a=b; __Host-Http-bff-shop=x; c=d":  "a=b; c=d",
		"__Host-bff=x; a=b":                 "a=b",
		"__host-http-BFF=x;a=b":             "a=b",
		" bff =x; a=b":                      "a=b",
		"\u2000__Host-Http-bff=x; a=b":      "a=b",
		`"bff"=x; a=b`:                      "a=b",
		`$Version=1; a="x; bff=y; z"; b=c`:  `$Version=1; a="x; z"; b=c`,
		`a="__Host-Http-bff=stolen"; b=c`:   "b=c",
		"bff":                               "",
		"bff-shop.login.abc=x; bff.logout=": "",
		"bffx=1; xbff=2":                    "bffx=1; xbff=2",
		";;;":                               ";;;",
		"bff=;;a=b;":                        "a=b;",
	} {
		got, _ := stripCookies([]string{in})
		if joined := strings.Join(got, "\n"); joined != want {
			t.Errorf("%q: %q, want %q", in, joined, want)
		}
	}
}

func FuzzStripCookies(f *testing.F) {
	for _, s := range []string{"a=b; bff=c", ";;", `x="bff=1; y"`, "__Host-Http-bff\t=1", "=;=", "\u00a0bff=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		kept, changed := stripCookies([]string{line})
		if !changed && !slices.Equal(kept, []string{line}) && line != "" {
			t.Fatalf("%q became %q unnoticed", line, kept)
		}
		for _, l := range kept {
			for _, c := range (&http.Request{Header: http.Header{"Cookie": {l}}}).Cookies() {
				if session.OwnCookie(c.Name) {
					t.Fatalf("%q keeps %q", line, c.Name)
				}
			}
			if again, changed := stripCookies([]string{l}); changed {
				t.Fatalf("%q gives %q, which gives %q", line, l, again)
			}
		}
	})
}

// A trusted proxy may say that it has rewritten the path; it cannot say who the user is.
func TestStripOfATrustedProxy(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		r := originRequest("app.example.com", true, trusted, "X-Forwarded-Prefix", "/x", "X-Forwarded-User", "root", "X-Forwarded-For", "192.0.2.1", "X-Shop", "1", "x_shop", "2", "Xshop", "kept")
		stripRequest(r, "X-Shop")
		if got := r.Header.Get("X-Forwarded-Prefix") != ""; got != trusted {
			t.Errorf("trusted %t: X-Forwarded-Prefix kept: %t", trusted, got)
		}
		if r.Header.Get("X-Forwarded-User") != "" || r.Header.Get("X-Shop") != "" || r.Header.Get("X_shop") != "" || r.Header.Get("Xshop") == "" || r.Header.Get("X-Forwarded-For") == "" {
			t.Errorf("trusted %t: %v", trusted, r.Header)
		}
	}
}

func BenchmarkStripRequest(b *testing.B) {
	header := http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip, br"}, "Accept-Language": {"en"}, "User-Agent": {"Mozilla/5.0"}, "Sec-Fetch-Site": {"same-origin"},
		"Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"}, "X-Csrf": {"1"}, "Referer": {"https://app.example.com/"}, "Cookie": {"theme=dark; __Host-Http-bff=" + strings.Repeat("a", 180)},
	}
	r := originRequest("app.example.com", true, false)
	b.ReportAllocs()
	for b.Loop() {
		r.Header = header
		header["X-Csrf"] = []string{"1"}
		header["Cookie"] = []string{"theme=dark; __Host-Http-bff=" + strings.Repeat("a", 180)}
		stripRequest(r, "X-Csrf")
	}
}
