// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

func createRefusesLiveKey(t *testing.T, s session.Store) {
	rec := NewRecord()
	create(t, s, rec)
	other := NewRecord()
	other.Key = rec.Key
	if err := s.Create(t.Context(), other); !errors.Is(err, session.ErrExists) {
		t.Fatalf("second create of a key: %v, want ErrExists", err)
	}
	if got := load(t, s, rec.Key); !equal(got, rec) {
		t.Fatal("the refused create changed the record")
	}
}

func parallelCreates(t *testing.T, s session.Store) {
	key := NewKey()
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			rec := NewRecord()
			rec.Key = key
			Fill(rec, 300)
			switch err := s.Create(within(t), rec); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, session.ErrExists):
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d creates of one key won, want 1", won.Load())
	}
}

func roundTrip(t *testing.T, s session.Store) {
	full := NewRecord(NewIndexKey(), NewIndexKey())
	full.Gen = 7
	full.Attempt = &session.Attempt{
		ID: session.AttemptID{1, 2, 3}, Owner: [16]byte{4, 5, 6}, Lease: 1 << 40, Takeover: true,
	}
	bare := &session.Record{Key: NewKey(), Expiry: time.Now().Add(time.Hour)}
	for _, rec := range []*session.Record{full, bare} {
		create(t, s, rec)
		if got := load(t, s, rec.Key); !equal(got, rec) {
			t.Fatalf("loaded %+v, stored %+v", got, rec)
		}
	}
}

func absent(t *testing.T, s session.Store) {
	create(t, s, NewRecord())
	if rec, err := s.Load(t.Context(), NewKey()); rec != nil || !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("load of a key that never was: %v, %v", rec, err)
	}
	rec := NewRecord()
	if err := s.Replace(t.Context(), rec, rec.Next()); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("replace of a key that never was: %v", err)
	}
	if keys, err := s.Find(t.Context(), NewIndexKey()); err != nil || keys == nil || len(keys) != 0 {
		t.Fatalf("find of an index key that never was: %v, %v, want an empty slice", keys, err)
	}
}

func replaceByRevision(t *testing.T, s session.Store) {
	first := NewRecord()
	create(t, s, first)
	second := first.Next()
	second.Gen++
	Fill(second, 500)
	replace(t, s, first, second)
	if got := load(t, s, first.Key); !equal(got, second) {
		t.Fatal("replace did not store the next record")
	}
	stale := first.Next()
	stale.Gen = 99
	if err := s.Replace(t.Context(), first, stale); !errors.Is(err, session.ErrConflict) {
		t.Fatalf("replace of a stale record: %v, want ErrConflict", err)
	}
	if got := load(t, s, first.Key); !equal(got, second) {
		t.Fatal("the refused replace changed the record")
	}
}

func replaceNextOnly(t *testing.T, s session.Store) {
	rec := NewRecord()
	create(t, s, rec)
	same, skipped, foreign := *rec, *rec.Next().Next(), *rec.Next()
	foreign.Key = NewKey()
	for name, next := range map[string]*session.Record{
		"the same revision": &same, "a later revision": &skipped, "another key": &foreign,
	} {
		if err := s.Replace(t.Context(), rec, next); err == nil {
			t.Errorf("replace took %s", name)
		}
	}
	if got := load(t, s, rec.Key); !equal(got, rec) {
		t.Fatal("a refused replace changed the record")
	}
}

// The compare-and-swap of the contract: of all writers that saw one revision,
// one wins, and a loser that reads again and decides again loses nothing.
func hundredWriters(t *testing.T, s session.Store) {
	rec := NewRecord()
	rec.Gen = 0
	create(t, s, rec)
	const writers, rounds = 100, 3
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			ctx := within(t)
			for done := 0; done < rounds; {
				old, err := s.Load(ctx, rec.Key)
				if err != nil {
					t.Errorf("load: %v", err)
					return
				}
				if Mixed(old) {
					t.Errorf("revision %d is mixed with another", old.Rev)
					return
				}
				next := old.Next()
				next.Gen++
				Fill(next, 300)
				switch err := s.Replace(ctx, old, next); {
				case err == nil:
					done++
				case !errors.Is(err, session.ErrConflict):
					t.Errorf("replace: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := load(t, s, rec.Key)
	if got.Gen != writers*rounds || got.Rev != 1+writers*rounds {
		t.Fatalf("%d changes counted in %d revisions, want %d", got.Gen, got.Rev-1, writers*rounds)
	}
}

// HARDENING A414: a save that comes after a logout.
func noResurrection(t *testing.T, s session.Store) {
	index := NewIndexKey()
	rec := NewRecord(index)
	create(t, s, rec)
	if err := s.Delete(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context(), rec, rec.Next()); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("replace after delete: %v, want ErrNotFound", err)
	}
	gone(t, s, rec.Key, index)
}

func deleteIdempotent(t *testing.T, s session.Store) {
	rec, other := NewRecord(), NewRecord()
	create(t, s, rec)
	create(t, s, other)
	for range 3 {
		if err := s.Delete(t.Context(), rec.Key); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if err := s.Delete(t.Context(), NewKey()); err != nil {
		t.Fatalf("delete of a key that never was: %v", err)
	}
	gone(t, s, rec.Key)
	load(t, s, other.Key)
	create(t, s, rec)
	load(t, s, rec.Key)
}

func tombstone(t *testing.T, s session.Store) {
	index := NewIndexKey()
	rec := NewRecord(index)
	create(t, s, rec)
	ended := rec.Next()
	ended.Ended = session.ReasonRevoked
	ended.Facts = nil
	replace(t, s, rec, ended)
	if got := load(t, s, rec.Key); !equal(got, ended) || got.Ended != session.ReasonRevoked {
		t.Fatalf("tombstone came back as %+v", got)
	}
	if keys, err := s.Find(t.Context(), index); err != nil || len(keys) != 1 {
		t.Fatalf("find of a tombstone: %v, %v", keys, err)
	}
	if err := s.Replace(t.Context(), rec, rec.Next()); !errors.Is(err, session.ErrConflict) {
		t.Fatalf("a write from before the end: %v, want ErrConflict", err)
	}
	erased := ended.Next()
	erased.Tokens, erased.Index = nil, nil
	replace(t, s, ended, erased)
	if err := s.Create(t.Context(), rec); !errors.Is(err, session.ErrExists) {
		t.Fatalf("create over a tombstone: %v, want ErrExists", err)
	}
}

// equal compares records by what they encode to: stores keep whole seconds.
func equal(a, b *session.Record) bool {
	x, errX := a.MarshalBinary()
	y, errY := b.MarshalBinary()
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// gone checks that a key is absent, and from its indexes too.
func gone(t *testing.T, s session.Store, key session.Key, indexes ...session.IndexKey) {
	t.Helper()
	if rec, err := s.Load(t.Context(), key); rec != nil || !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("load of an absent record: %v, %v", rec, err)
	}
	for _, index := range indexes {
		keys, err := s.Find(t.Context(), index)
		if err != nil {
			t.Fatalf("find: %v", err)
		}
		if slices.Contains(keys, key) {
			t.Fatal("find gives the key of an absent record")
		}
	}
}
