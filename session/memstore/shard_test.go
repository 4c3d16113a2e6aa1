// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package memstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// What expired, was deleted or replaced leaves nothing behind: neither in the
// shards and their heaps, nor in the indexes, nor in the counts.
func TestNothingIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{SweepInterval: time.Minute})
		defer s.Close()
		for i := range 1000 {
			rec := storetest.NewRecord(storetest.NewIndexKey(), storetest.NewIndexKey())
			if err := s.Create(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			next := rec.Next()
			next.Index = []session.IndexKey{storetest.NewIndexKey()}
			next.Expiry = time.Now().Add(time.Duration(i%100+1) * time.Second)
			storetest.Fill(next, i)
			if err := s.Replace(t.Context(), rec, next); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := s.Delete(t.Context(), rec.Key); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := s.records.Load(); got != 666 {
			t.Fatalf("%d records counted, want 666", got)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		left := 0
		for i := range s.shards {
			s.shards[i].mu.RLock()
			left += len(s.shards[i].entries) + len(s.shards[i].byExpiry)
			s.shards[i].mu.RUnlock()
		}
		s.index.mu.RLock()
		sets := len(s.index.sets)
		s.index.mu.RUnlock()
		if left != 0 || sets != 0 || s.records.Load() != 0 || s.bytes.Load() != 0 {
			t.Fatalf("left behind: %d entries, %d index sets, %d records and %d bytes counted",
				left, sets, s.records.Load(), s.bytes.Load())
		}
	})
}
