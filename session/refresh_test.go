// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// together calls f n times at once and waits.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

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

// F109, RF-05: parallel 401s for the same token cause one refresh, and one that
// comes late, with a token that is not current any more, causes none.
func TestRefusedTokenRefreshesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		refused := b.mustToken(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 100 * time.Millisecond })
		refresh := func() {
			s, err := b.open(br)
			if err != nil {
				t.Error(err)
				return
			}
			tok, err := s.Refresh(t.Context(), refused)
			if err != nil || tok == refused {
				t.Errorf("got the refused token again, or %v", err)
			}
		}
		together(500, func(int) { refresh() })
		b.refreshes(1)
		time.Sleep(time.Second)
		refresh()
		b.refreshes(1)
	})
}

// B213, PX-06: a resource server that refuses every token cannot drive the
// refreshes; and one whose replay is accepted is healed each time.
func TestForcedRefreshesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		b.login(br)
		force := func() error {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			tok, err := s.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Refresh(t.Context(), tok)
			return err
		}
		for range 300 {
			if err := force(); err != nil && !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(b.as.RefreshRequests()); n < 2 || n > 4 {
			t.Errorf("%d refreshes in 30 s of refusals", n)
		}
		time.Sleep(time.Minute)
		b.as.ForgetRequests()
		for range 10 {
			if err := force(); err != nil {
				t.Fatal(err)
			}
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			s.Accepted("")
			time.Sleep(time.Second)
		}
		b.refreshes(10)
	})
}

// RF-06, F401: the authorization server is out. While the token lives nobody
// notices; then it is 503 and the session is kept; soon after its return all is
// well, and it was not stormed.
func TestAuthorizationServerOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.as.ForgetRequests()
		b.as.SetDown(true)
		began := time.Now()
		var unavailable *session.UnavailableError
		for time.Since(began) < 10*time.Minute {
			_, err := b.token(br)
			switch alive := time.Since(began) < time.Minute; {
			case alive && err != nil:
				t.Fatalf("after %v: %v", time.Since(began), err)
			case !alive && !errors.As(err, &unavailable):
				t.Fatalf("after %v: %v", time.Since(began), err)
			case !alive && unavailable.RetryAfter < time.Second:
				t.Fatalf("Retry-After %v", unavailable.RetryAfter)
			}
			time.Sleep(50 * time.Millisecond)
		}
		b.as.SetDown(false)
		began = time.Now()
		for {
			if _, err := b.token(br); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("well again %v after the return", d)
		}
		b.refreshes(1)
	})
}

// F402: Retry-After is honoured.
func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		b.as.Script(astest.Token, astest.Answer{Status: 429, Header: map[string][]string{"Retry-After": {"20"}}})
		for range 19 {
			var unavailable *session.UnavailableError
			if _, err := b.token(br); !errors.As(err, &unavailable) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		b.refreshes(1)
		time.Sleep(2 * time.Second)
		b.mustToken(br)
		b.refreshes(2)
	})
}

// RF-08, A115, F404: a refused client is the operator's trouble.
func TestInvalidClientEndsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.ClientSecret = "rotated" })
		for range 59 {
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		for range 60 {
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		b.as.Configure(func(o *astest.Options) { o.ClientSecret = "secret" })
		time.Sleep(6 * time.Second)
		b.mustToken(br)
		if b.as.ReuseDetections() != 0 {
			t.Error("the refresh token was spent meanwhile")
		}
	})
}

// RF-05, BFF-12: invalid_grant ends the session, once, for all who wait.
func TestInvalidGrantEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 100 * time.Millisecond })
		b.as.RevokeGrants("alice")
		time.Sleep(10 * time.Second)
		together(50, func(int) { b.ended(br, session.ReasonRefreshToken) })
		b.refreshes(1)
		b.ended(br, session.ReasonRefreshToken)
		b.refreshes(1)
		if strings.Contains(b.log.String(), "level=ERROR") {
			t.Error("an ordinary end is no error")
		}
	})
}

