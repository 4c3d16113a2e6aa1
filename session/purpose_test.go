// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	ordersURI = "https://orders.test"
	stockURI  = "https://stock.test"
	apiURI    = "https://api.test" // the audience of default tokens
)

var (
	orders     = &session.Purpose{Resource: []string{ordersURI}}
	stock      = &session.Purpose{Resource: []string{stockURI}}
	ordersOnly = &session.Purpose{Scope: []string{"openid"}}
)

// tokenFor does what a request to an upstream does.
func (b *bench) tokenFor(br browser, p *session.Purpose) (string, error) {
	s, err := b.open(br)
	if err != nil {
		return "", err
	}
	return s.For(p).Token(b.t.Context())
}

func (b *bench) mustTokenFor(br browser, p *session.Purpose) string {
	b.t.Helper()
	tok, err := b.tokenFor(br, p)
	if err != nil {
		b.t.Fatalf("for %s: %v", p, err)
	}
	want := apiURI
	switch {
	case p == nil:
	case p.Exchange != nil:
		want = append(slices.Clone(p.Exchange.Audience), append(p.Exchange.Resource, apiURI)...)[0]
	case p.Resource != nil:
		want = p.Resource[0]
	}
	if got := b.as.Audience(tok); !slices.Equal(got, []string{want}) {
		b.t.Fatalf("for %s: a token for %q", p, got)
	}
	return tok
}

// patient lets nobody become idle.
func patient(c *session.Config) { c.IdleTimeout = 12 * time.Hour }

// exchanges counts token exchanges.
func (b *bench) exchanges(want int) {
	b.t.Helper()
	if got := len(b.as.ExchangeRequests()); got != want {
		b.t.Errorf("%d token exchanges, want %d", got, want)
	}
}

// RF-09, TX-05, TX-06, PX-13: a token for each upstream from one rotating refresh
// token, each cached, each with its own expiry.
func TestTokenForEachUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		br := browser{}
		b.login(br)
		byDefault, forOrders := b.mustToken(br), b.mustTokenFor(br, orders)
		b.refreshes(1)
		time.Sleep(30 * time.Minute)
		forStock := b.mustTokenFor(br, stock)
		b.refreshes(2)
		for range 10 {
			if b.mustToken(br) != byDefault || b.mustTokenFor(br, orders) != forOrders || b.mustTokenFor(br, stock) != forStock {
				t.Fatal("a token was replaced without need")
			}
		}
		time.Sleep(30*time.Minute + time.Second) // the first two have run out, the third has not
		if b.mustToken(br) == byDefault || b.mustTokenFor(br, orders) == forOrders || b.mustTokenFor(br, stock) != forStock {
			t.Error("not each by its own expiry")
		}
		b.refreshes(4)
		for i, want := range [][]string{{ordersURI}, {stockURI}, nil, {ordersURI}} {
			if r := b.as.RefreshRequests()[i]; !slices.Equal(r.Form["resource"], want) || r.Form.Has("scope") {
				t.Errorf("refresh %d: %v", i, r.Form)
			}
		}
		// Another process finds them in the record.
		other := newInstance(t, b.as, b.store, patient)
		if other.mustTokenFor(br, stock) != forStock {
			t.Error("not in the record")
		}
		b.refreshes(4)
	})
}

// RF-09: less scope, and the whole of it again for the default token.
func TestTokenWithLessScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		whole := b.as.Scope(b.mustToken(br))
		if got := b.as.Scope(b.mustTokenFor(br, ordersOnly)); got != "openid" || whole == "openid" {
			t.Errorf("scope %q of %q", got, whole)
		}
		time.Sleep(time.Minute)
		if got := b.as.Scope(b.mustToken(br)); got != whole {
			t.Errorf("the default token has %q, had %q", got, whole)
		}
		both := &session.Purpose{Resource: []string{ordersURI}, Scope: []string{"openid"}}
		tok := b.mustTokenFor(br, both)
		if got := b.as.Scope(tok); got != "openid" {
			t.Errorf("scope %q", got)
		}
		same := &session.Purpose{Resource: []string{ordersURI}, Scope: []string{"openid"}}
		if b.mustTokenFor(br, same) != tok {
			t.Error("an equal purpose of another configuration has another token")
		}
		b.refreshes(3)
	})
}

