// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
)

// stored gives the record of a session, and restore puts an older one back, as a
// failover to a replica that lags behind does.
func (b *bench) stored(s *session.Session) *session.Record {
	b.t.Helper()
	key, err := session.ParseKey(s.ID())
	if err != nil {
		b.t.Fatal(err)
	}
	rec, err := b.store.Store.Load(b.t.Context(), key)
	if err != nil {
		b.t.Fatal(err)
	}
	return rec
}

func (b *bench) restore(rec *session.Record) {
	b.t.Helper()
	if err := b.store.Store.Delete(b.t.Context(), rec.Key); err != nil {
		b.t.Fatal(err)
	}
	if err := b.store.Store.Create(b.t.Context(), rec); err != nil {
		b.t.Fatal(err)
	}
}

// E104, F208: a record that goes back to a spent refresh token is put right by
// an instance that knows better; the spent token is not presented.
func TestRollbackIsHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		b.store.exclusive = false
		br := browser{}
		yesterday := b.stored(b.login(br))
		time.Sleep(time.Minute)
		fresh := b.mustToken(br)
		b.restore(yesterday)
		if tok := b.mustToken(br); tok != fresh {
			t.Error("another token than the newest")
		}
		if got := b.stored(mustOpen(t, b, br)); got.Gen != 2 {
			t.Errorf("the store has generation %d", got.Gen)
		}
		if !strings.Contains(b.log.String(), "went back in time") {
			t.Error("nothing in the log")
		}
		time.Sleep(time.Minute)
		newInstance(t, b.as, b.store).mustToken(br)
		b.refreshes(2)
	})
}

// E105, I5: a session that has ended does not come back with its record.
func TestRollbackOfALogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		s := b.login(br)
		alive := b.stored(s)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.restore(alive)
		b.ended(br, session.ReasonLoggedOut)
		// It is over for others as well, who knew nothing.
		newInstance(t, b.as, b.store).ended(br, session.ReasonLoggedOut)
	})
}

func mustOpen(t *testing.T, b *bench, br browser) *session.Session {
	t.Helper()
	s, err := b.open(br)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// redisAt opens a store on a real server.
func redisAt(t *testing.T, server *redistest.Server) session.Store {
	t.Helper()
	address, err := redisstore.ParseAddress(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	store, err := redisstore.Open(redisstore.Options{Addresses: []redisstore.Address{address}})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// E104, E105, F208: a Redis that went back in time is put right at once, by the
// first instance that knows better and while its own store still doubts the
// server: nobody is told that the store is out, here or at the other instance.
func TestRollbackOfRedis(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then func(*testing.T, *session.Session)
		want func(*bench, browser) error
	}{
		"refreshed": {
			then: func(t *testing.T, s *session.Session) {
				if _, err := s.ForceRefresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			want: func(b *bench, br browser) error { _, err := b.token(br); return err },
		},
		"logged out": {
			then: func(t *testing.T, s *session.Session) {
				if _, err := s.Logout(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			want: func(b *bench, br browser) error {
				_, err := b.token(br)
				if ended, ok := errors.AsType[*session.EndedError](err); ok && ended.Reason == session.ReasonLoggedOut {
					return nil
				}
				return fmt.Errorf("the session lives: %w", err)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			as := astest.New(astest.Options{})
			one, two := newInstanceOn(t, as, redisAt(t, server)), newInstanceOn(t, as, redisAt(t, server))
			br := browser{}
			s := one.login(br)
			key := redisstore.DefaultKeyPrefix + "s:{" + s.ID() + "}"
			server.Must("COPY", key, key+"before")
			c.then(t, s)
			both := func() {
				t.Helper()
				for i, b := range []*bench{one, two} {
					if err := c.want(b, br); err != nil {
						t.Fatalf("instance %d: %v", i+1, err)
					}
				}
			}
			both()
			server.Must("COPY", key+"before", key, "REPLACE")
			start := time.Now()
			for !strings.Contains(one.log.String()+two.log.String(), "went back in time") {
				if time.Since(start) > 1500*time.Millisecond {
					t.Fatal("the record was not put right before the store's doubts ended")
				}
				both()
			}
			for time.Since(start) < 2500*time.Millisecond { // until nothing is in doubt
				both()
				time.Sleep(50 * time.Millisecond)
			}
			// Who knew nothing of it finds the record as it should be.
			if err := c.want(newInstanceOn(t, as, redisAt(t, server)), br); err != nil {
				t.Error(err)
			}
			if n := strings.Count(one.log.String()+two.log.String(), "went back in time"); n != 1 {
				t.Errorf("put right %d times", n)
			}
			if n := as.ReuseDetections(); n != 0 {
				t.Errorf("%d refresh tokens were used twice", n)
			}
		})
	}
}

// doubtful is a store that went back in time and does not believe it yet.
type doubtful struct {
	*faultyStore
	doubts atomic.Bool
}

func (d *doubtful) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if d.doubts.Load() {
		return nil, session.ErrWentBack
	}
	return d.faultyStore.Load(ctx, key)
}

func (d *doubtful) Fresh(ctx context.Context, key session.Key) (*session.Record, error) {
	return d.faultyStore.Load(ctx, key)
}

// E104, I1: an older record in which the refresh under way is missing is not
// believed by who knows of it, as long as the store has doubts: the refresh token
// would be presented twice. One with nothing missing is.
func TestDoubtAboutAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		b.store.exclusive = false
		br := browser{}
		quiet := b.stored(b.login(br))
		store := &doubtful{faultyStore: b.store}
		other := newInstanceOn(t, b.as, store)
		other.mustToken(br)
		// Somebody else begins a refresh, which this instance sees.
		under := quiet.Next()
		under.Attempt = &session.Attempt{ID: session.AttemptID{1}, Owner: [16]byte{1}, Lease: 1}
		if err := b.store.Store.Replace(t.Context(), quiet, under); err != nil {
			t.Fatal(err)
		}
		other.mustToken(br)
		b.restore(quiet)
		store.doubts.Store(true)
		if _, err := other.token(br); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("without the attempt: %v", err)
		}
		b.restore(under)
		other.mustToken(br)
		// A process that knows nothing of the session has nothing against the doubt.
		if _, err := newInstanceOn(t, b.as, store).token(br); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("knowing nothing: %v", err)
		}
		store.doubts.Store(false)
		b.refreshes(0)
	})
}

// F208, SU-03: so is one of a session that goes on after a step-up. Its cookie still
// leads there, on whatever instance knew of it, and nothing is revoked: the grant may go
// with it.
func TestRollbackOfAStepUp(t *testing.T) {
	for _, witness := range []string{"who stepped it up", "who was led on"} {
		t.Run(witness, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(t, levels())
				br := browser{}
				yesterday := a.stored(a.login(br))
				old := maps.Clone(br)
				next := a.stepUp(br, gold())
				knows := a
				if witness == "who was led on" {
					knows = b
					b.mustToken(old)
				}
				a.restore(yesterday)
				for range 2 {
					if s, err := knows.open(old); err != nil || s.ID() != next.ID() {
						t.Errorf("the old cookie: %v", err)
					}
				}
				time.Sleep(time.Minute)
				knows.ended(old, session.ReasonLoggedOut)
				knows.mustToken(br)
				if n := len(a.revoked("refresh_token")) + len(a.revoked("access_token")); n != 0 {
					t.Errorf("%d tokens were revoked", n)
				}
			})
		})
	}
}