// DESIGN 6.8: servers that say "invalid_request", or nothing, of a spent
// refresh token. Nobody is wedged, and one hiccup ends nothing.
func TestOddRefusals(t *testing.T) {
	for name, answer := range map[string]astest.Answer{
		"Dex":       astest.OAuthError(400, "invalid_request"),
		"Glewlwyd":  {Status: 400, Body: " "},
		"forbidden": {Status: 403, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
				wedged, other := browser{}, browser{}
				b.login(wedged)
				b.login(other)
				time.Sleep(10 * time.Second)
				b.as.Script(astest.Token, answer)
				if _, err := b.token(wedged); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatal(err)
				}
				b.mustToken(other)
				time.Sleep(31 * time.Second)
				b.as.Script(astest.Token, answer)
				b.ended(wedged, session.ReasonRefreshToken)
				b.mustToken(other)
			})
		})
	}
	t.Run("alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			bad := astest.Answer{Status: 400, Body: " ", Times: -1}
			b.as.Script(astest.Token, bad)
			for range 2 {
				if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatal(err)
				}
				time.Sleep(31 * time.Second)
			}
			b.ended(br, session.ReasonRefreshToken)
		})
	})
	t.Run("once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			b.as.Script(astest.Token, astest.OAuthError(400, "invalid_request"))
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(31 * time.Second)
			b.mustToken(br)
		})
	})
}

// RF-07, DESIGN 6.8: the answer is lost on the way.
func TestLostAnswer(t *testing.T) {
	t.Run("grace: asked again at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, Rotation: astest.RotateGrace},
				func(c *session.Config) { c.Rotation = session.RotationGrace })
			br := browser{}
			b.login(br)
			time.Sleep(9500 * time.Millisecond)
			b.as.Script(astest.Token, astest.Answer{CutReply: true})
			b.mustToken(br)
			synctest.Wait()
			time.Sleep(time.Second)
			b.mustToken(br)
			b.refreshes(2)
		})
	})
	t.Run("strict: not while the token lives, then once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(9 * time.Second)
			b.as.Script(astest.Token, astest.Answer{Cut: true}) // before it acted
			b.mustToken(br)
			synctest.Wait()
			b.refreshes(1)
			time.Sleep(2 * time.Second)
			b.mustToken(br)
			b.refreshes(2)
		})
	})
	t.Run("strict and really spent: a clean end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			b.as.Script(astest.Token, astest.Answer{CutReply: true})
			b.ended(br, session.ReasonRefreshToken)
			if n := len(b.as.RefreshRequests()); n != 2 {
				t.Errorf("%d refresh requests", n)
			}
		})
	})
	t.Run("nothing was sent: no harm", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			b.as.SetDown(true)
			if _, err := b.token(br); err == nil {
				t.Fatal("got a token from nowhere")
			}
			b.as.SetDown(false)
			time.Sleep(2 * time.Second)
			b.mustToken(br)
			b.refreshes(1)
		})
	})
}

// RF-14, F108, A414: logout at each step of a refresh is final, and what the
// refresh obtained is revoked.
func TestLogoutDuringRefresh(t *testing.T) {
	for name, tc := range map[string]struct {
		answer      astest.Answer
		revocations int
	}{
		"before the server acts": {astest.Answer{Delay: time.Second}, 1},
		"after it has acted":     {astest.Answer{DelayReply: time.Second}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
				br := browser{}
				s := b.login(br)
				b.as.Script(astest.Token, tc.answer)
				time.Sleep(10 * time.Second)
				done := make(chan error)
				go func() {
					_, err := b.token(br)
					done <- err
				}()
				synctest.Wait()
				if _, err := s.Logout(t.Context()); err != nil {
					t.Fatal(err)
				}
				var ended *session.EndedError
				if err := <-done; !errors.As(err, &ended) || ended.Reason != session.ReasonLoggedOut {
					t.Errorf("the waiter got %v", err)
				}
				b.ended(br, session.ReasonLoggedOut)
				time.Sleep(5 * time.Second)
				revoked := b.as.Requests(astest.Revoke)
				if len(revoked) != tc.revocations {
					t.Errorf("%d revocations, want %d", len(revoked), tc.revocations)
				}
				for _, r := range append(b.as.RefreshRequests(), revoked...) {
					if b.as.RefreshTokenLive(r.Token) {
						t.Error("a refresh token is alive")
					}
				}
			})
		})
	}
}

