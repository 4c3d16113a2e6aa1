// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// replaceable is a store behind which another server takes over.
type replaceable struct {
	*faultyStore

	mu       sync.Mutex
	replaced chan struct{}
}

func newReplaceable(b *bench) *replaceable {
	return &replaceable{faultyStore: &faultyStore{Store: b.store.Store}, replaced: make(chan struct{})}
}

func (r *replaceable) Replaced() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replaced
}

func (r *replaceable) replace() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.replaced)
	r.replaced = make(chan struct{})
}

// F207, F208: a server takes over that has not got the last writes. Whoever made
// them puts them back at once, without being asked for these sessions, and nobody
// presents a refresh token meanwhile.
func TestSuccession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		remembers, asked := newReplaceable(origin), newReplaceable(origin)
		a, b := newInstanceOn(t, origin.as, remembers), newInstanceOn(t, origin.as, asked)
		refreshed, over, idle := browser{}, browser{}, browser{}
		before := []*session.Record{origin.stored(a.login(refreshed)), origin.stored(a.login(over))}
		a.login(idle)
		b.mustToken(idle)
		time.Sleep(time.Minute)
		a.mustToken(refreshed)
		s, err := a.open(over)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, rec := range before {
			origin.restore(rec)
		}
		asked.replace() // it hears of it first
		synctest.Wait()
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { b.mustToken(refreshed) })
		time.Sleep(300 * time.Millisecond)
		remembers.replace()
		wg.Wait()
		if waited := time.Since(began); waited > 1100*time.Millisecond {
			t.Errorf("it took %v", waited)
		}
		b.ended(over, session.ReasonLoggedOut)
		a.refreshes(1)
		b.mustToken(idle)
		a.refreshes(2)
	})
}
