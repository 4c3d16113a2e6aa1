// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// soon is an expiry that a test can wait for. Stores keep whole seconds.
func soon() time.Time { return time.Now().Truncate(time.Second).Add(3 * time.Second) }

// waitFor sleeps until a store must have seen that the moment has passed: one
// that counts by a clock of its own began when the write came to it.
func waitFor(moment time.Time) { time.Sleep(time.Until(moment.Add(time.Second))) }

func expiry(t *testing.T, s session.Store) {
	index := NewIndexKey()
	rec, stays := NewRecord(index), NewRecord(index)
	rec.Expiry = soon()
	create(t, s, rec)
	create(t, s, stays)
	load(t, s, rec.Key)
	find(t, s, index, rec.Key, stays.Key)
	waitFor(rec.Expiry)
	gone(t, s, rec.Key, index)
	find(t, s, index, stays.Key)
	if err := s.Replace(t.Context(), rec, rec.Next()); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("replace of an expired record: %v, want ErrNotFound", err)
	}
	if err := s.Delete(t.Context(), rec.Key); err != nil {
		t.Fatalf("delete of an expired record: %v", err)
	}
	again := NewRecord()
	again.Key = rec.Key
	create(t, s, again)
	if got := load(t, s, again.Key); !equal(got, again) {
		t.Fatal("a key could not be used again after its record expired")
	}
	find(t, s, index, stays.Key)
}

func expiryMoves(t *testing.T, s session.Store) {
	longer, shorter := NewRecord(), NewRecord()
	longer.Expiry = soon()
	create(t, s, longer)
	create(t, s, shorter)
	next := longer.Next()
	next.Expiry = longer.Expiry.Add(time.Hour)
	replace(t, s, longer, next)
	next = shorter.Next()
	next.Expiry = soon()
	replace(t, s, shorter, next)
	waitFor(next.Expiry)
	load(t, s, longer.Key)
	gone(t, s, shorter.Key)
}

func bornExpired(t *testing.T, s session.Store) {
	index := NewIndexKey()
	for name, end := range map[string]time.Time{
		"an hour ago": time.Now().Add(-time.Hour), "never given": {},
	} {
		rec := NewRecord(index)
		rec.Expiry = end
		create(t, s, rec)
		if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("load of a record whose expiry was %s: %v", name, err)
		}
	}
	find(t, s, index)
	rec := NewRecord(index)
	create(t, s, rec)
	next := rec.Next()
	next.Expiry = time.Now().Add(-time.Minute)
	replace(t, s, rec, next)
	gone(t, s, rec.Key, index)
}

func visibility(t *testing.T, s session.Store) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx := within(t)
			index := NewIndexKey()
			rec := NewRecord(index)
			if err := s.Create(ctx, rec); err != nil {
				t.Errorf("create: %v", err)
				return
			}
			for range 30 {
				next := rec.Next()
				Fill(next, 200)
				// Readers in parallel: a copy that one of them took from the
				// store a moment ago must not outlive the change.
				read := make(chan struct{})
				var readers sync.WaitGroup
				readers.Go(func() {
					for {
						select {
						case <-read:
							return
						default:
							_, _ = s.Load(ctx, rec.Key)
						}
					}
				})
				err := s.Replace(ctx, rec, next)
				got, loadErr := s.Load(ctx, rec.Key)
				close(read)
				readers.Wait()
				if err != nil || loadErr != nil || got.Rev != next.Rev || Mixed(got) {
					t.Errorf("after replace with revision %d: %v, load: %v, %v", next.Rev, err, got, loadErr)
					return
				}
				rec = next
			}
			if err := s.Delete(ctx, rec.Key); err != nil {
				t.Errorf("delete: %v", err)
			}
			if _, err := s.Load(ctx, rec.Key); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("load after delete: %v", err)
			}
		})
	}
	wg.Wait()
}

