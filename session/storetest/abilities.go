// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// hearing is how long a watch may take to tell of a change.
const hearing = 10 * time.Second

func heard(t *testing.T, changed <-chan struct{}, of string) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(hearing):
		t.Fatalf("a watch did not hear of %s", of)
	}
}

func watchHears(t *testing.T, s session.Store) {
	w, ok := s.(session.Watcher)
	if !ok {
		return
	}
	rec := NewRecord()
	for of, change := range map[string]func() error{
		"a replace": func() error {
			next := rec.Next()
			defer func() { rec = next }()
			return s.Replace(t.Context(), rec, next)
		},
		"a delete and a create": func() error {
			if err := s.Delete(t.Context(), rec.Key); err != nil {
				return err
			}
			return s.Create(t.Context(), rec)
		},
	} {
		if _, err := s.Load(t.Context(), rec.Key); err != nil {
			create(t, s, rec)
		}
		load(t, s, rec.Key)
		one, stopOne := w.Watch(rec.Key)
		two, stopTwo := w.Watch(rec.Key)
		given, stopGiven := w.Watch(rec.Key)
		stopGiven()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		heard(t, one, of)
		heard(t, two, of)
		stopOne()
		stopTwo()
		_ = given // given back: whether it is closed does not matter
	}
}

// A reader that watches, loads, and waits when it has not seen enough yet, must
// come to the end of what a writer does meanwhile, without asking on a clock.
func watchMissesNothing(t *testing.T, s session.Store) {
	w, ok := s.(session.Watcher)
	if !ok {
		return
	}
	const changes = 40
	var wg sync.WaitGroup
	for range 4 {
		rec := NewRecord()
		create(t, s, rec)
		for range 2 {
			wg.Go(func() {
				ctx := within(t)
				for {
					changed, stop := w.Watch(rec.Key)
					got, err := s.Load(ctx, rec.Key)
					if err != nil {
						t.Errorf("load: %v", err)
					}
					if err != nil || got.Rev == rec.Rev+changes {
						stop()
						return
					}
					select {
					case <-changed:
					case <-time.After(hearing):
						t.Errorf("revision %d was seen, and none of the changes after it was heard of", got.Rev)
						stop()
						return
					}
					stop()
				}
			})
		}
		wg.Go(func() {
			for old, i := rec, 0; i < changes; i++ {
				next := old.Next()
				if err := s.Replace(within(t), old, next); err != nil {
					t.Errorf("replace: %v", err)
					return
				}
				old = next
			}
		})
	}
	wg.Wait()
}

func watchEnds(t *testing.T, s session.Store) {
	w, ok := s.(session.Watcher)
	if !ok {
		return
	}
	rec := NewRecord()
	create(t, s, rec)
	load(t, s, rec.Key)
	changed, stop := w.Watch(rec.Key)
	defer stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	heard(t, changed, "the end of the store")
	late, stopLate := w.Watch(rec.Key)
	defer stopLate()
	heard(t, late, "a store that was closed before")
}

func local(t *testing.T, s session.Store) {
	l, ok := s.(session.Local)
	if !ok {
		return
	}
	rec := NewRecord()
	if got := l.Local(rec.Key); got != nil {
		t.Fatalf("local of a key that never was: %v", got)
	}
	create(t, s, rec)
	held := 0
	for range 50 {
		if got := load(t, s, rec.Key); !equal(got, rec) {
			t.Fatalf("load after a change: %v", got)
		}
		if got := l.Local(rec.Key); got != nil {
			held++
			if !equal(got, rec) {
				t.Fatalf("local after a load of revision %d: %v", rec.Rev, got)
			}
		}
		next := rec.Next()
		Fill(next, 200)
		replace(t, s, rec, next)
		rec = next
		if got := l.Local(rec.Key); got != nil && !equal(got, rec) {
			t.Fatalf("local after a replace with revision %d: %v", rec.Rev, got)
		}
	}
	t.Logf("in memory %d times of 50", held)
	next := rec.Next()
	next.Expiry = time.Now().Add(-time.Minute)
	replace(t, s, rec, next)
	if got := l.Local(rec.Key); got != nil {
		t.Fatalf("local of a record that has expired: %v", got)
	}
	rec = NewRecord()
	create(t, s, rec)
	load(t, s, rec.Key)
	if err := s.Delete(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	if got := l.Local(rec.Key); got != nil {
		t.Fatalf("local after a delete: %v", got)
	}
	rec = NewRecord()
	create(t, s, rec)
	load(t, s, rec.Key)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := l.Local(rec.Key); got != nil {
		t.Fatalf("local after close: %v", got)
	}
}

func fresh(t *testing.T, s session.Store) {
	c, ok := s.(session.Caching)
	if !ok {
		return
	}
	rec := NewRecord()
	if got, err := c.Fresh(t.Context(), rec.Key); got != nil || !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("fresh of a key that never was: %v, %v", got, err)
	}
	create(t, s, rec)
	for range 20 {
		load(t, s, rec.Key)
		next := rec.Next()
		Fill(next, 200)
		replace(t, s, rec, next)
		if got, err := c.Fresh(t.Context(), rec.Key); err != nil || !equal(got, next) {
			t.Fatalf("fresh after a replace: %v, %v", got, err)
		}
		rec = next
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Fresh(cancelled, rec.Key); !errors.Is(err, context.Canceled) {
		t.Fatalf("fresh with a context that is done: %v", err)
	}
	if err := s.Delete(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fresh(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("fresh after a delete: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fresh(t.Context(), rec.Key); !errors.Is(err, session.ErrStoreUnavailable) {
		t.Fatalf("fresh after close: %v", err)
	}
}

func neverBack(t *testing.T, s session.Store) {
	rec := NewRecord()
	create(t, s, rec)
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for seen := rec.Rev; ; {
				got, err := s.Load(t.Context(), rec.Key)
				if err != nil || got.Rev < seen {
					t.Errorf("a load gave revision %d after %d: %v", got.Rev, seen, err)
					return
				}
				seen = got.Rev
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 2 {
		writers.Go(func() {
			for range 100 {
				old, err := s.Load(t.Context(), rec.Key)
				if err != nil {
					t.Errorf("load: %v", err)
					return
				}
				next := old.Next()
				if err := s.Replace(t.Context(), old, next); err == nil {
					if got, err := s.Load(t.Context(), rec.Key); err != nil || got.Rev < next.Rev {
						t.Errorf("after a replace with revision %d: %v, %v", next.Rev, got, err)
					}
				} else if !errors.Is(err, session.ErrConflict) {
					t.Errorf("replace: %v", err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}
