// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// RF-07, DESIGN 6.8: the answer is lost on the way.
func TestLostAnswer(t *testing.T) {
	t.Run("grace: asked again at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, Rotation: astest.RotateGrace},
				func(c *session.Config) { c.Rotation, c.RotationGrace = session.RotationGrace, 5*time.Second })
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
	t.Run("grace that is over: not while the token lives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Rotation: astest.RotateGrace},
				func(c *session.Config) { c.Rotation, c.RotationGrace = session.RotationGrace, 5*time.Second })
			br := browser{}
			b.login(br)
			time.Sleep(51 * time.Second) // due, whatever the jitter
			silent := astest.Answer{DelayReply: time.Minute, CutReply: true}
			b.as.Script(astest.Token, silent, silent, silent, silent, silent, silent)
			for range 80 {
				b.mustToken(br)
				time.Sleep(100 * time.Millisecond)
			}
			asked := b.as.RefreshRequests()
			if last := asked[len(asked)-1].Time.Sub(asked[0].Time); len(asked) < 2 || last > 5*time.Second {
				t.Errorf("the refresh token was presented %d times, the last time after %v", len(asked), last)
			}
		})
	})
	t.Run("grace: a silent server does not use it up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Rotation: astest.RotateGrace},
				func(c *session.Config) { c.Rotation, c.RotationGrace = session.RotationGrace, 5*time.Second })
			br := browser{}
			b.login(br)
			time.Sleep(time.Minute)
			b.as.Script(astest.Token, astest.Answer{DelayReply: time.Minute, CutReply: true})
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
	t.Run("strict: nor by others, nor after a restart, but for a refusal", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
			br, refused := browser{}, browser{}
			a.login(br)
			a.login(refused)
			time.Sleep(51 * time.Second)                                                       // due, whatever the jitter
			a.as.Script(astest.Token, astest.Answer{CutReply: true}, astest.Answer{Cut: true}) // spent, and not
			a.mustToken(br)
			synctest.Wait()
			tok := a.mustToken(refused)
			synctest.Wait()
			b := newInstance(t, a.as, a.store)
			for range 44 { // up to the last moment
				a.mustToken(br)
				b.mustToken(br)
				b.mustToken(refused)
				time.Sleep(199 * time.Millisecond)
			}
			if n := len(a.as.RefreshRequests()); n != 2 {
				t.Errorf("%d refresh requests while the tokens live", n)
			}
			s, err := b.open(refused)
			if err != nil {
				t.Fatal(err)
			}
			if fresh, err := s.Refresh(t.Context(), tok); err != nil || fresh == tok {
				t.Errorf("the resource server refused the token, which leaves nothing to lose: %v", err)
			}
			a.refreshes(3)
			time.Sleep(time.Second)
			a.ended(br, session.ReasonRefreshToken)
			if n := len(a.as.RefreshRequests()); n != 4 {
				t.Errorf("%d refresh requests", n)
			}
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
				revoked := b.revoked("refresh_token")
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
			b.counted("limit", map[string]int{"record_size": 1})
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
		if wantKind(t, err, session.LoginFailed); !errors.Is(err, session.ErrTooLarge) {
			t.Errorf("the reason is %v", err)
		}
		b.counted("limit", map[string]int{"record_size": 1})
	})
}

// F203: a store whose writes take long is slow, and nothing else.
func TestSlowStore(t *testing.T) {
	for name, exclusive := range map[string]bool{"of one process": true, "shared": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Rotation: astest.RotateGrace}, func(c *session.Config) {
					c.Rotation, c.RotationGrace = session.RotationGrace, 3*time.Second // the shortest lease
				})
				b.store.exclusive = exclusive
				br := browser{}
				b.login(br)
				b.store.onReplace(func(_, _ *session.Record) error {
					time.Sleep(600 * time.Millisecond)
					return nil
				})
				for range 180 {
					b.mustToken(br)
					time.Sleep(time.Second)
				}
				if n := b.as.Refreshes(); n < 3 || n > 4 {
					t.Errorf("%d refreshes in three minutes", n)
				}
			})
		})
	}
}

// What ends a session is revoked with it, also where the refresh token stays the
// same and the answer does not name it.
func TestUnusableAnswerIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Rotation: astest.RotateSame})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) {
			o.IDTokenClaims = func(grant string, claims map[string]any) {
				if grant == "refresh_token" {
					claims["sub"] = "mallory"
				}
			}
		})
		time.Sleep(time.Minute)
		b.ended(br, session.ReasonRefreshToken)
		time.Sleep(time.Second)
		presented, revoked := b.as.RefreshRequests(), b.revoked("refresh_token")
		if len(revoked) != 1 || revoked[0].Token != presented[0].Token || b.as.RefreshTokenLive(revoked[0].Token) {
			t.Errorf("revoked: %d tokens", len(revoked))
		}
	})
}
