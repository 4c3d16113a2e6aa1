// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// Two instances, one server: while both write, no load on either goes back, none
// gives parts of two revisions, and none is older than what had been stored a
// second before it began.
func TestCoherence(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	stores := []*redisstore.Store{open(t, o), open(t, o)}
	const sessions = 12
	records := createAll(t, stores[0], sessions)
	// What was stored, and since when.
	type state struct {
		mu  sync.Mutex
		rev uint64
		at  time.Time
	}
	states := make([]state, sessions)
	for i := range states {
		states[i] = state{rev: 1, at: time.Now()}
	}
	const bound = time.Second
	var loads, changes, late, unavailable atomic.Int64
	load := func(s *redisstore.Store, rec *session.Record) *session.Record {
		got, err := s.Load(t.Context(), rec.Key)
		switch {
		case err == nil:
			return got
		case errors.Is(err, session.ErrStoreUnavailable): // where this machine has other things to do as a connection breaks
			unavailable.Add(1)
		default:
			t.Errorf("load: %v", err)
		}
		return nil
	}
	end := time.Now().Add(4 * time.Second)
	var wg sync.WaitGroup
	// now and then the connections break
	wg.Go(func() {
		for time.Now().Before(end) {
			time.Sleep(700 * time.Millisecond)
			proxy.Cut()
		}
	})
	for _, s := range stores {
		for i, rec := range records {
			wg.Go(func() { // writes
				for time.Now().Before(end) {
					old := load(s, rec)
					if old == nil {
						continue
					}
					next := old.Next()
					storetest.Fill(next, 500)
					err := s.Replace(t.Context(), old, next)
					stored := time.Now()
					if err == nil {
						changes.Add(1)
						st := &states[i]
						st.mu.Lock()
						if next.Rev > st.rev {
							st.rev, st.at = next.Rev, stored
						}
						st.mu.Unlock()
						if got := load(s, rec); got != nil && got.Rev < next.Rev {
							t.Errorf("after an own write of %d: %v", next.Rev, got)
						}
					} else if !errors.Is(err, session.ErrConflict) && !errors.Is(err, session.ErrStoreUnavailable) {
						t.Errorf("replace: %v", err)
					}
					time.Sleep(3 * time.Millisecond)
				}
			})
			wg.Go(func() { // reads
				var seen uint64
				for time.Now().Before(end) {
					st := &states[i]
					st.mu.Lock()
					stored, at := st.rev, st.at
					st.mu.Unlock()
					got := load(s, rec)
					if got == nil {
						continue
					}
					loads.Add(1)
					if got.Rev < seen {
						t.Errorf("revision %d went back to %d", seen, got.Rev)
					}
					if storetest.Mixed(got) && got.Rev > 1 {
						t.Errorf("revision %d is mixed with another", got.Rev)
					}
					if got.Rev < stored {
						late.Add(1)
						if lag := time.Since(at); lag > bound {
							t.Errorf("revision %d is still given %s after %d was stored", got.Rev, lag, stored)
						}
					}
					seen = got.Rev
					time.Sleep(50 * time.Microsecond)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d loads, %d changes, %d loads saw a change late", loads.Load(), changes.Load(), late.Load())
	if loads.Load() < 1000 || changes.Load() < 100 {
		t.Error("too little happened to show anything")
	}
	if n := unavailable.Load(); n > loads.Load()/100 {
		t.Errorf("%d loads failed", n)
	}
}

// How soon a change by another instance is seen, without anything in between.
func TestChangesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	o := at(t, redistest.Start(t).Address())
	writer, reader := open(t, o), open(t, o)
	rec := createAll(t, writer, 1)[0]
	var worst time.Duration
	for range 200 {
		if _, err := reader.Load(t.Context(), rec.Key); err != nil {
			t.Fatal(err)
		}
		next := rec.Next()
		if err := writer.Replace(t.Context(), rec, next); err != nil {
			t.Fatal(err)
		}
		stored := time.Now()
		for {
			got, err := reader.Load(t.Context(), rec.Key)
			if err != nil {
				t.Fatal(err)
			}
			if got.Rev == next.Rev {
				break
			}
			if time.Since(stored) > 5*time.Second {
				t.Fatal("a change is not seen")
			}
		}
		worst = max(worst, time.Since(stored))
		rec = next
	}
	t.Logf("of 200 changes the slowest was seen after %s", worst)
	if worst > 500*time.Millisecond {
		t.Errorf("a change was seen after %s only", worst)
	}
}

// The hot path reads memory: while nobody changes a record, the server is asked
// for it once, the same pointer is given, and heartbeats are all that is sent.
func TestHotPathReadsMemory(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	rec := createAll(t, s, 1)[0]
	var reads, others atomic.Int64
	proxy.Rule(func(command []string) redistest.Fault {
		switch {
		case command[0] == "GETRANGE" && command[2] == "0":
			reads.Add(1)
		case command[0] == "GETRANGE":
			others.Add(1)
		}
		return redistest.Fault{}
	})
	first, err := s.Load(t.Context(), rec.Key)
	if err != nil {
		t.Fatal(err)
	}
	if first != rec {
		t.Error("what was written is not given as it is")
	}
	start := time.Now()
	loads := 0
	for time.Since(start) < 2*time.Second {
		got, err := s.Load(t.Context(), rec.Key)
		if err != nil || got != first {
			t.Fatalf("load: %p, want %p: %v", got, first, err)
		}
		loads++
		time.Sleep(100 * time.Microsecond)
	}
	if reads.Load() > 2 || others.Load() < 4 || others.Load() > 12 {
		t.Errorf("%d reads and %d heartbeats for %d loads", reads.Load(), others.Load(), loads)
	}
	t.Logf("%d loads, %d reads, %d heartbeats", loads, reads.Load(), others.Load())
}

// A watch hears of another instance's change through the server, and by looking
// where the server does not tell.
func TestWatchOverInstances(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, c := range map[string]struct {
		uncached bool
		mostly   time.Duration
	}{"told": {false, 50 * time.Millisecond}, "looking": {true, time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := alone(at(t, server.Address()))
			o.NoClientCache = c.uncached
			watcher, writer := open(t, o), open(t, o)
			rec := createAll(t, writer, 1)[0]
			var took []time.Duration
			for range 5 {
				if _, err := watcher.Load(t.Context(), rec.Key); err != nil {
					t.Fatal(err)
				}
				changed, stop := watcher.Watch(rec.Key)
				select {
				case <-changed:
					t.Error("told of a change that there was not") // allowed, but not all the time
				case <-time.After(600 * time.Millisecond):
				}
				next := rec.Next()
				if err := writer.Replace(t.Context(), rec, next); err != nil {
					t.Fatal(err)
				}
				stored := time.Now()
				<-changed
				took = append(took, time.Since(stored))
				stop()
				rec = next
			}
			slices.Sort(took)
			if took[2] > c.mostly || took[4] > answered { // half of them, and all
				t.Errorf("heard after %s", took)
			}
		})
	}
}

// Watches are told when the store can no longer tell.
func TestWatchOfADeadServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	rec := createAll(t, s, 1)[0]
	if _, err := s.Load(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	changed, stop := s.Watch(rec.Key)
	defer stop()
	server.Pause()
	defer server.Continue()
	select {
	case <-changed:
	case <-time.After(4 * time.Second):
		t.Fatal("a watch outlives its server")
	}
}

// A server that lost writes in a failover gives an older record. Load does not,
// for a while; Fresh does, so that the record can be made what it was; and a
// write on top of it counts.
func TestRolledBackServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for name, uncached := range map[string]bool{"tracked": false, "uncached": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := alone(at(t, server.Address()))
			o.NoClientCache = uncached
			s := open(t, o)
			first := createAll(t, s, 1)[0]
			key := o.KeyPrefix + "s:{" + first.Key.String() + "}"
			server.Must("COPY", key, key+"before")
			second := first.Next()
			if err := s.Replace(t.Context(), first, second); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Load(t.Context(), first.Key); err != nil || got.Rev != 2 {
				t.Fatal(got, err)
			}
			back := func() { server.Must("COPY", key+"before", key, "REPLACE") }
			back()
			redistest.Eventually(t, "the server's word is doubted", func() error {
				got, err := s.Load(t.Context(), first.Key)
				if err == nil && got.Rev < 2 {
					t.Fatalf("a load gave revision %d after 2", got.Rev)
				}
				if err == nil {
					return errors.New("not noticed")
				}
				return nil
			})
			got, err := s.Fresh(t.Context(), first.Key)
			if err != nil || got.Rev != 1 {
				t.Fatalf("fresh: %v, %v", got, err)
			}
			mended := got.Next()
			mended.Gen = 7
			if err := s.Replace(t.Context(), got, mended); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Load(t.Context(), first.Key); err != nil || got.Gen != 7 {
				t.Fatalf("after it was mended: %v, %v", got, err)
			}
			// Nobody mends it: it is believed in the end.
			back()
			start := time.Now()
			redistest.Eventually(t, "the server's word counts", func() error {
				got, err := s.Load(t.Context(), first.Key)
				if err == nil && got.Rev != 1 {
					return errors.New("not noticed")
				}
				return err
			})
			if took := time.Since(start); took < 1900*time.Millisecond || took > recovery {
				t.Errorf("it took %s", took)
			}
		})
	}
}