func cancellation(t *testing.T, s session.Store) {
	index := NewIndexKey()
	rec := NewRecord(index)
	create(t, s, rec)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	for _, c := range []struct {
		ctx  context.Context
		want error
	}{{cancelled, context.Canceled}, {late, context.DeadlineExceeded}} {
		for name, call := range map[string]func() error{
			"create":  func() error { return s.Create(c.ctx, NewRecord()) },
			"load":    func() error { _, err := s.Load(c.ctx, rec.Key); return err },
			"replace": func() error { return s.Replace(c.ctx, rec, rec.Next()) },
			"delete":  func() error { return s.Delete(c.ctx, NewKey()) },
			"find":    func() error { _, err := s.Find(c.ctx, index); return err },
		} {
			if err := call(); !errors.Is(err, c.want) {
				t.Errorf("%s with a context that is done: %v, want %v", name, err, c.want)
			}
		}
	}
	load(t, s, rec.Key)
}

func sizeLimit(t *testing.T, s session.Store) {
	rec := NewRecord()
	rec.Facts = nil
	fixed, err := rec.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	// The length of Tokens takes three bytes instead of two.
	room := session.MaxRecordSize - len(fixed) - 1 + len(rec.Tokens)
	rec.Tokens = bytes.Repeat([]byte{1}, room)
	create(t, s, rec)
	if got := load(t, s, rec.Key); !equal(got, rec) {
		t.Fatal("a record of the largest size did not come back whole")
	}
	next := rec.Next()
	next.Tokens = bytes.Repeat([]byte{2}, room+1)
	if err := s.Replace(t.Context(), rec, next); !errors.Is(err, session.ErrTooLarge) {
		t.Fatalf("replace with a record that is too large: %v", err)
	}
	if got := load(t, s, rec.Key); !equal(got, rec) {
		t.Fatal("the refused replace changed the record")
	}
	next.Key = NewKey()
	if err := s.Create(t.Context(), next); !errors.Is(err, session.ErrTooLarge) {
		t.Fatalf("create of a record that is too large: %v", err)
	}
	gone(t, s, next.Key)
}

func immutability(t *testing.T, s session.Store) {
	index := NewIndexKey()
	first := NewRecord(index)
	first.Attempt = &session.Attempt{Lease: 1}
	create(t, s, first)
	before := load(t, s, first.Key)
	image, err := before.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	old := before
	for range 20 {
		next := old.Next()
		next.Attempt, next.Index = nil, nil
		Fill(next, 300)
		replace(t, s, old, next)
		old = next
	}
	if err := s.Delete(t.Context(), first.Key); err != nil {
		t.Fatal(err)
	}
	for range 50 { // whatever memory the store reuses, it is not the record's
		create(t, s, NewRecord())
	}
	after, err := before.MarshalBinary()
	if err != nil || !bytes.Equal(image, after) {
		t.Fatal("a record that was loaded before the changes changed with them")
	}
}

func closed(t *testing.T, s session.Store) {
	rec := NewRecord()
	create(t, s, rec)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	for name, call := range map[string]func() error{
		"create":  func() error { return s.Create(t.Context(), NewRecord()) },
		"load":    func() error { _, err := s.Load(t.Context(), rec.Key); return err },
		"replace": func() error { return s.Replace(t.Context(), rec, rec.Next()) },
		"delete":  func() error { return s.Delete(t.Context(), rec.Key) },
		"find":    func() error { _, err := s.Find(t.Context(), NewIndexKey()); return err },
	} {
		if err := call(); !errors.Is(err, session.ErrStoreUnavailable) || errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s after close: %v, want ErrStoreUnavailable", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func closeAmongCalls(t *testing.T, s session.Store) {
	var wg sync.WaitGroup
	started := make(chan struct{}, 16)
	for range 16 {
		wg.Go(func() {
			ctx := within(t)
			started <- struct{}{}
			for {
				rec := NewRecord()
				err := s.Create(ctx, rec)
				if errors.Is(err, session.ErrStoreUnavailable) && ctx.Err() == nil {
					return // closed
				}
				if err != nil {
					t.Errorf("create: %v", err)
					return
				}
				// Bounded: the store has room for what fits in here.
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 16 {
		<-started
	}
	if err := s.Close(); err != nil {
		t.Errorf("close among calls: %v", err)
	}
	wg.Wait()
}
