// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// printed is what a step-up is in one line.
func printed(s *StepUp) string {
	if s == nil {
		return "-"
	}
	age := "any"
	if s.MaxAge != nil {
		age = s.MaxAge.String()
	}
	return fmt.Sprintf("%s|%s|%s", strings.Join(s.ACRValues, ","), age, strings.Join(s.Scope, ","))
}

// SU-01, SU-04: what is asked for in either scheme is read, and nothing that is not
// exactly what it should be.
func TestStepUpOf(t *testing.T) {
	long := strings.Repeat("x", maxStepUpText)
	for _, tt := range []struct {
		fields []string
		want   string
		named  bool
	}{
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="gold silver", max_age="300"`}, "gold,silver|5m0s|", true},
		{[]string{`DPoP algs="ES256", error="insufficient_user_authentication", max_age=5`}, "|5s|", true},
		{[]string{`bearer ERROR=insufficient_user_authentication, Max_Age=0, scope="a"`}, "|0s|a", true},
		{[]string{`Basic realm="x", Bearer realm="y", DPoP error="insufficient_scope", scope="orders:write https://api.test/x"`}, "|any|orders:write,https://api.test/x", true},
		{[]string{`Bearer error="insufficient_scope", scope="a a b"`}, "|any|a,b", true},
		{[]string{`Bearer error="insufficient_scope", scope="a", resource_metadata="http://169.254.169.254/"`}, "|any|a", true}, // not fetched
		{[]string{`Bearer error="insufficient_scope"`, `DPoP error="insufficient_scope", scope="a"`}, "|any|a", true},
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="x&redirect_uri=https://evil.test/"`}, "x&redirect_uri=https://evil.test/|any|", true}, // one value
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="` + long + `"`}, long + "|any|", true},

		{[]string{`Bearer error="insufficient_user_authentication"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", scope="a"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", acr_values="gold"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope=""`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a  b"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope=" a"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a\"b"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a\\b"`}, "-", true},
		{[]string{"Bearer error=\"insufficient_scope\", scope=\"a\tb\""}, "-", true},
		{[]string{"Bearer error=\"insufficient_scope\", scope=\"a\x01\""}, "-", true},
		{[]string{"Bearer error=\"insufficient_scope\", scope=\"\u00e9\""}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a", scope="b"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", error="insufficient_scope", scope="b"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a", max_age="-1"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", max_age="+5"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", max_age="5.0"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", max_age="99999999999"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", max_age=""`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="` + long + `x"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="` + strings.Join(strings.Split("abcdefghijklmnopq", ""), " ") + `"`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="gold", max_age="300`}, "-", true},
		{[]string{`Bearer error="insufficient_user_authentication", acr_values="gold" max_age="300"`}, "-", true},
		{[]string{`Bearer error="insufficient_scope", scope="a", Basic realm="`}, "|any|a", true}, // the other one is broken
		{[]string{`Bearer error="invalid_token", acr_values="gold"`}, "-", false},
		{[]string{`Session error="insufficient_scope", scope="a"`}, "-", false},
		{[]string{`Bearer realm="error=insufficient_scope, scope=a"`}, "-", false},
		{nil, "-", false},
	} {
		got, named := stepUpOf(http.Header{"Www-Authenticate": tt.fields})
		if printed(got) != tt.want || named != tt.named {
			t.Errorf("%q: %s %t, want %s %t", tt.fields, printed(got), named, tt.want, tt.named)
		}
	}
}

// SU-01, SU-02: the answer of the grant takes the place of the resource server's,
// after one call: no refresh, and no second attempt.
func TestStepUpAnswer(t *testing.T) {
	const challenge = `Bearer error="insufficient_user_authentication", acr_values="gold"`
	for _, tt := range []struct {
		name      string
		status    int
		challenge string
		answered  bool // instead of the resource server
		asked     bool // the grant was
		heal      bool
	}{
		{"401", 401, challenge, true, true, true},
		{"403", 403, `DPoP error="insufficient_scope", scope="a"`, true, true, true},
		{"the grant lets it pass", 401, challenge, false, true, false},
		{"200", 200, challenge, false, false, false},
		{"400", 400, challenge, false, false, false},
		{"not understood", 403, `Bearer error="insufficient_scope"`, false, false, true},
	} {
		source := &generations{}
		calls, asked := 0, false
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			calls++
			return answer(tt.status, "upstream", "WWW-Authenticate", tt.challenge, "X-Upstream", "1"), nil
		})}
		g := &Grant{Source: source, HealAny401: tt.heal, StepUp: func(StepUp) *http.Response {
			asked = true
			if !tt.answered {
				return nil
			}
			return answer(401, "step up", "X-BFF-Error", "step_up_required")
		}}
		req, err := http.NewRequestWithContext(WithGrant(t.Context(), g), "POST", "http://upstream.test/", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("X-BFF-Error") != ""; got != tt.answered || asked != tt.asked || calls != 1 || source.calls != 0 {
			t.Errorf("%s: answered %t, asked %t, %d calls, %d refreshes", tt.name, got, asked, calls, source.calls)
		}
		if tt.answered && resp.Header.Get("X-Upstream") != "" || resp.Request != req && tt.answered {
			t.Errorf("%s: %v", tt.name, resp.Header)
		}
		if !tt.answered && (resp.StatusCode != tt.status || resp.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %d %v", tt.name, resp.StatusCode, resp.Header)
		}
	}
}

// A token that was refused and replaced may turn out not to be enough.
func TestStepUpAfterReplay(t *testing.T) {
	source, calls := &generations{}, 0
	tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		if calls++; calls == 1 {
			return refusal(), nil
		}
		return answer(403, "", "WWW-Authenticate", `Bearer error="insufficient_scope", scope="a"`), nil
	})}
	asked := ""
	g := &Grant{Source: source, StepUp: func(s StepUp) *http.Response {
		asked = printed(&s)
		return answer(401, "")
	}}
	req, err := http.NewRequestWithContext(WithGrant(t.Context(), g), "GET", "http://upstream.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := tr.RoundTrip(req); err != nil || resp.StatusCode != 401 || asked != "|any|a" || calls != 2 {
		t.Errorf("%v %v, asked for %s after %d calls", resp, err, asked, calls)
	}
}

// FuzzStepUp: whatever comes out is within bounds, and can be no more than the words
// of one parameter.
func FuzzStepUp(f *testing.F) {
	f.Add(`Bearer error="insufficient_user_authentication", acr_values="gold silver", max_age="300"`)
	f.Add(`DPoP error=insufficient_scope, scope="a b"`)
	f.Fuzz(func(t *testing.T, field string) {
		s, _ := stepUpOf(http.Header{"Www-Authenticate": {field}})
		if s == nil {
			return
		}
		for _, list := range [][]string{s.ACRValues, s.Scope} {
			text := strings.Join(list, " ")
			if len(list) > maxStepUpList || len(text) > maxStepUpText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
				t.Errorf("%q gives %q", field, list)
			}
		}
		if s.MaxAge != nil && *s.MaxAge < 0 || s.MaxAge == nil && s.ACRValues == nil && s.Scope == nil {
			t.Errorf("%q gives %s", field, printed(s))
		}
	})
}