// Due early: nobody waits for the token of one upstream either.
func TestTokenForUpstreamIsRefreshedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.mustTokenFor(br, orders)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = time.Second })
		began, last := time.Now(), ""
		for range 600 {
			before := time.Now()
			last = b.mustTokenFor(br, orders)
			if time.Now() != before {
				t.Fatalf("a request waited, %v after the first", time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if last == "" || b.as.Refreshes() < 10 || b.as.Refreshes() > 30 {
			t.Errorf("%d refreshes", b.as.Refreshes())
		}
		b.refreshes(b.as.Refreshes())
	})
}

// RF-02, TX-06, DESIGN 6.2: one refresh token, so one flight a session, over all
// purposes and instances; the refresh token is never presented twice.
func TestPurposesShareOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Latency: map[string]time.Duration{astest.Token: time.Second}})
		a.store.exclusive = false
		other := newInstance(t, a.as, a.store)
		br := browser{}
		a.login(br)
		purposes := []*session.Purpose{nil, orders, stock, ordersOnly}
		for range 5 {
			time.Sleep(time.Minute)
			a.as.ForgetRequests()
			began := time.Now()
			together(120, func(i int) {
				b := []*bench{a, other}[i%2]
				if _, err := b.tokenFor(br, purposes[i/2%4]); err != nil {
					t.Error(err)
				}
			})
			a.refreshes(4)
			if d := time.Since(began); d > 8*time.Second {
				t.Errorf("took %v", d)
			}
			var end time.Time
			for _, r := range a.as.RefreshRequests() {
				if r.Time.Before(end) {
					t.Error("two refreshes at a time")
				}
				end = r.Done
			}
		}
	})
}

// An upstream that refuses everything pauses itself, and nobody else. PX-06.
func TestUpstreamThatRefusesEverythingPausesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		br := browser{}
		s := b.login(br)
		for range 20 {
			tok, err := s.For(orders).Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.For(orders).Refresh(t.Context(), tok)
		}
		b.refreshes(1 + 2)
		if _, err := s.For(orders).Refresh(t.Context(), b.mustTokenFor(br, orders)); !errors.Is(err, session.ErrTokenUnavailable) {
			t.Errorf("no pause: %v", err)
		}
		// The others heal as ever.
		for _, p := range []*session.Purpose{nil, stock} {
			tok := b.mustTokenFor(br, p)
			if fresh, err := s.For(p).Refresh(t.Context(), tok); err != nil || fresh == tok {
				t.Errorf("for %s: %v", p, err)
			} else {
				s.For(p).Accepted(fresh)
			}
		}
		b.refreshes(1 + 2 + 1 + 2)
		time.Sleep(31 * time.Second)
		tok := b.mustTokenFor(br, orders)
		if fresh, err := s.For(orders).Refresh(t.Context(), tok); err != nil || fresh == tok {
			t.Errorf("after the pause: %v", err)
		}
	})
}

// What is refused has to be the token of that purpose: naming another one
// refreshes nothing.
func TestRefusedTokenOfAnotherUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		byDefault, forOrders := b.mustToken(br), b.mustTokenFor(br, orders)
		for _, refused := range []string{byDefault, "something else", ""} {
			if tok, err := s.For(orders).Refresh(t.Context(), refused); err != nil || tok != forOrders {
				t.Errorf("%q, %v", tok, err)
			}
		}
		if tok, err := s.Refresh(t.Context(), forOrders); err != nil || tok != byDefault {
			t.Errorf("%q, %v", tok, err)
		}
		b.refreshes(1)
	})
}

// TX-04, TX-05: invalid_target, invalid_scope and their kin for one upstream end
// nothing and mean nothing for others.
func TestNoTokenForOneUpstream(t *testing.T) {
	for name, tc := range map[string]struct {
		purpose *session.Purpose
		answer  *astest.Answer
	}{
		"invalid_target":   {purpose: &session.Purpose{Resource: []string{"https://nobody.test"}}},
		"invalid_scope":    {purpose: &session.Purpose{Scope: []string{"admin"}}},
		"consent_required": {orders, &astest.Answer{Status: 400, Body: `{"error":"consent_required"}`, Times: -1}},
		"invalid_request":  {orders, &astest.Answer{Status: 400, Body: `{"error":"invalid_request"}`, Times: -1}},
		"empty 400":        {orders, &astest.Answer{Status: 400, Body: " ", Times: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 5 * time.Minute, Resources: []string{ordersURI, stockURI}})
				br := browser{}
				b.login(br)
				if tc.answer != nil {
					b.as.Script(astest.Token, *tc.answer)
				}
				for range 60 {
					if _, err := b.tokenFor(br, tc.purpose); !errors.Is(err, session.ErrTokenUnavailable) {
						t.Fatalf("got %v", err)
					}
					b.mustToken(br)
					if tc.answer == nil {
						b.mustTokenFor(br, stock)
					}
					time.Sleep(time.Second)
				}
				if n := len(b.as.RefreshRequests()); n < 2 || n > 14 {
					t.Errorf("%d refresh requests in a minute", n)
				}
				b.as.ClearScript(astest.Token)
				time.Sleep(30 * time.Second)
				b.mustTokenFor(br, stock)
				time.Sleep(5 * time.Minute)
				b.mustToken(br)
				if b.as.ReuseDetections() != 0 {
					t.Error("a refresh token was used twice")
				}
			})
		})
	}
}

