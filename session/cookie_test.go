// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func requestWith(cookies ...string) *http.Request {
	r := httptest.NewRequest("GET", "https://app.test/", nil)
	for _, c := range cookies {
		r.Header.Add("Cookie", c)
	}
	return r
}

func loadedRing(t testing.TB, keys ...RingKey) *KeyRing {
	t.Helper()
	k := NewKeyRing(ringFunc(func() ([]RingKey, error) { return keys, nil }), slog.New(slog.DiscardHandler))
	if err := k.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

func mustCookie(t testing.TB, s *Site, keys *KeyRing, tk ticket) string {
	t.Helper()
	c, err := s.sessionCookie(keys.loaded.Load(), tk)
	if err != nil {
		t.Fatal(err)
	}
	return c.Value
}

// CK-01 to CK-05, A405, and CONTRACT's bound of 512 bytes.
func TestSessionCookieAttributes(t *testing.T) {
	keys := loadedRing(t, testKey(1))
	for _, tc := range []struct{ name, origin, want string }{
		{"", "https://app.test", "__Host-Http-bff=V; Path=/; HttpOnly; Secure; SameSite=Strict"},
		{"shop", "https://app.test", "__Host-Http-bff-shop=V; Path=/; HttpOnly; Secure; SameSite=Strict"},
		{"", "http://127.0.0.1:8080", "bff=V; Path=/; HttpOnly; SameSite=Strict"},
		{"shop", "http://localhost:8080", "bff-shop=V; Path=/; HttpOnly; SameSite=Strict"},
	} {
		site := testSite(tc.name, tc.origin)
		c, err := site.sessionCookie(keys.loaded.Load(), newTicket())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c.String()); n >= 512 {
			t.Errorf("%s: %d bytes", tc.origin, n)
		}
		if err := c.Valid(); err != nil {
			t.Error(err)
		}
		c.Value = "V"
		if got := c.String(); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
		// CK-14: a deletion differs in value and age alone.
		want := strings.Replace(strings.Replace(tc.want, "=V;", "=;", 1), "Path=/;", "Path=/; Max-Age=0;", 1)
		if got := site.ClearSession().String(); got != want {
			t.Errorf("deletion: got %s, want %s", got, want)
		}
	}
}

// CK-09, D101, D105, D111, F507: forged, truncated, foreign, oversized and
// doubled cookies.
func TestCookieAttacks(t *testing.T) {
	keys := loadedRing(t, testKey(1))
	site := testSite("", "https://app.test")
	tk, other := newTicket(), newTicket()
	good, second := mustCookie(t, site, keys, tk), mustCookie(t, site, keys, other)
	name := site.CookieName()

	expect := func(title string, want error, cookies ...string) {
		t.Helper()
		got, err := site.ticketOf(t.Context(), keys, requestWith(cookies...))
		if !errors.Is(err, want) || want == nil && got != tk {
			t.Errorf("%s: %v", title, err)
		}
	}
	expect("good", nil, name+"="+good)
	expect("among others", nil, "a=b; "+name+"="+good+"; c=d")
	expect("none", ErrNoSession)
	expect("empty", ErrNoSession, name+"=")
	expect("other name", ErrNoSession, "bff="+good)
	expect("other case", ErrNoSession, strings.ToLower(name)+"="+good)
	expect("40 kB", ErrNoSession, name+"="+strings.Repeat("A", 40<<10))
	expect("same value twice", nil, name+"="+good, name+"="+good)
	expect("a forged one beside it", nil, name+"=forged; "+name+"="+good)
	expect("a forged one after it", nil, name+"="+good, name+"=forged")
	expect("two valid ones", ErrNoSession, name+"="+good+"; "+name+"="+second)
	expect("two valid ones, other order", ErrNoSession, name+"="+second, name+"="+good)
	expect("too many", ErrNoSession, strings.Repeat(name+"=x; ", maxCookieCopies)+name+"="+good)
	for i := range good {
		bad := good[:i] + string(good[i]^1) + good[i+1:]
		if got, err := site.ticketOf(t.Context(), keys, requestWith(name+"="+bad)); err == nil && got == tk && !sameBase64(good[i], bad[i]) {
			t.Errorf("byte %d was changed and it passed", i)
		}
		expect("cut", ErrNoSession, name+"="+good[:i])
	}
	for _, s := range []*Site{testSite("shop", "https://app.test"), testSite("", "https://other.test"), testSite("", "http://127.0.0.1:8080")} {
		if _, err := s.ticketOf(t.Context(), keys, requestWith(s.CookieName()+"="+good)); !errors.Is(err, ErrNoSession) {
			t.Errorf("taken at %s: %v", s.Origin(), err)
		}
	}
	if _, err := site.ticketOf(t.Context(), loadedRing(t, testKey(2)), requestWith(name+"="+good)); !errors.Is(err, ErrNoSession) {
		t.Errorf("taken with another key: %v", err)
	}
	if got, err := site.ticketOf(t.Context(), loadedRing(t, testKey(2), testKey(1)), requestWith(name+"="+good)); err != nil || got != tk {
		t.Errorf("not taken after a rotation: %v", err)
	}
}

// The signed part is base64 inside base64 and its last characters carry unused
// bits; nothing else may be changed.
func sameBase64(a, b byte) bool { return a == b }

// A302, A305: odd Cookie headers.
func FuzzCookieHeader(f *testing.F) {
	keys := loadedRing(f, testKey(1))
	site := testSite("", "https://app.test")
	good := site.CookieName() + "=" + mustCookie(f, site, keys, newTicket())
	for _, s := range []string{good, ";;", "=;", good + "; " + good, "\x00", good[:60], `$Version=1; ` + good} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := requestWith()
		r.Header["Cookie"] = []string{header}
		if _, err := site.ticketOf(t.Context(), keys, r); err != nil && !errors.Is(err, ErrNoSession) {
			t.Errorf("got %v", err)
		}
	})
}

// D102: names that some server reads as one of ours.
func TestOwnCookie(t *testing.T) {
	for _, name := range []string{
		"__Host-Http-bff", "__Host-Http-bff-shop", "__Host-Http-bff.login.abc", "__Host-bff", "__host-http-BFF", " __Host-Http-bff",
		"\u2000__Host-Http-bff", "\"__Host-Http-bff", "__Host-Http-bff\t", "x__Host-Http-bff", "bff", "bff-shop", "bff.logout", "BFF",
	} {
		if !OwnCookie(name) {
			t.Errorf("%q is let through", name)
		}
	}
	for _, name := range []string{"", "a", "sid", "bffx", "__Host-session", "xbff", "theme"} {
		if OwnCookie(name) {
			t.Errorf("%q is taken away", name)
		}
	}
}

func BenchmarkDecodeTicket(b *testing.B) {
	keys := loadedRing(b, testKey(1))
	site := testSite("", "https://app.test")
	value := mustCookie(b, site, keys, newTicket())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := site.decodeTicket(b.Context(), keys, value); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
