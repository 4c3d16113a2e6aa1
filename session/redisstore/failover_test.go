// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// load reads and writes sessions until it is ended, and remembers what was
// acknowledged.
type load struct {
	t       *testing.T
	s       *redisstore.Store
	records []*session.Record
	acked   []atomic.Uint64

	stop      chan struct{}
	wg        sync.WaitGroup
	succeeded atomic.Int64 // nanoseconds of the last write that was taken
	failed    atomic.Int64
	writes    atomic.Int64
}

// startLoad uses ErrStoreUnavailable as the gateway does: the session stays, and
// it is tried again.
func startLoad(t *testing.T, s *redisstore.Store, sessions int) *load {
	l := &load{t: t, s: s, records: createAll(t, s, sessions), stop: make(chan struct{})}
	l.acked = make([]atomic.Uint64, sessions)
	for i, rec := range l.records {
		l.acked[i].Store(rec.Rev)
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				old, err := s.Fresh(t.Context(), rec.Key)
				if err == nil {
					next := old.Next()
					storetest.Fill(next, 200)
					if err = s.Replace(t.Context(), old, next); err == nil {
						l.acked[i].Store(next.Rev)
						l.succeeded.Store(time.Now().UnixNano())
						l.writes.Add(1)
					}
				}
				if err != nil {
					l.failed.Add(1)
					if !errors.Is(err, session.ErrStoreUnavailable) && !errors.Is(err, session.ErrConflict) {
						t.Errorf("session %d: %v", i, err)
						return
					}
				}
			}
		})
	}
	return l
}

// recovered waits until every session was written after the moment.
func (l *load) recovered(since time.Time) time.Duration {
	l.t.Helper()
	before := make([]uint64, len(l.acked))
	for i := range before {
		before[i] = l.acked[i].Load()
	}
	for i := range before {
		redistest.Eventually(l.t, "a session is written again", func() error {
			if l.acked[i].Load() <= before[i] {
				return errors.New("not yet")
			}
			return nil
		})
	}
	return time.Since(since)
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
	for i, rec := range l.records {
		got, err := l.s.Fresh(l.t.Context(), rec.Key)
		if err != nil || got.Rev < l.acked[i].Load() {
			l.t.Errorf("session %d, acknowledged up to revision %d: %v, %v", i, l.acked[i].Load(), got, err)
		}
		if keys, err := l.s.Find(l.t.Context(), rec.Index[0]); err != nil || len(keys) != 1 {
			l.t.Errorf("session %d is not found: %v, %v", i, keys, err)
		}
	}
	l.t.Logf("%d writes, %d failures", l.writes.Load(), l.failed.Load())
}

// HARDENING F207: the primary is killed under load, and a replica takes over.
// With WAIT no acknowledged write is lost, nobody is logged out, and it goes on
// within two seconds of the failover.
func TestFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, 2)
	o := at(t, g.Addresses()...)
	o.Sentinel = &redisstore.Sentinel{Master: redistest.MasterName}
	o.WaitReplicas = 1
	l := startLoad(t, open(t, o), 20)
	primary, err := g.Primary()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	primary.Kill()
	killed := time.Now()
	var failover time.Duration
	redistest.Eventually(t, "another one takes over", func() error {
		next, err := g.Primary()
		if err != nil || next == primary {
			return errors.New("not yet")
		}
		if role := next.Must("ROLE"); role[:6] != "master" {
			return errors.New(role)
		}
		failover = time.Since(killed)
		return nil
	})
	outage := l.recovered(killed)
	t.Logf("failover took %s, the store %s", failover, outage)
	if outage > failover+5*time.Second { // a replica has to follow the new primary too, for WAIT
		t.Errorf("the store took %s, the failover %s", outage, failover)
	}
	l.end()
}

// HARDENING F207, F212: replicas that do not acknowledge. A write that they do
// not have is no success, and may have happened.
func TestWaitWithoutReplicas(t *testing.T) {
	t.Parallel()
	o := at(t, redistest.Start(t).Address())
	plain := open(t, o)
	rec := createAll(t, plain, 1)[0]
	o.WaitReplicas, o.WaitTimeout = 1, 100*time.Millisecond
	s := open(t, o)
	next := rec.Next()
	unavailableSoon(t, "replace", func() error { return s.Replace(t.Context(), rec, next) })
	unavailableSoon(t, "create", func() error { return s.Create(t.Context(), storetest.NewRecord()) })
	if got, err := plain.Fresh(t.Context(), rec.Key); err != nil || got.Rev != next.Rev {
		t.Errorf("the primary has %v, %v", got, err)
	}
	if err := s.Replace(t.Context(), rec, next); !errors.Is(err, session.ErrConflict) {
		t.Errorf("the same again: %v", err)
	}
}

// A slot moves to another node while its session is used, and before, during and
// after it copies are right.
func TestSlotMigration(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3)
	o := at(t, c.Addresses()...)
	l := startLoad(t, open(t, o), 10)
	reader := open(t, o)
	rec := l.records[0]
	key := "bff:s:{" + rec.Key.String() + "}"
	from := c.Owner(t, key)
	to := c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	check := func() {
		t.Helper()
		acked, since := l.acked[0].Load(), time.Now()
		redistest.Eventually(t, "the session is read", func() error {
			got, err := reader.Load(t.Context(), rec.Key)
			if errors.Is(err, session.ErrNotFound) {
				t.Fatal("a session is lost on the way")
			}
			if err != nil {
				since = time.Now()
				return err
			}
			if got.Rev < acked {
				if lag := time.Since(since); lag > answered {
					t.Fatalf("revision %d is given %s after %d was stored", got.Rev, lag, acked)
				}
				return errors.New("an older revision")
			}
			return nil
		})
	}
	for range 2 {
		check()
		c.Move(t, key, from, to, func() {
			for range 20 {
				check()
				time.Sleep(10 * time.Millisecond)
			}
		})
		check()
		if took := l.recovered(time.Now()); took > recovery {
			t.Errorf("recovery took %s", took)
		}
		// A change by the other instance is still heard of.
		acked := l.acked[0].Load()
		redistest.Eventually(t, "changes are seen", func() error {
			if got, err := reader.Load(t.Context(), rec.Key); err != nil || got.Rev <= acked {
				return errors.New("not yet")
			}
			return nil
		})
		from, to = to, from
	}
	l.end()
}

// A node of three is lost: its sessions cannot be had, the others go on as if
// nothing had happened; it comes back, and so do they.
func TestLostNode(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t, 3, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, at(t, c.Addresses()...))
	var records []*session.Record
	for range 30 {
		rec := storetest.NewRecord()
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
	lost := c.Nodes[1]
	theirs := make(map[*session.Record]bool)
	for _, rec := range records {
		theirs[rec] = c.Owner(t, "bff:s:{"+rec.Key.String()+"}") == lost
	}
	lost.Kill()
	time.Sleep(1200 * time.Millisecond) // no copy counts any more
	unavailable := 0
	for _, rec := range records {
		start := time.Now()
		_, err := s.Fresh(t.Context(), rec.Key)
		switch {
		case theirs[rec]:
			unavailable++
			if !errors.Is(err, session.ErrStoreUnavailable) {
				t.Errorf("a session of the lost node: %v", err)
			}
			if took := time.Since(start); took > answered {
				t.Errorf("it took %s", took)
			}
		case err != nil:
			t.Errorf("a session of another node: %v", err)
		}
	}
	if unavailable == 0 || unavailable == len(records) {
		t.Fatalf("%d of %d sessions are on the lost node", unavailable, len(records))
	}
	lost.Run()
	allThere(t, s, records)
}
