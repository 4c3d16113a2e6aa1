// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// NS-02, D108: without activity the session ends at the idle timeout, and
// looking at it is no activity.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.IdleTimeout = 10 * time.Minute })
		br := browser{}
		b.login(br)
		for range 59 {
			if _, err := b.open(br); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(10 * time.Second)
		b.ended(br, session.ReasonIdle)
		synctest.Wait()
		b.ended(br, session.ReasonIdle) // now by the tombstone
		time.Sleep(time.Second)
		if len(b.revoked("refresh_token")) != 1 {
			t.Error("the refresh token was not revoked")
		}
	})
}

func TestActivityKeepsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.IdleTimeout = 10 * time.Minute })
		br := browser{}
		b.login(br)
		for range 360 { // an hour
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			s.Touch(t.Context())
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		b.store.mu.Lock()
		writes := b.store.writes
		b.store.mu.Unlock()
		if writes > 70 {
			t.Errorf("last seen was written %d times in an hour", writes)
		}
		// Another process, later: what it reads is at most one interval old,
		// and that is granted on top.
		after := newInstance(t, b.as, b.store, func(c *session.Config) { c.IdleTimeout = 10 * time.Minute })
		time.Sleep(9 * time.Minute)
		if _, err := after.open(br); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Minute + time.Second)
		after.ended(br, session.ReasonIdle)
	})
}

func TestExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{}, func(c *session.Config) { c.IdleTimeout = 10 * time.Minute })
		br := browser{}
		s := b.login(br)
		time.Sleep(9 * time.Minute)
		if err := s.Extend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.IdleEnd().Sub(time.Now()); got != 10*time.Minute {
			t.Errorf("idle end in %v", got)
		}
		time.Sleep(9 * time.Minute)
		if _, err := b.open(br); err != nil {
			t.Error(err)
		}
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Extend(t.Context()); err == nil {
			t.Error("a session that is over was extended")
		}
	})
}

// NS-02, D108, DESIGN 4: an extension counts from the moment it was asked for,
// however long the store takes, and the idle end that is told is the one that
// comes: to the second where this process alone has the store, within the time
// between two writes where others may have seen activity.
func TestIdleEndIsWhatWasTold(t *testing.T) {
	const idle, interval = 10 * time.Minute, time.Minute
	for name, tc := range map[string]struct {
		exclusive bool
		act       func(*testing.T, *session.Session)
		grant     time.Duration // beyond the idle timeout
	}{
		"extend":                  {true, func(t *testing.T, s *session.Session) { extend(t, s) }, 0},
		"touch":                   {true, func(t *testing.T, s *session.Session) { s.Touch(t.Context()) }, 0},
		"touch, touch and extend": {true, func(t *testing.T, s *session.Session) { s.Touch(t.Context()); s.Touch(t.Context()); extend(t, s) }, 0},
		"extend, shared store":    {false, func(t *testing.T, s *session.Session) { extend(t, s) }, interval},
		"touch, shared store":     {false, func(t *testing.T, s *session.Session) { s.Touch(t.Context()) }, interval},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.IdleTimeout = idle })
				b.store.exclusive = tc.exclusive
				br := browser{}
				b.login(br)
				time.Sleep(5 * time.Minute)
				s, err := b.open(br)
				if err != nil {
					t.Fatal(err)
				}
				// The store is slow, and somebody else is faster.
				var tries atomic.Int32
				b.store.onReplace(func(_, _ *session.Record) error {
					time.Sleep(2 * time.Second)
					if tries.Add(1) <= 3 {
						return session.ErrConflict
					}
					return nil
				})
				asked := time.Now()
				tc.act(t, s)
				time.Sleep(20 * time.Second) // the background is done
				b.store.onReplace(nil)
				s, err = b.open(br)
				if err != nil {
					t.Fatal(err)
				}
				told := s.IdleEnd()
				if got := told.Sub(asked); got > idle+tc.grant || got < idle {
					t.Errorf("told to end %v after the activity", got)
				}
				time.Sleep(time.Until(told) - time.Second)
				if s, err = b.open(br); err != nil {
					t.Fatalf("a second before the end that was told: %v", err)
				}
				if !s.IdleEnd().Equal(told) {
					t.Errorf("looking at it moved the end by %v", s.IdleEnd().Sub(told))
				}
				time.Sleep(time.Second)
				b.ended(br, session.ReasonIdle)
			})
		})
	}
}

func extend(t *testing.T, s *session.Session) {
	t.Helper()
	if err := s.Extend(t.Context()); err != nil {
		t.Error(err)
	}
}

// D108: what is over stays over, also for a handle from before its end.
func TestExtendAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.IdleTimeout = 10 * time.Minute })
		br := browser{}
		s := b.login(br)
		time.Sleep(10 * time.Minute)
		if e, ok := errors.AsType[*session.EndedError](s.Extend(t.Context())); !ok || e.Reason != session.ReasonIdle {
			t.Errorf("extended: %v", e)
		}
		b.ended(br, session.ReasonIdle)
	})
}

// NS-01, NS-05: constant activity and a living refresh token prolong nothing.
func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, func(c *session.Config) { c.Lifetime = time.Hour })
		br := browser{}
		b.login(br)
		began := time.Now()
		for time.Since(began) < time.Hour {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			s.Touch(t.Context())
			if _, err := s.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
		}
		b.ended(br, session.ReasonLifetime)
	})
}

