// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// hangingStore gives no answer to loads while it is told not to.
type hangingStore struct {
	*faultyStore
	hang atomic.Bool
}

func (h *hangingStore) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if h.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.faultyStore.Load(ctx, key)
}

// Every refresh is counted once, by what became of it: which were recovered
// after a death or a lost answer, which sessions were lost, and why (G4).
func TestRefreshesAreCounted(t *testing.T) {
	const life = 10 * time.Second
	grace := func(c *session.Config) { c.Rotation, c.RotationGrace = session.RotationGrace, 5*time.Second }
	expired := func(b *bench) { time.Sleep(life) }
	die := func(b *bench, br browser) { // what the process does after its intent reaches the store no more
		b.store.onReplace(func(old, _ *session.Record) error {
			if old.Attempt != nil {
				return errors.New("dead")
			}
			return nil
		})
		b.token(br) //nolint:errcheck // it dies
		synctest.Wait()
		b.store.onReplace(nil)
	}
	for name, tc := range map[string]struct {
		options astest.Options
		edit    func(*session.Config)
		run     func(b *bench, br browser) *bench // gives the instance to look at
		want    map[string]int
		asked   int // refreshes in which the authorization server was asked
		ends    map[string]int
	}{
		"by expiry, early, by a challenge, on request": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				tok := b.mustToken(br)
				if _, err := mustOpen(b.t.(*testing.T), b, br).Refresh(b.t.Context(), tok); err != nil {
					b.t.Error(err)
				}
				if _, err := mustOpen(b.t.(*testing.T), b, br).ForceRefresh(b.t.Context()); err != nil {
					b.t.Error(err)
				}
				time.Sleep(9500 * time.Millisecond)
				b.mustToken(br)
				return b
			},
			want:  map[string]int{"expiry ok": 1, "challenge ok": 1, "request ok": 1, "early ok": 1},
			asked: 4,
		},
		"an answer that was lost, within the grace period": {
			options: astest.Options{Rotation: astest.RotateGrace}, edit: grace,
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.as.Script(astest.Token, astest.Answer{CutReply: true})
				b.mustToken(br)
				return b
			},
			want: map[string]int{"expiry recovered_unanswered": 1}, asked: 1,
		},
		"an answer that was lost, and strict rotation": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.as.Script(astest.Token, astest.Answer{CutReply: true})
				b.ended(br, session.ReasonRefreshToken)
				return b
			},
			want: map[string]int{"expiry lost_unanswered": 1}, asked: 1, ends: map[string]int{"refresh_token": 1},
		},
		"an answer that was lost, held until there is nothing to lose": {
			run: func(b *bench, br browser) *bench {
				time.Sleep(9 * time.Second)
				b.as.Script(astest.Token, astest.Answer{Cut: true})
				b.mustToken(br)
				synctest.Wait()
				other := newInstance(b.t, b.as, b.store)
				other.mustToken(br)
				synctest.Wait()
				other.counted("refresh", map[string]int{"early held": 1})
				time.Sleep(time.Second)
				b.mustToken(br)
				return b
			},
			want: map[string]int{"early unanswered": 1, "expiry recovered_unanswered": 1}, asked: 2,
		},
		"a death, within the grace period": {
			options: astest.Options{Rotation: astest.RotateGrace},
			run: func(b *bench, br browser) *bench {
				time.Sleep(9 * time.Second)
				b.as.Script(astest.Token, astest.Answer{CutReply: true})
				die(b, br)
				next := newInstance(b.t, b.as, b.store)
				time.Sleep(time.Second)
				next.mustToken(br)
				return next
			},
			want: map[string]int{"expiry recovered_takeover": 1}, asked: 1,
		},
		"a death, and strict rotation": {
			run: func(b *bench, br browser) *bench {
				time.Sleep(9 * time.Second)
				b.as.Script(astest.Token, astest.Answer{CutReply: true})
				die(b, br)
				next := newInstance(b.t, b.as, b.store)
				time.Sleep(time.Second)
				next.ended(br, session.ReasonRefreshToken)
				return next
			},
			want: map[string]int{"expiry lost_takeover": 1}, asked: 1, ends: map[string]int{"refresh_token": 1},
		},
		"a death, and no rotation": {
			options: astest.Options{Rotation: astest.RotateSame}, edit: func(c *session.Config) { c.Rotation = session.RotationNone },
			run: func(b *bench, br browser) *bench {
				time.Sleep(9 * time.Second)
				b.as.Script(astest.Token, astest.Answer{CutReply: true})
				die(b, br)
				next := newInstance(b.t, b.as, b.store, func(c *session.Config) { c.Rotation = session.RotationNone })
				time.Sleep(time.Second)
				b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
				next.ended(br, session.ReasonRefreshToken)
				return next
			},
			want: map[string]int{"expiry session_over": 1}, asked: 1, ends: map[string]int{"refresh_token": 1},
		},
		"invalid_grant": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
				b.ended(br, session.ReasonRefreshToken)
				return b
			},
			want: map[string]int{"expiry session_over": 1}, asked: 1, ends: map[string]int{"refresh_token": 1},
		},
		"another instance was faster": {
			run: func(b *bench, br browser) *bench {
				b.store.exclusive = false
				other := newInstance(b.t, b.as, b.store)
				expired(b)
				b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = time.Second })
				done := make(chan struct{})
				go func() {
					defer close(done)
					b.mustToken(br)
				}()
				synctest.Wait()
				other.mustToken(br)
				<-done
				return other
			},
			want: map[string]int{"expiry elsewhere": 1},
		},
		"another instance was faster with the commit": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
				done := make(chan struct{})
				go func() {
					defer close(done)
					b.mustToken(br)
				}()
				synctest.Wait()
				// Tokens of another answer get there first.
				other := newInstance(b.t, b.as, &faultyStore{Store: b.store.Store, exclusive: true}) // takes it for dead
				b.as.Configure(func(o *astest.Options) { o.Rotation = astest.RotateGrace })
				other.mustToken(br)
				<-done
				return b
			},
			want: map[string]int{"expiry superseded": 1}, asked: 1,
		},
		"the acknowledgement of the commit was lost": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				lost := false
				b.store.onReplace(func(old, next *session.Record) error {
					if next.Gen > old.Gen && !lost {
						lost = true
						if err := b.store.Store.Replace(context.Background(), old, next); err != nil {
							return err
						}
						return session.ErrStoreUnavailable
					}
					return nil
				})
				b.mustToken(br)
				time.Sleep(time.Second)
				return b
			},
			want: map[string]int{"expiry ok": 1}, asked: 1,
		},
		"signed out meanwhile": {
			run: func(b *bench, br browser) *bench {
				s := mustOpen(b.t.(*testing.T), b, br)
				expired(b)
				b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
				done := make(chan struct{})
				go func() {
					defer close(done)
					b.token(br) //nolint:errcheck // it is over
				}()
				synctest.Wait()
				if _, err := s.Logout(b.t.Context()); err != nil {
					b.t.Error(err)
				}
				<-done
				time.Sleep(5 * time.Second)
				return b
			},
			want: map[string]int{"expiry ended": 1}, asked: 1, ends: map[string]int{"logged_out": 1},
		},
		"refused answers and outages": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				for _, a := range []astest.Answer{
					astest.OAuthError(401, "invalid_client"), astest.OAuthError(400, "invalid_request"), {Status: 503},
				} {
					b.as.Script(astest.Token, a)
					b.token(br)                  //nolint:errcheck // counted below
					time.Sleep(31 * time.Second) // after every pause
				}
				b.as.SetDown(true)
				b.token(br) //nolint:errcheck // counted below
				b.as.SetDown(false)
				time.Sleep(31 * time.Second)
				b.mustToken(br)
				return b
			},
			want:  map[string]int{"expiry configuration": 1, "expiry refused": 1, "expiry outage": 1, "expiry not_sent": 1, "expiry ok": 1},
			asked: 5,
		},
		"one upstream gets no token": {
			run: func(b *bench, br browser) *bench {
				b.as.Script(astest.Token, astest.OAuthError(400, "invalid_target"))
				if _, err := b.tokenFor(br, &session.Purpose{Resource: []string{"https://nobody.test"}}); !errors.Is(err, session.ErrTokenUnavailable) {
					b.t.Error(err)
				}
				return b
			},
			want: map[string]int{"expiry purpose": 1}, asked: 1,
		},
		"the store refuses the intent": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.store.onReplace(func(_, _ *session.Record) error { return errors.New("disk full") })
				b.token(br) //nolint:errcheck // counted below
				b.store.onReplace(nil)
				return b
			},
			want: map[string]int{"expiry store": 1},
		},
		"the answer is for somebody else": {
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.as.Configure(func(o *astest.Options) {
					o.IDTokenClaims = func(_ string, c map[string]any) { c["sub"] = "mallory" }
				})
				b.ended(br, session.ReasonRefreshToken)
				return b
			},
			want: map[string]int{"expiry unusable": 1}, asked: 1, ends: map[string]int{"refresh_token": 1},
		},
		"the store never takes them": {
			edit: func(c *session.Config) { c.Lifetime, c.IdleTimeout = time.Minute, time.Minute },
			run: func(b *bench, br browser) *bench {
				expired(b)
				b.refuseCommits(true)
				b.token(br) //nolint:errcheck // it is served from this process
				time.Sleep(time.Minute)
				b.refuseCommits(false)
				return b
			},
			want: map[string]int{"expiry not_stored": 1}, asked: 1,
		},
		"an attempt that lives and does not end": {
			run: func(b *bench, br browser) *bench {
				b.store.exclusive = false
				owner, other := newInstance(b.t, b.as, b.store), newInstance(b.t, b.as, b.store)
				expired(b)
				b.refuseCommits(true)
				go owner.token(br) //nolint:errcheck // it is served from this process
				time.Sleep(time.Second)
				other.token(br) //nolint:errcheck // counted below
				time.Sleep(2 * time.Minute)
				b.refuseCommits(false)
				time.Sleep(5 * time.Second)
				return other
			},
			want: map[string]int{"expiry postponed": 1},
		},
		"its time is over while the store is asked": {
			run: func(b *bench, br browser) *bench {
				store := &hangingStore{faultyStore: b.store}
				other := newInstance(b.t, b.as, &faultyStore{Store: store})
				other.mustToken(br)
				expired(b)
				b.store.onReplace(func(_, _ *session.Record) error { store.hang.Store(true); return session.ErrConflict })
				other.token(br) //nolint:errcheck // counted below
				time.Sleep(2 * time.Minute)
				store.hang.Store(false)
				b.store.onReplace(nil)
				return other
			},
			want: map[string]int{"expiry postponed": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.options.AccessTokenLifetime = life
				edit := tc.edit
				if edit == nil {
					edit = func(*session.Config) {}
				}
				b := newBench(t, tc.options, edit)
				br := browser{}
				b.login(br)
				b.counted("login", map[string]int{"ok": 1})
				b = tc.run(b, br)
				synctest.Wait()
				b.counted("refresh", tc.want)
				b.counted("end", tc.ends)
				b.tally.mu.Lock()
				defer b.tally.mu.Unlock()
				asked := 0
				for _, d := range b.tally.calls {
					if d >= 0 {
						asked++
					}
				}
				if asked != tc.asked {
					t.Errorf("the authorization server was asked in %d, counted in %d", tc.asked, asked)
				}
			})
		})
	}
}
