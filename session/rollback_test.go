// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
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
