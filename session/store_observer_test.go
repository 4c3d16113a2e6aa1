// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/memstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// A store that is looked at keeps the contract.
func TestObservedStoreKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) session.Store {
		b := session.NewBackend(func(context.Context) (session.Store, error) { return memstore.New(memstore.Options{}), nil }, discard())
		b.Observe(&tally{counts: make(map[string]int)})
		s, err := b.Opened(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Release)
		return s
	})
}

// Every call of a store is counted once, by what it said; what is no failure is
// none, and what came from memory is not measured.
func TestStoreCallsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{MaxRecords: 3})
		failing := &faultyStore{Store: store}
		seen := &tally{counts: make(map[string]int)}
		open := func(s session.Store) session.Store {
			b := session.NewBackend(func(context.Context) (session.Store, error) { return s, nil }, discard())
			b.Observe(seen)
			t.Cleanup(b.Release)
			opened, err := b.Opened(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return opened
		}
		memory, far := open(store), open(failing) // faultyStore has no memory of its own
		ctx := t.Context()
		index := storetest.NewIndexKey()
		rec := storetest.NewRecord(index)
		next := rec.Next()
		gone, cancel := context.WithCancel(ctx)
		cancel()
		large := storetest.NewRecord()
		storetest.Fill(large, session.MaxRecordSize)
		want := map[string]int{}
		unmeasured := 0
		for _, step := range []struct {
			what string
			call func() error
			is   error
		}{
			{"load not_found", func() error { _, err := memory.Load(ctx, rec.Key); return err }, session.ErrNotFound},
			{"create ok", func() error { return memory.Create(ctx, rec) }, nil},
			{"create exists", func() error { return far.Create(ctx, rec) }, session.ErrExists},
			{"create too_large", func() error { return far.Create(ctx, large) }, session.ErrTooLarge},
			{"load local", func() error { _, err := memory.Load(ctx, rec.Key); return err }, nil},
			{"load ok", func() error { _, err := far.Load(ctx, rec.Key); return err }, nil},
			{"load canceled", func() error { _, err := memory.Load(gone, rec.Key); return err }, context.Canceled},
			{"replace ok", func() error { return far.Replace(ctx, rec, next) }, nil},
			{"replace conflict", func() error { return memory.Replace(ctx, rec, next) }, session.ErrConflict},
			{"find ok", func() error { _, err := memory.Find(ctx, index); return err }, nil},
			{"create ok", func() error { return memory.Create(ctx, storetest.NewRecord()) }, nil},
			{"create ok", func() error { return memory.Create(ctx, storetest.NewRecord()) }, nil},
			{"create full", func() error { return memory.Create(ctx, storetest.NewRecord()) }, session.ErrFull},
			{"delete ok", func() error { return far.Delete(ctx, rec.Key) }, nil},
			{"replace not_found", func() error { return far.Replace(ctx, next, next.Next()) }, session.ErrNotFound},
			{"load unavailable", func() error {
				failing.setFail(errors.New("no answer"))
				defer failing.setFail(nil)
				_, err := far.Load(ctx, rec.Key)
				return err
			}, nil},
		} {
			if err := step.call(); step.is != nil && !errors.Is(err, step.is) {
				t.Errorf("%s: got %v", step.what, err)
			}
			want[step.what]++
			if step.what == "load local" {
				unmeasured++
			}
			if got := seen.of("store"); got[step.what] != want[step.what] {
				t.Errorf("%s: counted %v", step.what, got)
			}
		}
		sum := 0
		for _, n := range seen.of("store") {
			sum += n
		}
		if sum != 16 || len(seen.took) != sum {
			t.Errorf("16 calls, %d counted", sum)
		}
		for _, d := range seen.took {
			if d < 0 {
				unmeasured--
			}
		}
		if unmeasured != 0 {
			t.Error("what is measured is not what came from elsewhere")
		}
	})
}

// G4 row K6, E104: what goes into the spool, what comes out of it, and what a
// store that went back in time is told, is counted.
func TestSpoolAndHealingAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		b.backend.SpoolTo(dir)
		br := browser{}
		yesterday := b.stored(b.login(br))
		time.Sleep(time.Minute)
		b.refuseCommits(true)
		b.mustToken(br)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.backend.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got := b.tally.of("store"); got["spool ok"] != 1 {
			t.Errorf("counted %v", got)
		}
		next := newInstance(t, b.as, &faultyStore{Store: b.store.Store, exclusive: true})
		next.backend.SpoolTo(dir)
		next.mustToken(br)
		synctest.Wait()
		if got := next.tally.of("store"); got["deliver ok"] != 1 || got["deliver conflict"] != 0 || got["heal ok"] != 0 {
			t.Errorf("counted %v", got)
		}
		b.refuseCommits(false)
		time.Sleep(5 * time.Second)
		next.restore(yesterday)
		next.mustToken(br)
		if got := next.tally.of("store"); got["heal ok"] != 1 {
			t.Errorf("counted %v", got)
		}
		next.refreshes(1)
	})
}

// counting is an observer that costs what counters cost.
type counting struct {
	calls [16][16]atomic.Uint64
}

func (c *counting) StoreCalled(op session.StoreOp, result session.StoreResult, took time.Duration) {
	c.calls[op][result].Add(1)
}

// BenchmarkLoad is what being looked at costs a load from memory.
func BenchmarkLoad(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		s := memstore.New(memstore.Options{})
		defer s.Close() //nolint:errcheck // memory
		storetest.BenchmarkLoad(b, s)
	})
	b.Run("observed", func(b *testing.B) {
		backend := session.NewBackend(func(context.Context) (session.Store, error) { return memstore.New(memstore.Options{}), nil }, discard())
		defer backend.Release()
		backend.Observe(new(counting))
		s, err := backend.Opened(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		storetest.BenchmarkLoad(b, s)
	})
}