// RF-01, RF-15, TK-11: the store fails between the answer and the commit. The
// tokens are not lost, and the refresh token is not presented again.
func TestStoreFailsAtCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		failures := 0
		b.store.onReplace(func(old, next *session.Record) error {
			if next.Gen > old.Gen && failures < 20 {
				failures++
				return session.ErrStoreUnavailable
			}
			return nil
		})
		if _, err := b.token(br); err == nil {
			t.Error("got a token that is not stored")
		}
		time.Sleep(time.Minute)
		b.mustToken(br)
		if failures != 20 {
			t.Errorf("%d commits failed", failures)
		}
		b.refreshes(2) // the stored one has run out meanwhile; no token was used twice
	})
}

// DESIGN 6.3: no permission of the store, no call.
func TestNoCallWithoutIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		b.store.onReplace(func(_, _ *session.Record) error { return errors.New("disk full") })
		for range 10 {
			if _, err := b.token(br); !errors.Is(err, session.ErrStoreUnavailable) {
				t.Fatal(err)
			}
		}
		b.refreshes(0)
		b.store.onReplace(nil)
		b.mustToken(br)
		b.refreshes(1)
	})
}

// F303 without Caddy: the managers of two configurations share the flight.
func TestReloadSharesTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = time.Second })
		time.Sleep(10 * time.Second)
		old := b.m
		next := b.manager()
		together(100, func(i int) {
			m := old
			if i%2 == 0 {
				m = next
			}
			s, err := m.Open(t.Context(), m.Site(origin), br.request())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Token(t.Context()); err != nil {
				t.Error(err)
			}
		})
		b.refreshes(1)
	})
}

// F301: the process died while it refreshed. With a store of one process the
// attempt is known to be dead.
func TestCrashDuringRefresh(t *testing.T) {
	for name, cut := range map[string]astest.Answer{"before the server acted": {Cut: true}, "grace": {CutReply: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, Rotation: astest.RotateGrace})
				br := browser{}
				b.login(br)
				time.Sleep(9 * time.Second)
				// The process "dies" as soon as the request is out: nothing
				// that it does afterwards reaches the store.
				b.as.Script(astest.Token, cut)
				b.store.onReplace(func(old, _ *session.Record) error {
					if old.Attempt != nil {
						return errors.New("dead")
					}
					return nil
				})
				b.mustToken(br)
				synctest.Wait()
				b.store.onReplace(nil)
				after := newInstance(t, b.as, b.store)
				time.Sleep(time.Second)
				after.mustToken(br)
				if n := len(b.as.RefreshRequests()); n != 2 {
					t.Errorf("%d refresh requests", n)
				}
				if !strings.Contains(after.log.String(), "taking over") {
					t.Error("the takeover is not in the log")
				}
			})
		})
	}
}

// RF-03, F103, F105: two instances on one store refresh once, however slow the
// server; and the attempt of a dead one is taken over after a standing lease.
func TestTwoInstances(t *testing.T) {
	for _, latency := range []time.Duration{100 * time.Millisecond, 9 * time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
				a.store.exclusive = false
				b := newInstance(t, a.as, a.store)
				br := browser{}
				a.login(br)
				time.Sleep(time.Minute)
				a.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = latency })
				together(200, func(i int) {
					if _, err := []*bench{a, b}[i%2].token(br); err != nil {
						t.Error(err)
					}
				})
				a.refreshes(1)
			})
		})
	}
	t.Run("one dies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
			a.store.exclusive = false
			br := browser{}
			a.login(br)
			dying := &faultyStore{Store: a.store.Store}
			dead := newInstance(t, a.as, dying)
			a.as.Script(astest.Token, astest.Answer{Cut: true})
			dying.onReplace(func(old, _ *session.Record) error {
				if old.Attempt != nil {
					return errors.New("dead")
				}
				return nil
			})
			time.Sleep(59 * time.Second)
			dead.mustToken(br)
			synctest.Wait()
			time.Sleep(2 * time.Second)
			began := time.Now()
			for {
				if _, err := a.token(br); err == nil {
					break
				}
			}
			if d := time.Since(began); d < 15*time.Second || d > 17*time.Second {
				t.Errorf("taken over after %v", d)
			}
			if n := len(a.as.RefreshRequests()); n != 2 {
				t.Errorf("%d refresh requests", n)
			}
		})
	})
}

