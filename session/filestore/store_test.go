// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "sessions.db")
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Options{
		"in memory": {SweepInterval: time.Millisecond},
		// So small that every record is evicted soon, or never cached.
		"from the file": {CacheBytes: cacheShards * (cacheOverhead + 1200), SweepInterval: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) session.Store { return open(t, o) })
		})
	}
}

// The hot path: no read of the file, no decoding, one value for everybody.
func TestLoadGivesTheSamePointer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	s := open(t, Options{Path: path})
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	same := func(s *Store, want *session.Record) *session.Record {
		t.Helper()
		for range 3 {
			got, err := s.Load(t.Context(), rec.Key)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if got != want {
				t.Fatal("load gives another pointer although nothing changed")
			}
		}
		return want
	}
	same(s, rec)
	next := rec.Next()
	if err := s.Replace(t.Context(), rec, next); err != nil {
		t.Fatal(err)
	}
	same(s, next)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reopened := open(t, Options{Path: path})
	if got := same(reopened, nil); got.Rev != next.Rev || storetest.Mixed(rec) {
		t.Fatalf("revision %d came back, want %d", got.Rev, next.Rev)
	}
}

func TestRecordsSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	index := storetest.NewIndexKey()
	var recs []*session.Record
	s := open(t, Options{Path: path})
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			rec := storetest.NewRecord(index)
			if err := s.Create(t.Context(), rec); err != nil {
				t.Error(err)
			}
			next := rec.Next()
			storetest.Fill(next, 3000)
			if err := s.Replace(t.Context(), rec, next); err != nil {
				t.Error(err)
			}
			mu.Lock()
			recs = append(recs, next)
			mu.Unlock()
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Path: path})
	for _, rec := range recs {
		got, err := s.Load(t.Context(), rec.Key)
		if err != nil || got.Rev != rec.Rev || !bytes.Equal(got.Tokens, rec.Tokens) || storetest.Mixed(got) {
			t.Fatalf("after a restart: %v, %v", got, err)
		}
	}
	if keys, err := s.Find(t.Context(), index); err != nil || len(keys) != len(recs) {
		t.Fatalf("after a restart find gives %d keys of %d, %v", len(keys), len(recs), err)
	}
}

