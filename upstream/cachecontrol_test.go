// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestKeepPrivate: CH-01, CH-02, CH-04, A412.
func TestKeepPrivate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		have      []string
		want      string
		vary, all []string
	}{
		{name: "none", want: "private, no-store"},
		{name: "empty", have: []string{""}, want: "private, no-store"},
		{name: "empty list", have: []string{" ,, "}, want: "private, no-store"},
		{name: "own way of saying it", have: []string{"private, no-store"}, want: "private, no-store"},
		{name: "public", have: []string{"public, max-age=60"}, want: "private, max-age=60"},
		{name: "only public", have: []string{"Public"}, want: "private"},
		{name: "s-maxage", have: []string{"max-age=0, S-MaxAge=60, must-revalidate"}, want: "private, max-age=0, must-revalidate"},
		{name: "several lines", have: []string{"public", "max-age=60,s-maxage = 5"}, want: "private, max-age=60"},
		{name: "private for a field", have: []string{`private="Set-Cookie, X-A", max-age=60`}, want: "private, max-age=60"},
		{name: "public in quotes", have: []string{`no-cache="a, public, \"b", x="s-maxage=3"`}, want: `private, no-cache="a, public, \"b", x="s-maxage=3"`},
		{name: "open quotes", have: []string{`max-age=5, ext="a, public`}, want: `private, max-age=5, ext="a, public`},
		{name: "no-store", have: []string{"no-store"}, want: "private, no-store"},
		{name: "immutable", have: []string{"immutable"}, want: "private, immutable"},
		{name: "vary", have: []string{"no-store"}, want: "private, no-store", vary: []string{"Accept, Origin"}, all: []string{"Accept, Origin", "Cookie"}},
		{name: "vary has it", have: []string{"no-store"}, want: "private, no-store", vary: []string{"Accept", "origin, cookie"}, all: []string{"Accept", "origin, cookie"}},
		{name: "vary on all", have: []string{"no-store"}, want: "private, no-store", vary: []string{"*"}, all: []string{"*"}},
		{name: "vary on a longer name", have: []string{"no-store"}, want: "private, no-store", vary: []string{"Cookie-Name"}, all: []string{"Cookie-Name", "Cookie"}},
	} {
		h := http.Header{}
		if tt.have != nil {
			h["Cache-Control"] = tt.have
		}
		if tt.vary != nil {
			h["Vary"] = tt.vary
		}
		if tt.all == nil {
			tt.all = []string{"Cookie"}
		}
		keepPrivate(h)
		if got := h["Cache-Control"]; !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%s: Cache-Control %q, want %q", tt.name, got, tt.want)
		}
		if got := h["Vary"]; !slices.Equal(got, tt.all) {
			t.Errorf("%s: Vary %q, want %q", tt.name, got, tt.all)
		}
		again := h.Clone()
		keepPrivate(again)
		if !reflect.DeepEqual(again, h) {
			t.Errorf("%s: a second time gives %q", tt.name, again)
		}
	}
}

// FuzzPrivateCacheControl: the answer is always private, and no directive that
// is outside quotes speaks to shared caches.
func FuzzPrivateCacheControl(f *testing.F) {
	f.Add("public, max-age=60")
	f.Add(`private="a, b", s-maxage = 1`)
	f.Add(`x="\"",public`)
	f.Fuzz(func(t *testing.T, line string) {
		got := privateCacheControl([]string{line})
		if len(got) != 1 || got[0] != "private" && !strings.HasPrefix(got[0], "private, ") {
			t.Fatalf("%q became %q", line, got)
		}
		n := 0
		for directive := range listElements(got[0]) {
			name, _, _ := strings.Cut(directive, "=")
			switch strings.ToLower(strings.Trim(name, " \t")) {
			case "public", "s-maxage":
				t.Fatalf("%q became %q", line, got)
			case "private":
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%q became %q", line, got)
		}
	})
}
