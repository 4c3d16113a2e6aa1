// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package memstore_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/memstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

func open(t testing.TB, o memstore.Options) *memstore.Store {
	t.Helper()
	s := memstore.New(o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) session.Store {
		// Sweeping all the time must change nothing that anybody sees.
		return open(t, memstore.Options{SweepInterval: time.Millisecond})
	})
}

// HARDENING H211: a store that is full refuses new sessions and evicts no live one.
func TestFullStoreRefusesNewSessions(t *testing.T) {
	t.Parallel()
	const room = 500
	s := open(t, memstore.Options{MaxRecords: room})
	var live []*session.Record
	for range room {
		rec := storetest.NewRecord()
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatalf("create %d of %d: %v", len(live), room, err)
		}
		live = append(live, rec)
	}
	for range 100 {
		if err := s.Create(t.Context(), storetest.NewRecord()); !errors.Is(err, session.ErrFull) {
			t.Fatalf("create in a full store: %v, want ErrFull", err)
		}
	}
	if err := s.Create(t.Context(), live[0]); !errors.Is(err, session.ErrExists) {
		t.Fatalf("create of a key that is there, in a full store: %v, want ErrExists", err)
	}
	for i, rec := range live {
		if got, err := s.Load(t.Context(), rec.Key); err != nil || got != rec {
			t.Fatalf("live session %d was lost: %v", i, err)
		}
		next := rec.Next()
		if err := s.Replace(t.Context(), rec, next); err != nil {
			t.Fatalf("replace in a full store: %v", err)
		}
		live[i] = next
	}
	if err := s.Delete(t.Context(), live[0].Key); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
		t.Fatalf("create after a delete made room: %v", err)
	}
}

// HARDENING H211, by size.
func TestBytesAreBounded(t *testing.T) {
	t.Parallel()
	const room = 1 << 20
	s := open(t, memstore.Options{MaxBytes: room})
	created := 0
	var last *session.Record
	for {
		rec := storetest.NewRecord()
		storetest.Fill(rec, 10_000) // twice: facts and tokens
		err := s.Create(t.Context(), rec)
		if errors.Is(err, session.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		created++
		last = rec
	}
	if created < 45 || created > room/20_000 {
		t.Fatalf("%d records of 20 kB fit in 1 MiB", created)
	}
	next := last.Next()
	storetest.Fill(next, 15_000)
	if err := s.Replace(t.Context(), last, next); err != nil {
		t.Fatalf("a session that is there could not grow: %v", err)
	}
	smaller := next.Next()
	storetest.Fill(smaller, 10)
	if err := s.Replace(t.Context(), next, smaller); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
		t.Fatalf("create after a record shrank: %v", err)
	}
}

// HARDENING H211: expired ones go first, at once when the room is needed.
func TestExpiredMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{MaxRecords: 10, SweepInterval: 24 * time.Hour})
		defer s.Close()
		var stays []session.Key
		for i := range 10 {
			rec := storetest.NewRecord()
			if i%2 == 0 {
				rec.Expiry = time.Now().Add(time.Minute)
			} else {
				stays = append(stays, rec.Key)
			}
			if err := s.Create(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for range 5 {
			if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
				t.Fatalf("an expired record took the room of a new one: %v", err)
			}
		}
		if err := s.Create(t.Context(), storetest.NewRecord()); !errors.Is(err, session.ErrFull) {
			t.Fatalf("create in a full store: %v, want ErrFull", err)
		}
		for _, key := range stays {
			if _, err := s.Load(t.Context(), key); err != nil {
				t.Fatalf("a live session was lost: %v", err)
			}
		}
	})
}

// To the instant, and in the order in which expiries were moved about.
func TestExpiryIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{})
		defer s.Close()
		index := storetest.NewIndexKey()
		var recs []*session.Record
		for i := range 200 {
			rec := storetest.NewRecord(index)
			rec.Expiry = time.Now().Add(time.Duration(i*7919%200+1) * time.Second)
			if err := s.Create(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			next := rec.Next()
			next.Expiry = time.Now().Add(time.Duration(i+1) * time.Second)
			if err := s.Replace(t.Context(), rec, next); err != nil {
				t.Fatal(err)
			}
			recs = append(recs, next)
		}
		time.Sleep(500 * time.Millisecond)
		for second := range 200 {
			for i, rec := range recs {
				_, err := s.Load(t.Context(), rec.Key)
				if live := i >= second; live != (err == nil) {
					t.Fatalf("after %d.5 s a record with a life of %d s gives %v", second, i+1, err)
				}
			}
			if keys, _ := s.Find(t.Context(), index); len(keys) != 200-second {
				t.Fatalf("after %d.5 s find gives %d keys", second, len(keys))
			}
			time.Sleep(time.Second)
		}
	})
}

// HARDENING F502: nothing is left running. The bubble fails if it is.
func TestCloseStopsTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(memstore.Options{SweepInterval: time.Second})
		time.Sleep(10 * time.Second)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestExclusive(t *testing.T) {
	t.Parallel()
	var s session.Store = open(t, memstore.Options{})
	if x, ok := s.(session.Exclusive); !ok || !x.Exclusive() {
		t.Fatal("memory is shared with nobody")
	}
}

func BenchmarkLoad(b *testing.B) {
	s := open(b, memstore.Options{})
	storetest.BenchmarkLoad(b, s)
}

func BenchmarkReplace(b *testing.B) {
	s := open(b, memstore.Options{})
	storetest.BenchmarkReplace(b, s)
}