// A lifetime that is configured shorter counts for sessions that are there.
func TestShorterLifetimeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		b.login(br)
		time.Sleep(2 * time.Minute)
		m := b.manager(func(c *session.Config) { c.Lifetime = time.Minute })
		_, err := m.Open(t.Context(), m.Site(origin), br.request())
		if e, ok := errors.AsType[*session.EndedError](err); !ok || e.Reason != session.ReasonLifetime {
			t.Errorf("got %v", err)
		}
	})
}

// DESIGN 4: without a refresh token the session ends with the access token;
// and RF-11: with the refresh token where its end is told.
func TestTokensEndTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Rotation: astest.RotateNone, AccessTokenLifetime: time.Minute})
		br := browser{}
		s := b.login(br)
		if got := s.LifetimeEnd().Sub(time.Now()).Round(time.Second); got != time.Minute {
			t.Errorf("ends in %v", got)
		}
		b.mustToken(br)
		time.Sleep(time.Minute)
		b.ended(br, session.ReasonAccessToken)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, TokenResponse: func(_ string, body map[string]any) { body["refresh_expires_in"] = 120 }})
		br := browser{}
		b.login(br)
		time.Sleep(119 * time.Second)
		b.mustToken(br)
		b.as.ForgetRequests()
		time.Sleep(time.Second)
		b.ended(br, session.ReasonRefreshToken)
		b.refreshes(0)
	})
}

// F201: a store that is out ends nothing and clears nothing.
func TestStoreOutageEndsNothing(t *testing.T) {
	b := newBench(t, astest.Options{})
	br := browser{}
	s := b.login(br)
	b.store.setFail(errors.New("cable cut"))
	if _, err := b.open(br); !errors.Is(err, session.ErrStoreUnavailable) {
		t.Errorf("open: %v", err)
	}
	if _, err := s.Token(t.Context()); !errors.Is(err, session.ErrStoreUnavailable) {
		t.Errorf("token: %v", err)
	}
	if _, err := s.Logout(t.Context()); !errors.Is(err, session.ErrStoreUnavailable) {
		t.Errorf("logout: %v", err)
	}
	b.store.setFail(nil)
	b.mustToken(br)
}

// A store that cannot be opened is tried again, and a request does not wait for
// it for ever.
func TestStoreOpensLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		b := newBench(t, astest.Options{})
		backend := session.NewBackend(func(context.Context) (session.Store, error) {
			if tries++; tries < 3 {
				time.Sleep(10 * time.Second)
				return nil, errors.New("not yet")
			}
			return b.store, nil
		}, discard())
		defer backend.Release()
		began := time.Now()
		if err := backend.Open(t.Context()); !errors.Is(err, session.ErrStoreUnavailable) || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		time.Sleep(time.Minute)
		for backend.Open(t.Context()) != nil {
			time.Sleep(time.Second)
		}
		if tries != 3 {
			t.Errorf("%d tries", tries)
		}
	})
}

// The last reference closes the store, and only then.
func TestBackendClosesWithItsLastUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &closing{Store: newBench(t, astest.Options{}).store}
		backend := session.NewBackend(func(context.Context) (session.Store, error) { return store, nil }, discard())
		if err := backend.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !backend.Retain() {
			t.Fatal("no reference")
		}
		backend.Release()
		synctest.Wait()
		if store.closed {
			t.Error("closed under a user")
		}
		backend.Release()
		synctest.Wait()
		if !store.closed || backend.Retain() {
			t.Error("not closed")
		}
		if err := backend.Open(t.Context()); err != nil && !errors.Is(err, session.ErrStoreUnavailable) {
			t.Error(err)
		}
	})
}

type closing struct {
	session.Store
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

// E112, CK-13: a record that does not open is no session, and is kept.
func TestForeignRecordIsKept(t *testing.T) {
	b := newBench(t, astest.Options{})
	br, other := browser{}, browser{}
	b.login(br)
	b.login(other)
	key := func(br browser) session.Key {
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		k, err := session.ParseKey(s.ID())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	mine, err := b.store.Load(t.Context(), key(br))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.store.Load(t.Context(), key(other))
	if err != nil {
		t.Fatal(err)
	}
	swapped := mine.Next()
	swapped.Facts, swapped.Tokens = theirs.Facts, theirs.Tokens
	if err := b.store.Replace(t.Context(), mine, swapped); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := b.open(br); !errors.Is(err, session.ErrNoSession) {
			t.Fatal(err)
		}
	}
	if _, err := b.store.Load(t.Context(), mine.Key); err != nil {
		t.Errorf("the record was touched: %v", err)
	}
	if n := strings.Count(b.log.String(), "does not open"); n < 1 || n > 3 {
		t.Errorf("%d complaints", n)
	}
}

// D7 in small: nothing that prints a session prints what is in it.
func TestSessionPrintsAConstant(t *testing.T) {
	b := newBench(t, astest.Options{})
	s := b.login(browser{})
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%+v|%#v|%s|%q|%x|%d", s, s, s, s, s, s), string(js)} {
		if strings.Trim(strings.ReplaceAll(strings.ReplaceAll(out, "session", ""), "|", ""), `"`) != "" {
			t.Errorf("prints %s", out)
		}
	}
}
