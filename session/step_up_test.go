// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// seal makes a step-up request for the browser's session.
func (b *bench) seal(br browser, u *session.StepUp) (string, error) {
	b.t.Helper()
	s, err := b.open(br)
	if err != nil {
		b.t.Fatal(err)
	}
	return s.SealStepUp(b.t.Context(), u)
}

// SU-04: a request is good for the session that it was sealed for, on every instance,
// for ten minutes; nothing else opens.
func TestSealedStepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, levels())
		alice, other := browser{}, browser{}
		a.login(alice)
		a.login(other)
		age := 5 * time.Minute
		wanted := &session.StepUp{ACRValues: []string{"gold", "silver"}, MaxAge: &age, Scope: []string{"orders"}}
		sealed, err := a.seal(alice, wanted)
		if err != nil {
			t.Fatal(err)
		}
		opens := func(br browser, request string) bool {
			t.Helper()
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.OpenStepUp(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			return got != nil && slices.Equal(got.ACRValues, wanted.ACRValues) && *got.MaxAge == age && slices.Equal(got.Scope, wanted.Scope)
		}
		if strings.Contains(sealed, "orders") || !opens(alice, sealed) {
			t.Error("it does not open")
		}
		flipped := []byte(sealed)
		if flipped[30]++; flipped[30] > 'y' {
			flipped[30] = 'a'
		}
		for name, request := range map[string]string{"empty": "", "made up": "AAAA", "changed": string(flipped), "cut": sealed[:len(sealed)-4], "no base64": "!" + sealed} {
			if opens(alice, request) {
				t.Errorf("%s: it opens", name)
			}
		}
		if opens(other, sealed) {
			t.Error("it opens in another session of the same user")
		}
		time.Sleep(10*time.Minute - time.Second)
		if !opens(alice, sealed) {
			t.Error("it does not open after ten minutes")
		}
		time.Sleep(2 * time.Second)
		if opens(alice, sealed) {
			t.Error("it opens after more than ten minutes")
		}
		again, err := a.seal(alice, wanted)
		if err != nil {
			t.Fatal(err)
		}
		a.stepUp(alice, gold())
		if opens(alice, again) {
			t.Error("it opens when the session has been stepped up")
		}
	})
}

