// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// describe writes challenges in one fixed form.
func describe(challenges []challenge, whole bool) string {
	var b strings.Builder
	for i := range challenges {
		c := &challenges[i]
		fmt.Fprintf(&b, "%s(", c.scheme)
		for _, p := range c.params {
			fmt.Fprintf(&b, "%s=%s;", p.name, p.value)
		}
		b.WriteString(") ")
	}
	if !whole {
		b.WriteString("...")
	}
	return strings.TrimSpace(b.String())
}

// TestParseChallenges: the grammar of RFC 9110 section 11.6.1. PX-03.
func TestParseChallenges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ field, want string }{
		{``, ``},
		{` , ,, `, ``},
		{`Bearer`, `Bearer()`},
		{`Bearer, Basic`, `Bearer() Basic()`},
		{`Bearer error="invalid_token"`, `Bearer(error=invalid_token;)`},
		{`Bearer error=invalid_token`, `Bearer(error=invalid_token;)`},
		{`Bearer realm="a", error="invalid_token", scope="a b"`, `Bearer(realm=a;error=invalid_token;scope=a b;)`},
		{`Basic realm="a, b", BEARER Error="invalid_token"`, `Basic(realm=a, b;) BEARER(Error=invalid_token;)`},
		{`Basic realm="Bearer error=\"invalid_token\""`, `Basic(realm=Bearer error="invalid_token";)`},
		{`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`, `Newauth(realm=apps;type=1;title=Login to "apps";) Basic(realm=simple;)`},
		{`Negotiate YII==, Bearer a=b`, `Negotiate() Bearer(a=b;)`},
		{`Negotiate YII=`, `Negotiate()`},
		{`Negotiate ,Bearer a = "b" , c	=	d`, `Negotiate() Bearer(a=b;c=d;)`},
		{`,Bearer a=b,,, c=d,`, `Bearer(a=b;c=d;)`},
		{"Bearer   a=b", `Bearer(a=b;)`},
		{`Bearer a="\\\"\a"`, `Bearer(a=\"a;)`},
		{`Bearer a=""`, `Bearer(a=;)`},
		// Not in the grammar: what came before counts.
		{`Bearer error="invalid_token`, `Bearer() ...`},
		{`Bearer error="invalid_token", x="`, `Bearer(error=invalid_token;) ...`},
		{`Bearer error="invalid_token" x="y"`, `Bearer(error=invalid_token;) ...`},
		{`Bearer error="invalid_token\`, `Bearer() ...`},
		{`Bearer error="invalid_token", =x`, `Bearer(error=invalid_token;) ...`},
		{`="x"`, `...`},
		{`"Bearer"`, `...`},
		{`Bearer="x"`, `...`},
		{`Bearer; error="invalid_token"`, `...`},
		{`Bearer a b`, `Bearer() ...`},
		{"Bearer\x00", `...`},
	} {
		if got := describe(parseChallenges(tt.field)); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.field, got, tt.want)
		}
	}
}

// TestParseChallengesIsLinear: attacks on the parser's time and memory.
func TestParseChallengesIsLinear(t *testing.T) {
	t.Parallel()
	for name, unit := range map[string]string{
		"schemes": "a,", "parameters": "a=b,", "spaces": " ", "open quotes": `a="`, "escapes": `\"`,
		"tokens": "a", "equals": "=", "challenges": `a b="c", `, "commas": ",",
	} {
		for _, start := range []string{"", "Bearer ", `Bearer a="`} {
			field := start + strings.Repeat(unit, maxChallengeField/len(unit)+1)
			begun := time.Now()
			challenges, _ := parseChallenges(field[:maxChallengeField])
			if d := time.Since(begun); d > time.Second {
				t.Errorf("%s after %q took %v", name, start, d)
			}
			if len(challenges) > maxChallenges {
				t.Errorf("%s after %q: %d challenges", name, start, len(challenges))
			}
			if got, whole := parseChallenges(field + strings.Repeat(unit, 10)); len(field) >= maxChallengeField && (got != nil || whole) {
				t.Errorf("%s after %q: a field beyond the limit is parsed", name, start)
			}
		}
	}
}