// The refresh token's end is the session's, whoever finds it out.
func TestRefreshTokenEndsForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		b.as.RevokeGrants("alice")
		var ended *session.EndedError
		if _, err := b.tokenFor(br, orders); !errors.As(err, &ended) || ended.Reason != session.ReasonRefreshToken {
			t.Errorf("got %v", err)
		}
		b.ended(br, session.ReasonRefreshToken)
	})
}

// AT-06, AT-08: a token is judged by the audience of its purpose.
func TestAudienceOfThePurpose(t *testing.T) {
	for name, tc := range map[string]struct {
		validate oauth.ValidateMode
		audience []string
		ignores  bool // the authorization server ignores resource indicators
		ok       bool
	}{
		"jwt":                              {validate: oauth.ValidateJWT, ok: true},
		"jwt, audience of others":          {validate: oauth.ValidateJWT, audience: []string{apiURI}, ok: true},
		"jwt, ignored":                     {validate: oauth.ValidateJWT, ignores: true},
		"jwt, ignored, audience of all":    {validate: oauth.ValidateJWT, ignores: true, audience: []string{apiURI}},
		"auto":                             {validate: oauth.ValidateAuto, ok: true},
		"auto, ignored, nothing asked":     {validate: oauth.ValidateAuto, ignores: true, ok: true},
		"auto, ignored, audience of all":   {validate: oauth.ValidateAuto, ignores: true, audience: []string{apiURI}},
		"auto, audience of others":         {validate: oauth.ValidateAuto, audience: []string{apiURI}, ok: true},
		"expiry: what is inside is hid":    {validate: oauth.ValidateExpiry, ignores: true, ok: true},
		"auto, scope alone: that of all":   {validate: oauth.ValidateAuto, audience: []string{apiURI}, ok: true},
		"auto, scope alone: another's one": {validate: oauth.ValidateAuto, audience: []string{"https://other.test"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := astest.Options{}
				if tc.ignores {
					o.AccessTokenClaims = func(_, claims map[string]any) { claims["aud"] = apiURI }
				}
				b := newBench(t, o)
				client, err := oauth.New(oauth.Config{
					Issuer: b.as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic", Audience: tc.audience,
					ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: b.as.HTTPClient(),
				})
				if err != nil {
					t.Fatal(err)
				}
				b.m = b.manager(func(c *session.Config) { c.Client, c.Validate = client, tc.validate })
				b.site = b.m.Site(origin)
				br, p := browser{}, orders
				if strings.Contains(name, "scope alone") {
					p = ordersOnly
				}
				b.login(br)
				for range 3 {
					_, err := b.tokenFor(br, p)
					if tc.ok != (err == nil) || err != nil && !errors.Is(err, session.ErrTokenUnavailable) {
						t.Fatalf("got %v", err)
					}
				}
				b.refreshes(1)
				if !tc.ok && !strings.Contains(b.log.String(), "does not pass validation") {
					t.Error("nothing in the log")
				}
			})
		})
	}
}