// SU-02: what a login has brought is not asked for again, and what it has not brought is.
func TestSteppedUp(t *testing.T) {
	age := func(d time.Duration) *time.Duration { return &d }
	for i, tc := range []struct {
		been, asked session.StepUp
		after       time.Duration
		done        bool
	}{
		{session.StepUp{ACRValues: []string{"gold"}}, session.StepUp{ACRValues: []string{"gold"}}, 0, true},
		{session.StepUp{ACRValues: []string{"gold"}}, session.StepUp{ACRValues: []string{"x", "gold"}}, 25 * time.Minute, true},
		{session.StepUp{ACRValues: []string{"gold"}}, session.StepUp{ACRValues: []string{"x"}}, 0, false},
		{session.StepUp{ACRValues: []string{"gold", "x"}}, session.StepUp{ACRValues: []string{"gold"}}, 0, false},
		{session.StepUp{ACRValues: []string{"gold"}}, session.StepUp{ACRValues: []string{"gold"}, MaxAge: age(time.Hour)}, 0, false},
		{session.StepUp{MaxAge: age(0)}, session.StepUp{MaxAge: age(0)}, 59 * time.Second, true},
		{session.StepUp{MaxAge: age(0)}, session.StepUp{MaxAge: age(0)}, 61 * time.Second, false},
		{session.StepUp{MaxAge: age(5 * time.Minute)}, session.StepUp{MaxAge: age(5 * time.Minute)}, 4 * time.Minute, true},
		{session.StepUp{MaxAge: age(5 * time.Minute)}, session.StepUp{MaxAge: age(5 * time.Minute)}, 6 * time.Minute, false},
		{session.StepUp{MaxAge: age(5 * time.Minute)}, session.StepUp{MaxAge: age(time.Minute)}, 0, false},
		{session.StepUp{MaxAge: age(time.Minute)}, session.StepUp{MaxAge: age(5 * time.Minute)}, 4 * time.Minute, true},
		{session.StepUp{Scope: []string{"a", "b"}}, session.StepUp{Scope: []string{"b"}}, time.Minute, true},
		{session.StepUp{Scope: []string{"a"}}, session.StepUp{Scope: []string{"a", "b"}}, 0, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, levels())
			br := browser{}
			b.login(br)
			if _, err := b.seal(br, &tc.asked); err != nil {
				t.Errorf("%d: before the step-up: %v", i, err)
			}
			b.stepUp(br, &tc.been)
			time.Sleep(tc.after)
			if _, err := b.seal(br, &tc.asked); errors.Is(err, session.ErrSteppedUp) != tc.done {
				t.Errorf("%d: %v", i, err)
			}
			if _, err := newInstance(t, b.as, b.store).seal(br, &tc.asked); errors.Is(err, session.ErrSteppedUp) != tc.done {
				t.Errorf("%d, on another instance: %v", i, err)
			}
		})
	}
	// Two upstreams that ask by turns.
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		for n := range 4 {
			b.stepUp(br, &session.StepUp{Scope: []string{fmt.Sprint("scope", n)}})
		}
		for n := range 4 {
			if _, err := b.seal(br, &session.StepUp{Scope: []string{fmt.Sprint("scope", n)}}); !errors.Is(err, session.ErrSteppedUp) {
				t.Errorf("scope%d: %v", n, err)
			}
		}
	})
}

// SU-01, SU-04: the request has what is asked for, and no less than what is configured.
func TestRequestOfAStepUp(t *testing.T) {
	b := newBench(t, levels())
	br := browser{}
	b.login(br)
	s, err := b.open(br)
	if err != nil {
		t.Fatal(err)
	}
	age := 5 * time.Minute
	for _, tc := range []struct{ configured, want string }{{"60", "60"}, {"3600", "300"}, {"", "300"}} {
		params := url.Values{"prompt": {"login"}, "acr_values": {"pwd"}}
		if tc.configured != "" {
			params.Set("max_age", tc.configured)
		}
		before := maps.Clone(params)
		start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{
			RedirectURI: callback, ReturnTo: "/", Params: params, Previous: s, StepUp: &session.StepUp{ACRValues: []string{"gold"}, MaxAge: &age, Scope: []string{"orders"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(start.AuthorizationURL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Get("max_age") != tc.want || q.Get("acr_values") != "gold" || q.Get("prompt") != "login" || q.Get("scope") != "openid profile offline_access orders" {
			t.Errorf("%s: %v", tc.configured, q)
		}
		if !maps.EqualFunc(before, params, slices.Equal[[]string]) {
			t.Error("the caller's parameters were changed")
		}
	}
	// An essential acr goes before acr_values.
	start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{
		RedirectURI: callback, ReturnTo: "/", Previous: s, StepUp: gold(),
		Params: url.Values{"claims": {`{"userinfo":{"email":null},"id_token":{"auth_time":null,"acr":{"essential":true,"value":"pwd"}}}`}},
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(start.AuthorizationURL)
	const claims = `{"id_token":{"acr":{"essential":true,"values":["gold"]},"auth_time":null},"userinfo":{"email":null}}`
	if err != nil || u.Query().Get("claims") != claims {
		t.Errorf("%v: %v", err, u.Query())
	}
	long := &session.StepUp{ACRValues: []string{strings.Repeat("a", 512)}, Scope: []string{strings.Repeat("s", 512)}}
	if _, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("x", 1000), Previous: s, StepUp: long}); err != nil {
		t.Errorf("the largest step-up: %v", err)
	}
	if _, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/" + strings.Repeat("x", 2047), Previous: s, StepUp: long}); !errors.Is(err, session.ErrLoginTooLarge) {
		t.Errorf("beyond the bound: %v", err)
	}
}

// SU-03: what does not bring what was asked for makes no session, and leaves the one
// that is there with its tokens.
func TestStepUpThatIsNotReached(t *testing.T) {
	age := time.Minute
	for name, tc := range map[string]struct {
		wanted session.StepUp
		edit   func(*astest.Options)
	}{
		"acr":          {*gold(), func(o *astest.Options) { o.ACRs = []string{"pwd"} }},
		"auth_time":    {session.StepUp{MaxAge: &age}, func(o *astest.Options) { o.Claims = map[string]any{"auth_time": 1000} }},
		"no auth_time": {session.StepUp{MaxAge: &age}, func(o *astest.Options) { o.Claims = map[string]any{"auth_time": nil} }},
		"scope":        {session.StepUp{Scope: []string{"orders"}}, func(o *astest.Options) { o.Scope = "openid offline_access" }},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, levels())
			br := browser{}
			before := b.login(br)
			token := b.mustToken(br)
			b.as.Configure(tc.edit)
			_, err := b.finish(br, b.beginStepUp(br, &tc.wanted))
			if e := wantKind(t, err, session.LoginInsufficient); e.StepUp == nil || e.ReturnTo != "/home" {
				t.Errorf("%s: %+v", name, e)
			}
			s, err := b.open(br)
			if err != nil || s.ID() != before.ID() || b.mustToken(br) != token {
				t.Errorf("%s: the session is another one: %v", name, err)
			}
			time.Sleep(time.Second)
			if n := len(b.revoked("refresh_token")); n != 0 {
				t.Errorf("%s: %d revocations", name, n)
			}
			if got := b.tally.of("login")["failed"]; got != 1 {
				t.Errorf("%s: %d failed logins were counted", name, got)
			}
		})
	}
}

