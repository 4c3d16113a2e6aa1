// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package filestore keeps session records in one file, which one process uses
// at a time. It is the default store: nothing else has to run, and sessions
// survive restarts, kill -9 and power cuts.
//
// A call that changed something returns after the change is on disk. Changes
// that arrive while an earlier one is being written share the next write, so
// that many refreshes at once cost few flushes. Reads come from memory, where
// the records that are used are kept.
//
// The file is a bbolt database with mode 0600. It should lie on a local disk:
// the lock that keeps a second process out does not work on every network file
// system.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-bff/caddy-bff/session"
)

// Defaults of [Options].
const (
	DefaultLockWait      = 10 * time.Second
	DefaultMaxRecords    = 1_000_000
	DefaultCacheBytes    = 64 << 20
	DefaultSweepInterval = time.Minute
)

// Options configure [Open]. All but Path have defaults.
type Options struct {
	// Path is the file. It is made when it is missing, with mode 0600, and so
	// is its directory, with mode 0700.
	Path string
	// LockWait is how long to wait for another process to let go of the file,
	// as after a restart. Default [DefaultLockWait].
	LockWait time.Duration
	// MaxRecords is how many records the store takes: sessions, tombstones of
	// ended ones and logins being finished. Then Create fails with
	// [session.ErrFull]. Default [DefaultMaxRecords].
	MaxRecords int
	// CacheBytes bounds the memory for records that were read or written
	// lately, estimated from their encoded sizes. Default [DefaultCacheBytes].
	CacheBytes int64
	// SweepInterval is how often expired records are taken off the disk.
	// Default [DefaultSweepInterval].
	SweepInterval time.Duration
	// Logger is told of damage and of loose file modes. Default: nobody.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.LockWait <= 0 {
		o.LockWait = DefaultLockWait
	}
	if o.MaxRecords <= 0 {
		o.MaxRecords = DefaultMaxRecords
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.SweepInterval <= 0 {
		o.SweepInterval = DefaultSweepInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// ErrLocked is wrapped by the error of [Open] when another process has the file.
var ErrLocked = errors.New("the session file is in use by another process")

var errClosed = errors.New("closed")

// Store is a [session.Store] in a file. Use [Open].
type Store struct {
	file      *file
	cache     *cache
	committer *committer
	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error
	stop      chan struct{}
	running   sync.WaitGroup
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	value, err := encode(rec)
	if err != nil {
		return err
	}
	return s.committer.do(ctx, func(t *table) error { return t.create(rec, value) })
}

// Load implements [session.Store]. While a record is unchanged and in memory
// it gives the same pointer each time.
func (s *Store) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	rec := s.cache.get(key)
	if rec == nil {
		var err error
		if rec, err = s.read(ctx, key); err != nil {
			return nil, err
		}
	}
	if !liveAt(rec.Expiry.Unix(), time.Now()) {
		return nil, session.ErrNotFound
	}
	return rec, nil
}

// Local implements [session.Local] with what is in the cache.
func (s *Store) Local(key session.Key) *session.Record {
	if s.closed.Load() {
		return nil
	}
	rec := s.cache.get(key)
	if rec == nil || !liveAt(rec.Expiry.Unix(), time.Now()) {
		return nil
	}
	return rec
}

// read loads a record from the file into the cache.
func (s *Store) read(ctx context.Context, key session.Key) (*session.Record, error) {
	generation := s.cache.generation(key)
	var rec *session.Record
	var size int
	err := s.file.view(func(tx *bolt.Tx) error {
		value := tx.Bucket(recordsBucket).Get(key[:])
		if value == nil {
			return session.ErrNotFound
		}
		env, err := decode(key, value)
		if err != nil {
			return err
		}
		size = len(value)
		rec, err = env.record(key)
		return err
	})
	switch {
	case errors.Is(err, errDamaged):
		if err := s.committer.do(ctx, func(t *table) error { return t.setAside(key) }); err != nil {
			return nil, err
		}
		return nil, session.ErrNotFound
	case errors.Is(err, session.ErrNotFound):
		return nil, session.ErrNotFound
	case err != nil:
		return nil, unavailable(err)
	}
	return s.cache.fill(rec, size, generation), nil
}

// Replace implements [session.Store].
func (s *Store) Replace(ctx context.Context, old, next *session.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if next.Key != old.Key || next.Rev != old.Rev+1 {
		return fmt.Errorf("%w: not the next revision of the record", session.ErrStoreUnavailable)
	}
	value, err := encode(next)
	if err != nil {
		return err
	}
	return s.committer.do(ctx, func(t *table) error { return t.replace(old.Rev, next, value) })
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, key session.Key) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.committer.do(ctx, func(t *table) error { return t.delete(key) })
}

// Find implements [session.Store].
func (s *Store) Find(ctx context.Context, index session.IndexKey) ([]session.Key, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	found := []session.Key{}
	var stale []session.Key
	err := s.file.view(func(tx *bolt.Tx) error {
		now := time.Now()
		records := tx.Bucket(recordsBucket)
		for key := range indexed(tx, index) {
			env, err := decode(key, records.Get(key[:]))
			switch {
			case errors.Is(err, errUnknownFormat):
				// Whoever asks must not take it for absent.
				found = append(found, key)
			case err != nil || !env.carries(index):
				stale = append(stale, key)
			case liveAt(env.expiry, now):
				found = append(found, key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(err)
	}
	if len(stale) > 0 {
		s.committer.later(func(t *table) error { return t.unindex(index, stale) })
	}
	return found, nil
}

// Close waits for the changes in flight, then lets go of the file.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		close(s.stop)
		s.committer.finish()
		s.running.Wait()
		s.closeErr = s.file.close()
	})
	return s.closeErr
}

// Exclusive implements [session.Exclusive]: the file is locked while it is open.
func (s *Store) Exclusive() bool { return true }

func (s *Store) usable(ctx context.Context) error {
	if s.closed.Load() {
		return unavailable(errClosed)
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	return nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, err) }

// liveAt goes by whole seconds, which is what the file keeps.
func liveAt(expiry int64, now time.Time) bool { return now.Unix() < expiry }
