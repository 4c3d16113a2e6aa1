// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"slices"
	"sync"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
)

func find(t *testing.T, s session.Store, index session.IndexKey, want ...session.Key) {
	t.Helper()
	got, err := s.Find(t.Context(), index)
	if err != nil {
		t.Fatalf("find: %v", err)
	}
	order := func(a, b session.Key) int { return slices.Compare(a[:], b[:]) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Fatalf("find gives %d keys, want %d: %v, want %v", len(got), len(want), got, want)
	}
}

// HARDENING A326: an index that remembered only the newest session.
func findAll(t *testing.T, s session.Store) {
	sub, otherSub := NewIndexKey(), NewIndexKey()
	var keys []session.Key
	for range 50 {
		sid := NewIndexKey()
		rec := NewRecord(sub, sid)
		create(t, s, rec)
		keys = append(keys, rec.Key)
		find(t, s, sid, rec.Key)
	}
	other := NewRecord(otherSub)
	create(t, s, other)
	find(t, s, sub, keys...)
	find(t, s, otherSub, other.Key)
	for len(keys) > 0 {
		// From the middle: neither the oldest nor the newest may be special.
		i := len(keys) / 2
		if err := s.Delete(t.Context(), keys[i]); err != nil {
			t.Fatal(err)
		}
		keys = slices.Delete(keys, i, i+1)
		find(t, s, sub, slices.Clone(keys)...)
	}
	find(t, s, otherSub, other.Key)
}

func indexFollows(t *testing.T, s session.Store) {
	a, b, c := NewIndexKey(), NewIndexKey(), NewIndexKey()
	first := NewRecord(a, b)
	create(t, s, first)
	second := first.Next()
	second.Index = []session.IndexKey{b, c}
	replace(t, s, first, second)
	find(t, s, a)
	find(t, s, b, first.Key)
	find(t, s, c, first.Key)
	stale := first.Next()
	stale.Index = []session.IndexKey{a}
	if err := s.Replace(t.Context(), first, stale); err == nil {
		t.Fatal("a stale replace was taken")
	}
	find(t, s, a)
	third := second.Next()
	third.Index = nil
	replace(t, s, second, third)
	find(t, s, b)
	find(t, s, c)
	fourth := third.Next()
	fourth.Index = []session.IndexKey{a}
	replace(t, s, third, fourth)
	find(t, s, a, first.Key)
	if err := s.Delete(t.Context(), first.Key); err != nil {
		t.Fatal(err)
	}
	find(t, s, a)
}

func findUnderChange(t *testing.T, s session.Store) {
	sub := NewIndexKey()
	stays := NewRecord(sub)
	create(t, s, stays)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ctx := within(t)
			for range 25 {
				rec := NewRecord(sub)
				if err := s.Create(ctx, rec); err != nil {
					t.Errorf("create: %v", err)
				}
				keys, err := s.Find(ctx, sub)
				if err != nil || !slices.Contains(keys, stays.Key) || !slices.Contains(keys, rec.Key) {
					t.Errorf("find among changes: %d keys, %v", len(keys), err)
				}
				if err := s.Delete(ctx, rec.Key); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	find(t, s, sub, stays.Key)
}