// What nobody asks for any more leaves the record, and there is a bound.
func TestPurposesLeaveTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		s := b.login(br)
		for i := range 100 {
			b.mustTokenFor(br, &session.Purpose{Resource: []string{fmt.Sprintf("https://%d.test", i)}})
			if n := s.Narrow(t.Context()); n != min(i+1, 16) {
				t.Fatalf("%d tokens after %d upstreams", n, i+1)
			}
			time.Sleep(time.Second)
		}
		b.refreshes(100)
		b.mustTokenFor(br, &session.Purpose{Resource: []string{"https://99.test"}}) // the newest are there
		b.refreshes(100)
		time.Sleep(10 * time.Minute)
		b.mustToken(br)
		if n := s.Narrow(t.Context()); n != 0 {
			t.Errorf("%d tokens that have run out", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 40 * time.Minute, AccessTokenType: "opaque",
			TokenResponse: func(grant string, body map[string]any) {
				if grant == "refresh_token" {
					delete(body, "expires_in")
				}
			}})
		br := browser{}
		s := b.login(br)
		b.mustTokenFor(br, orders)
		if !s.For(orders).ExpiryUnknown() {
			t.Error("the expiry is known")
		}
		time.Sleep(50 * time.Minute)
		s.Touch(t.Context())
		b.mustToken(br)
		if n := s.Narrow(t.Context()); n != 1 {
			t.Errorf("%d tokens within the hour", n)
		}
		time.Sleep(11 * time.Minute)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.Narrow(t.Context()); n != 0 {
			t.Errorf("%d tokens of unknown expiry after an hour", n)
		}
	})
}

// A refresh that the application asks for, to see new rights, is one for all.
func TestForcedRefreshIsForAllUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		forOrders := b.mustTokenFor(br, orders)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.mustTokenFor(br, orders) == forOrders {
			t.Error("the token with the old rights is still sent")
		}
	})
}

// RF-07: while a refresh of one upstream got no answer, nobody presents the refresh
// token without need; the upstream that cannot go on without does, once.
func TestLostAnswerForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		b.login(br)
		b.mustTokenFor(br, orders)
		time.Sleep(9*time.Minute + 30*time.Second) // both are due
		b.as.Script(astest.Token, astest.Answer{Cut: true})
		b.as.ForgetRequests()
		for range 10 {
			b.mustTokenFor(br, orders)
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		if n := len(b.as.RefreshRequests()); n != 1 {
			t.Errorf("%d refresh requests, want the lost one", n)
		}
		time.Sleep(20 * time.Second)
		b.mustTokenFor(br, orders)
		b.mustToken(br)
		b.refreshes(3)
	})
}

// The store fails between the answer and the commit of one upstream's token: this
// process goes on with it, and the others wait with theirs.
func TestStoreFailsAtCommitForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		b.refuseCommits(true)
		tok := b.mustTokenFor(br, orders)
		if b.mustTokenFor(br, orders) != tok {
			t.Error("not the one that is kept")
		}
		b.mustToken(br)
		began := time.Now()
		if _, err := b.tokenFor(br, stock); !errors.Is(err, session.ErrStoreUnavailable) || time.Since(began) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		b.refreshes(1)
		b.refuseCommits(false)
		time.Sleep(3 * time.Second)
		b.mustTokenFor(br, stock)
		b.refreshes(2)
		if newInstance(t, b.as, b.store).mustTokenFor(br, orders) != tok {
			t.Error("not in the record")
		}
	})
}

// RF-14: logout during a refresh for one upstream is final, and revokes what it
// brings.
func TestLogoutDuringRefreshForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
		failed := make(chan error, 1)
		go func() { _, err := s.For(orders).Token(t.Context()); failed <- err }()
		time.Sleep(500 * time.Millisecond)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ended *session.EndedError
		if err := <-failed; !errors.As(err, &ended) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		if n := b.as.Count(astest.Revoke); n != 2 {
			t.Errorf("%d revocations, want those of both refresh tokens", n)
		}
	})
}

// Whatever a token for an upstream weighs, no session ends for it. F206.
func TestTokenForUpstreamIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pad := 0
		b := newBench(t, astest.Options{AccessTokenClaims: func(_, claims map[string]any) {
			claims["pad"] = strings.Repeat("x", pad)
		}})
		br := browser{}
		s := b.login(br)
		pad = 28 << 10
		b.mustTokenFor(br, orders)
		b.mustTokenFor(br, stock) // in place of the first
		if n := s.Narrow(t.Context()); n != 1 {
			t.Errorf("%d tokens", n)
		}
		pad = 48 << 10
		for range 3 {
			if _, err := b.tokenFor(br, &session.Purpose{Resource: []string{"https://fat.test"}}); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatalf("got %v", err)
			}
		}
		b.refreshes(3)
		pad = 0
		b.mustToken(br)
		b.mustTokenFor(br, orders)
		b.refreshes(4)
	})
}
