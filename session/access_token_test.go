// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// RF-02, F101: 200 requests at the moment of expiry, one refresh.
func TestManyRequestsAtExpiryRefreshOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		old := b.mustToken(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 300 * time.Millisecond })
		time.Sleep(10 * time.Second)
		got := make([]string, 200)
		together(200, func(i int) {
			tok, err := b.token(br)
			if err != nil {
				t.Error(err)
			}
			got[i] = tok
		})
		b.refreshes(1)
		for _, tok := range got {
			if tok != got[0] || tok == old {
				t.Fatal("not everybody got the new token")
			}
		}
	})
}

// RF-13, F104: the request that started the refresh hangs up, and so does
// everybody else: the refresh goes on and is stored.
func TestRefreshSurvivesItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 300 * time.Millisecond })
		time.Sleep(10 * time.Second)
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller waits beyond its context: %v", err)
		}
		time.Sleep(time.Second)
		if b.mustToken(br) == "" {
			t.Error("no token")
		}
		b.refreshes(1)
	})
}

// RF-10 and the acceptance of early refresh: the token endpoint takes 1 s,
// tokens live 5 s, and under steady traffic nobody ever waits.
func TestNobodyWaitsForAnEarlyRefresh(t *testing.T) {
	for name, tc := range map[string]struct{ life, latency time.Duration }{
		"slow server":  {5 * time.Second, time.Second},
		"short tokens": {2 * time.Second, 100 * time.Millisecond},
		"long tokens":  {5 * time.Minute, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: tc.life, Latency: map[string]time.Duration{astest.Token: tc.latency}})
				br := browser{}
				b.login(br)
				rounds := 12
				var worst time.Duration
				began := time.Now()
				for time.Since(began) < time.Duration(rounds)*tc.life {
					start := time.Now()
					s, err := b.open(br)
					if err != nil {
						t.Fatal(err)
					}
					s.Touch(t.Context())
					if _, err := s.Token(t.Context()); err != nil {
						t.Fatal(err)
					}
					worst = max(worst, time.Since(start))
					time.Sleep(tc.life / 50)
				}
				if worst != 0 {
					t.Errorf("somebody waited %v", worst)
				}
				n := len(b.as.RefreshRequests())
				if n < rounds-1 || n > 3*rounds {
					t.Errorf("%d refreshes in %d lives of a token", n, rounds)
				}
				b.refreshes(n)
			})
		})
	}
}

// AT-06, RF-06: an authorization server that issues what is not valid is not
// asked in a loop, and nobody is logged out for it.
func TestUnusableAccessTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, func(c *session.Config) { c.Validate = oauth.ValidateJWT })
		br := browser{}
		b.login(br)
		b.mustToken(br)
		b.as.Configure(func(o *astest.Options) {
			o.AccessTokenClaims = func(_, c map[string]any) { c["iss"] = "https://evil.test" }
		})
		time.Sleep(time.Minute)
		for range 100 {
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(b.as.RefreshRequests()); n > 2 {
			t.Errorf("%d refreshes in 10 s", n)
		}
		b.as.Configure(func(o *astest.Options) { o.AccessTokenClaims = nil })
		time.Sleep(11 * time.Second)
		b.mustToken(br)
	})
}

// AT-06, RF-15: the store takes longer for new tokens than they live. That is no
// fault of the tokens: others are got at once, without a pause. Ones that live
// shorter than getting them takes are left alone for a while.
func TestTokensThatRanOutOnTheWayToTheStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		latency time.Duration
		err     error
		calls   int
	}{{"slow store", 0, nil, 2}, {"slow token endpoint as well", 3 * time.Second, session.ErrTokenUnavailable, 1}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 5 * time.Second, AccessTokenType: "opaque"})
			br := browser{}
			b.login(br)
			time.Sleep(5 * time.Second)
			b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = c.latency })
			slow := true
			b.store.onReplace(func(old, next *session.Record) error {
				if next.Gen > old.Gen && slow {
					slow = false
					time.Sleep(6 * time.Second)
				}
				return nil
			})
			if _, err := b.token(br); !errors.Is(err, c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			b.refreshes(c.calls)
		})
	}
}

// AT-05: opaque tokens are judged by their expiry, and an expiry that nobody
// told is unknown, not over.
func TestOpaqueTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenType: "opaque", AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		for range 200 {
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		if n := len(b.as.RefreshRequests()); n < 3 || n > 5 {
			t.Errorf("%d refreshes in 200 s", n)
		}
		if n := strings.Count(b.log.String(), "not JWTs"); n != 1 {
			t.Errorf("said %d times that tokens are opaque", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenType: "opaque", TokenResponse: func(_ string, body map[string]any) { delete(body, "expires_in") }})
		br := browser{}
		s := b.login(br)
		if !s.ExpiryUnknown() {
			t.Error("an expiry from nowhere")
		}
		for range 20 {
			b.mustToken(br)
			time.Sleep(time.Minute)
			s.Touch(t.Context())
		}
		b.refreshes(0)
	})
}
