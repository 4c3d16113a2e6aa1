// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package memstore keeps session records in the memory of the process. They are
// gone when it ends.
//
// The store is bounded. When it is full it forgets records that have expired,
// and then refuses new ones with [session.ErrFull]: a live session is never
// evicted, because whoever can make sessions could then end other people's.
package memstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// Defaults of [Options].
const (
	DefaultMaxRecords    = 100_000
	DefaultMaxBytes      = 256 << 20
	DefaultSweepInterval = time.Minute
)

// recordOverhead is what a record costs beyond its encoded size, in bytes: the
// Go values, the map entries and the place in the heap, rounded up.
const recordOverhead = 512

// Options bound a [Store]. The zero value means the defaults.
type Options struct {
	// MaxRecords is how many records the store takes: sessions, tombstones of
	// ended ones and logins being finished. Default [DefaultMaxRecords].
	MaxRecords int64
	// MaxBytes bounds the memory for records, estimated from their encoded
	// sizes. Create refuses to pass it; Replace may, by what one record grows,
	// because a session that is there must go on. Default [DefaultMaxBytes].
	MaxBytes int64
	// SweepInterval is how often expired records are forgotten while nothing
	// else makes room. Default [DefaultSweepInterval].
	SweepInterval time.Duration
}

var errClosed = errors.New("closed")

// Store is a [session.Store] in memory. Use [New].
type Store struct {
	maxRecords, maxBytes int64
	records, bytes       atomic.Int64

	shards [shardCount]shard
	index  index

	closed  atomic.Bool
	stop    chan struct{}
	sweeper sync.WaitGroup
}

// New makes an empty store. Close it: a goroutine forgets expired records until
// then.
func New(o Options) *Store {
	if o.MaxRecords <= 0 {
		o.MaxRecords = DefaultMaxRecords
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.SweepInterval <= 0 {
		o.SweepInterval = DefaultSweepInterval
	}
	s := &Store{maxRecords: o.MaxRecords, maxBytes: o.MaxBytes, stop: make(chan struct{})}
	for i := range s.shards {
		s.shards[i].entries = make(map[session.Key]*entry)
	}
	s.index.init()
	s.sweeper.Go(func() {
		tick := time.NewTicker(o.SweepInterval)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.sweep()
			}
		}
	})
	return s
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	size, err := sizeOf(rec)
	if err != nil {
		return err
	}
	if !s.reserve(size) {
		s.sweep()
		if !s.reserve(size) {
			// A key that is there is a conflict of the caller's, full or not.
			if _, err := s.Load(ctx, rec.Key); err == nil {
				return session.ErrExists
			}
			return session.ErrFull
		}
	}
	sh := s.shard(rec.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err := s.usable(ctx); err != nil { // Close may have emptied the shard since
		s.release(size)
		return err
	}
	if e, ok := sh.entries[rec.Key]; ok {
		if e.live(time.Now()) {
			s.release(size)
			return session.ErrExists
		}
		s.drop(sh, e)
	}
	sh.add(&entry{rec: rec, size: size})
	s.index.move(rec.Key, nil, rec.Index)
	return nil
}

// Load implements [session.Store]. It gives the pointer that was stored.
func (s *Store) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if rec := s.live(key, time.Now()); rec != nil {
		return rec, nil
	}
	return nil, session.ErrNotFound
}

// Local implements [session.Local]: everything is in memory.
func (s *Store) Local(key session.Key) *session.Record {
	if s.closed.Load() {
		return nil
	}
	return s.live(key, time.Now())
}

// Replace implements [session.Store].
func (s *Store) Replace(ctx context.Context, old, next *session.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if next.Key != old.Key || next.Rev != old.Rev+1 {
		return fmt.Errorf("%w: not the next revision of the record", session.ErrStoreUnavailable)
	}
	size, err := sizeOf(next)
	if err != nil {
		return err
	}
	sh := s.shard(old.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, ok := sh.entries[old.Key]
	switch {
	case !ok || !e.live(time.Now()):
		return session.ErrNotFound
	case e.rec.Rev != old.Rev:
		return session.ErrConflict
	}
	s.bytes.Add(size - e.size)
	s.index.move(next.Key, e.rec.Index, next.Index)
	e.size, e.rec = size, next
	sh.moved(e)
	return nil
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, key session.Key) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e, ok := sh.entries[key]; ok {
		s.drop(sh, e)
	}
	return nil
}

// Find implements [session.Store].
func (s *Store) Find(ctx context.Context, index session.IndexKey) ([]session.Key, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	now := time.Now()
	keys := s.index.keys(index)
	live := keys[:0]
	for _, k := range keys {
		// The record may have left the index since.
		if rec := s.live(k, now); rec != nil && slices.Contains(rec.Index, index) {
			live = append(live, k)
		}
	}
	return live, nil
}

// Close forgets everything.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.stop)
	s.sweeper.Wait()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for len(sh.byExpiry) > 0 {
			s.drop(sh, sh.byExpiry[0])
		}
		for key := range sh.watched {
			sh.tell(key)
		}
		sh.mu.Unlock()
	}
	return nil
}

// Exclusive implements [session.Exclusive]: no other process sees this memory.
func (s *Store) Exclusive() bool { return true }

func (s *Store) usable(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, errClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, err)
	}
	return nil
}

func (s *Store) live(key session.Key, now time.Time) *session.Record {
	sh := s.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if e, ok := sh.entries[key]; ok && e.live(now) {
		return e.rec
	}
	return nil
}

// reserve counts a new record in, unless that passes a bound.
func (s *Store) reserve(size int64) bool {
	if s.records.Add(1) > s.maxRecords {
		s.records.Add(-1)
		return false
	}
	if s.bytes.Add(size) > s.maxBytes {
		s.release(size)
		return false
	}
	return true
}

func (s *Store) release(size int64) {
	s.records.Add(-1)
	s.bytes.Add(-size)
}

// drop removes an entry. The shard is locked by the caller.
func (s *Store) drop(sh *shard, e *entry) {
	sh.remove(e)
	s.index.move(e.rec.Key, e.rec.Index, nil)
	s.release(e.size)
}

// sweep forgets what has expired. It costs a look at each shard, and the work
// for what it forgets.
func (s *Store) sweep() {
	now := time.Now()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for len(sh.byExpiry) > 0 && !sh.byExpiry[0].live(now) {
			s.drop(sh, sh.byExpiry[0])
		}
		sh.mu.Unlock()
	}
}

// sizeOf gives the estimated size of a record in memory, in bytes, or
// [session.ErrTooLarge].
func sizeOf(rec *session.Record) (int64, error) {
	b, err := rec.MarshalBinary()
	if err != nil {
		return 0, err
	}
	return int64(len(b)) + recordOverhead, nil
}

var (
	_ session.Store     = (*Store)(nil)
	_ session.Exclusive = (*Store)(nil)
	_ session.Local     = (*Store)(nil)
)