// C311, ID-18: a refresh that brings somebody else's ID token.
func TestSubjectChangedAtRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, IDTokenClaims: func(grant string, c map[string]any) {
			if grant == "refresh_token" {
				c["sub"] = "mallory"
			}
		}})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		b.ended(br, session.ReasonRefreshToken)
		time.Sleep(time.Second)
		if b.as.Count(astest.Revoke) == 0 {
			t.Error("the tokens of somebody else were kept alive")
		}
	})
}

// ID-19 and claims: a refresh brings new claims, or none.
func TestForceRefreshSeesNewClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Claims: map[string]any{"name": "Alice"}})
		br := browser{}
		b.login(br)
		force := func() (*session.Refreshed, error) {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			return s.ForceRefresh(t.Context())
		}
		if got, err := force(); err != nil || got.ClaimsChanged || got.AccessTokenExpiry.IsZero() {
			t.Errorf("got %+v, %v", got, err)
		}
		var limited *session.RateLimitedError
		if _, err := force(); !errors.As(err, &limited) || limited.RetryAfter <= 0 || limited.RetryAfter > 10*time.Second {
			t.Errorf("twice in ten seconds: %v", err)
		}
		b.as.Configure(func(o *astest.Options) { o.Claims = map[string]any{"roles": []string{"admin"}} })
		time.Sleep(10 * time.Second)
		if got, err := force(); err != nil || !got.ClaimsChanged {
			t.Errorf("got %+v, %v", got, err)
		}
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if s.Claims()["name"] == nil || s.Claims()["roles"] == nil {
			t.Errorf("claims %v", s.Claims())
		}
		b.as.Configure(func(o *astest.Options) { o.NoRefreshedIDToken = true })
		time.Sleep(10 * time.Second)
		if got, err := force(); err != nil || got.ClaimsChanged {
			t.Errorf("got %+v, %v", got, err)
		}
		s, err = b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if ended, err := s.Logout(t.Context()); err != nil || ended.IDToken == "" || ended.Subject != "alice" {
			t.Errorf("after a refresh without an ID token: %v, %v", ended, err)
		}
	})
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

// H105: claims, or tokens, that grow beyond what a record takes.
func TestTokensTooLargeToStore(t *testing.T) {
	t.Run("claims", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			b.as.Configure(func(o *astest.Options) { o.Claims = map[string]any{"groups": strings.Repeat("x", 40<<10)} })
			time.Sleep(10 * time.Second)
			b.mustToken(br)
			s, err := b.open(br)
			if err != nil || s.Claims()["groups"] != nil || s.Claims()["sub"] != "alice" {
				t.Errorf("claims %v, %v", s, err)
			}
			time.Sleep(10 * time.Second)
			b.mustToken(br)
			b.refreshes(2)
		})
	})
	t.Run("access token", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			b.as.Configure(func(o *astest.Options) {
				o.AccessTokenClaims = func(_, c map[string]any) { c["groups"] = strings.Repeat("x", 60<<10) }
			})
			time.Sleep(10 * time.Second)
			b.ended(br, session.ReasonRefreshToken)
		})
	})
	t.Run("at login", func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenClaims: func(_, c map[string]any) { c["groups"] = strings.Repeat("x", 60<<10) }})
		br := browser{}
		_, err := b.finish(br, b.begin(br))
		wantKind(t, err, session.LoginFailed)
	})
}