// TestRefused: which 401 names the token. PX-02, PX-04, PX-05, B214.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name               string
		fields             []string
		token, any401, bad bool // healed by default, with HealAny401, with HealBare401
	}{
		{"invalid_token", []string{`Bearer error="invalid_token"`}, true, true, true},
		{"second field", []string{`Basic realm="x"`, `bearer ERROR=invalid_token`}, true, true, true},
		{"second challenge", []string{`Basic realm="a, b", BEARER Error="invalid_token"`}, true, true, true},
		{"DPoP", []string{`DPoP error="invalid_token", algs="ES256"`}, true, true, true},
		{"before nonsense", []string{`Bearer error="invalid_token", @`}, true, true, true},
		{"none", nil, false, true, true},
		{"empty", []string{""}, false, true, true},
		{"Basic", []string{`Basic realm="x"`}, false, true, true},
		{"bare Bearer", []string{`Bearer`}, false, true, true},
		{"Bearer with realm", []string{`Bearer realm="x"`}, false, true, true},
		{"other error", []string{`Bearer error="invalid_request"`}, false, true, false},
		{"insufficient_scope", []string{`Bearer error="insufficient_scope"`}, false, false, false},
		{"insufficient_scope and Basic", []string{`Basic realm="x"`, `Bearer error="insufficient_scope", scope="a"`}, false, false, false},
		{"insufficient_user_authentication", []string{`DPoP error="insufficient_user_authentication", acr_values="gold"`}, false, false, false},
		{"use_dpop_nonce", []string{`DPoP error="use_dpop_nonce"`}, false, false, false},
		{"invalid_dpop_proof", []string{`dpop algs="ES256", error="invalid_dpop_proof"`}, false, false, false},
		{"both", []string{`DPoP error="use_dpop_nonce"`, `Bearer error="invalid_token"`}, true, true, true},
		{"in a description", []string{`Bearer error_description="error=\"invalid_token\""`}, false, true, true},
		{"in a realm", []string{`Basic realm="Bearer error=invalid_token"`}, false, true, true},
		{"of another scheme", []string{`Session error="invalid_token"`}, false, true, true},
	} {
		h := http.Header{"Www-Authenticate": tt.fields}
		for _, g := range []struct {
			grant Grant
			want  bool
		}{{Grant{}, tt.token}, {Grant{HealAny401: true}, tt.any401}, {Grant{HealBare401: true}, tt.bad}} {
			if got := g.grant.refused(h); got != g.want {
				t.Errorf("%s, any %t, bare %t: %t, want %t", tt.name, g.grant.HealAny401, g.grant.HealBare401, got, g.want)
			}
		}
	}
}

// TestStripChallenges: no password dialogue, nothing about the authorization
// server; other schemes stay as they are. PX-12.
func TestStripChallenges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		have, want []string
	}{
		{"none", nil, nil},
		{"ours", []string{`Bearer realm="https://as.example.com", error="invalid_token"`, "Basic", `negotiate YII=`, `DPOP algs="ES256"`}, nil},
		{"foreign, byte for byte", []string{`Foo  a="b,c" ,d=e`}, []string{`Foo  a="b,c" ,d=e`}},
		{"mixed", []string{`Basic realm="a, b", Foo a="b, c", Bearer x=y, Bar`, "Bearer"}, []string{`Foo a="b, c", Bar`}},
		{"hidden in a quoted string", []string{`Foo a="x, Basic y=z"`}, []string{`Foo a="x, Basic y=z"`}},
		{"not understood", []string{`Foo a="x`, `Foo a=b`}, []string{`Foo a=b`}},
		{"empty", []string{"", " , "}, nil},
	} {
		h := http.Header{}
		if tt.have != nil {
			h["Www-Authenticate"] = tt.have
		}
		stripChallenges(h)
		if got := h["Www-Authenticate"]; !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// FuzzParseChallenges: nothing that is parsed is made up, what is kept parses
// again to the same, and nothing hidden gets through.
func FuzzParseChallenges(f *testing.F) {
	for _, field := range []string{
		`Basic realm="a, b", BEARER Error="invalid_token"`, `Negotiate YII==, Foo a=b`, `Bearer error="inv\"alid`, `,a, b c = "d"`,
	} {
		f.Add(field)
	}
	f.Fuzz(func(t *testing.T, field string) {
		challenges, whole := parseChallenges(field)
		for i := range challenges {
			c := &challenges[i]
			if c.scheme == "" || !strings.HasPrefix(c.text, c.scheme) || !strings.Contains(field, c.text) {
				t.Fatalf("made up: %+v", *c)
			}
			if !whole {
				continue
			}
			again, ok := parseChallenges(c.text)
			if !ok || len(again) != 1 || describe(again, true) != describe(challenges[i:i+1], true) {
				t.Fatalf("%q parses to %s", c.text, describe(again, ok))
			}
		}
		h := http.Header{"Www-Authenticate": {field}}
		stripChallenges(h)
		for _, kept := range h["Www-Authenticate"] {
			challenges, whole := parseChallenges(kept)
			if !whole || len(challenges) == 0 {
				t.Fatalf("kept %q", kept)
			}
			for i := range challenges {
				if challenges[i].hidden() {
					t.Fatalf("kept %q", kept)
				}
			}
		}
	})
}