func TestFullStoreRefusesNewSessions(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	const room = 20
	for _, opened := range []string{"at first", "after a restart"} {
		s := open(t, Options{Path: path, MaxRecords: room})
		if opened == "at first" {
			for i := range room {
				rec := storetest.NewRecord()
				if i == 0 {
					rec.Expiry = time.Now().Add(-time.Minute)
				}
				if err := s.Create(t.Context(), rec); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
				t.Fatalf("an expired record took the room of a new one: %v", err)
			}
		}
		rec := storetest.NewRecord()
		if err := s.Create(t.Context(), rec); !errors.Is(err, session.ErrFull) {
			t.Fatalf("%s: create in a full store: %v, want ErrFull", opened, err)
		}
		if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
			t.Fatalf("%s: the refused record is there: %v", opened, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Expired records leave the file, with all that points to them, and the room
// is used again.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := open(t, Options{SweepInterval: time.Hour})
	stays := storetest.NewRecord(storetest.NewIndexKey())
	if err := s.Create(t.Context(), stays); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 * sweepBatch {
		wg.Go(func() {
			rec := storetest.NewRecord(storetest.NewIndexKey(), storetest.NewIndexKey())
			if err := s.Create(t.Context(), rec); err != nil {
				t.Error(err)
				return
			}
			next := rec.Next()
			next.Expiry = time.Now().Add(-time.Duration(i) * time.Second)
			if err := s.Replace(t.Context(), rec, next); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.sweep()
	want := map[string]int{"records": 1, "expiry": 1, "index": 1, "damaged": 0}
	if got := entries(t, s); got["records"] != 1 || got["expiry"] != 1 || got["index"] != 1 || got["damaged"] != 0 {
		t.Fatalf("after the sweep: %v, want %v", got, want)
	}
	if _, err := s.Load(t.Context(), stays.Key); err != nil {
		t.Fatalf("the sweep took a live record: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.committer.count != 1 {
		t.Fatalf("%d records counted, want 1", s.committer.count)
	}
}

func entries(t *testing.T, s *Store) map[string]int {
	t.Helper()
	n := map[string]int{}
	if err := s.file.view(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			n[string(name)] = tx.Bucket(name).Stats().KeyN
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A call that waits for the disk ends with its context; the change that was
// asked for before is made or not, and the store goes on.
func TestCancellationWhileTheDiskIsBusy(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	release, busy := make(chan struct{}), make(chan struct{})
	s.committer.later(func(*table) error {
		close(busy)
		<-release
		return nil
	})
	<-busy
	ctx, cancel := context.WithCancel(t.Context())
	rec := storetest.NewRecord()
	result := make(chan error)
	go func() { result <- s.Create(ctx, rec) }()
	select {
	case err := <-result:
		t.Fatalf("create did not wait for the disk: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("create: %v", err)
	}
	close(release)
	if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("a change whose caller left before its turn was made: %v", err)
	}
}

// Close commits what was asked for before it.
func TestCloseWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	s := open(t, Options{Path: path})
	release, busy := make(chan struct{}), make(chan struct{})
	s.committer.later(func(*table) error {
		close(busy)
		<-release
		return nil
	})
	<-busy
	rec := storetest.NewRecord()
	created, closed := make(chan error, 1), make(chan error, 1)
	go func() { created <- s.Create(t.Context(), rec) }()
	for s.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
		t.Fatal("close did not wait for the change in flight")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if err := <-created; err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := <-closed; err != nil {
		t.Fatalf("close: %v", err)
	}
	if _, err := open(t, Options{Path: path}).Load(t.Context(), rec.Key); err != nil {
		t.Fatalf("the change in flight was lost: %v", err)
	}
}

func (s *Store) waiting() int {
	s.committer.mu.Lock()
	defer s.committer.mu.Unlock()
	return len(s.committer.queue)
}

// Concurrent changes share flushes: far fewer transactions than changes.
func TestChangesShareTransactions(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	release, busy := make(chan struct{}), make(chan struct{})
	s.committer.later(func(*table) error {
		close(busy)
		<-release
		return nil
	})
	<-busy
	before := s.transactions(t)
	const changes = 200
	var wg sync.WaitGroup
	for range changes {
		wg.Go(func() {
			if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
				t.Error(err)
			}
		})
	}
	for s.waiting() < changes {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := s.transactions(t) - before; n > 2 {
		t.Fatalf("%d changes that waited together took %d transactions", changes, n)
	}
}

func (s *Store) transactions(t *testing.T) (id int) {
	t.Helper()
	if err := s.file.view(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// What waits while the disk does not answer is bounded.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	release, busy := make(chan struct{}), make(chan struct{})
	s.committer.later(func(*table) error {
		close(busy)
		<-release
		return nil
	})
	<-busy
	for range maxQueued {
		s.committer.later(func(*table) error { return nil })
	}
	err := s.Create(t.Context(), storetest.NewRecord())
	close(release)
	if !errors.Is(err, session.ErrStoreUnavailable) || !errors.Is(err, errBusy) {
		t.Fatalf("create behind %d changes: %v", maxQueued, err)
	}
	for s.waiting() > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := s.Create(t.Context(), storetest.NewRecord()); err != nil {
		t.Fatalf("create after the disk came back: %v", err)
	}
}

func TestExclusive(t *testing.T) {
	t.Parallel()
	var s session.Store = open(t, Options{})
	if x, ok := s.(session.Exclusive); !ok || !x.Exclusive() {
		t.Fatal("the file is locked, and so shared with nobody")
	}
}

func BenchmarkLoad(b *testing.B) { storetest.BenchmarkLoad(b, open(b, Options{})) }

func BenchmarkLoadFromFile(b *testing.B) {
	storetest.BenchmarkLoad(b, open(b, Options{CacheBytes: 1}))
}

func BenchmarkReplace(b *testing.B) { storetest.BenchmarkReplace(b, open(b, Options{})) }

// logTo collects what the store logs.
func logTo(b *lockedBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