// SU-02: how long ago the end user has authenticated counts from then, and not from the
// login that told it.
func TestSteppedUpByAnOldAuthentication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		age := time.Hour
		hourly := &session.StepUp{MaxAge: &age}
		b.as.Configure(func(o *astest.Options) {
			o.IDTokenClaims = func(_ string, claims map[string]any) {
				claims["auth_time"] = time.Now().Add(-58 * time.Minute).Unix() // signed in elsewhere, and not asked again
			}
		})
		b.stepUp(br, hourly)
		if _, err := b.seal(br, hourly); !errors.Is(err, session.ErrSteppedUp) {
			t.Errorf("after 58 minutes: %v", err)
		}
		time.Sleep(3 * time.Minute)
		if _, err := b.seal(br, hourly); err != nil {
			t.Errorf("after 61 minutes: %v", err)
		}
	})
}

// SU-02: scope that an earlier step-up has brought, and that the last login did not ask
// for again, can be asked for.
func TestScopeLostBetweenStepUps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := levels()
		o.TokenResponse = func(_ string, body map[string]any) { delete(body, "scope") } // granted as asked (RFC 6749 section 5.1)
		b := newBench(t, o)
		br := browser{}
		b.login(br)
		orders, stock := &session.StepUp{Scope: []string{"orders"}}, &session.StepUp{Scope: []string{"stock"}}
		tab := maps.Clone(br)
		first, second := b.beginStepUp(br, orders), b.beginStepUp(tab, stock)
		maps.Copy(br, tab)
		if _, err := b.finish(br, first); err != nil {
			t.Fatal(err)
		}
		if _, err := b.finish(br, second); err != nil {
			t.Fatal(err)
		}
		if _, err := b.seal(br, stock); !errors.Is(err, session.ErrSteppedUp) {
			t.Errorf("what the last login has brought: %v", err)
		}
		if _, err := b.seal(br, orders); err != nil {
			t.Errorf("what it has not asked for: %v", err)
		}
	})
}
