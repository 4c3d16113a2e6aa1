// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// Open opens the store, making the file if it is missing. It waits up to
// LockWait for another process to let go of the file, and then fails with
// [ErrLocked]. Errors wrap [session.ErrStoreUnavailable].
//
// Close the store: a goroutine writes and another removes expired records until
// then.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Path == "" {
		return nil, unavailable(errors.New("no path for the session file"))
	}
	o = o.withDefaults()
	f, records, err := openFile(ctx, o)
	if err != nil {
		return nil, unavailable(err)
	}
	s := &Store{file: f, cache: newCache(o.CacheBytes), stop: make(chan struct{})}
	s.committer = newCommitter(f, s.cache, o.Logger, o.MaxRecords, records)
	s.running.Go(func() {
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
	return s, nil
}

// sweep removes expired records, in transactions small enough that a change of
// somebody else does not wait long for one.
func (s *Store) sweep() {
	ctx := context.Background() // the committer answers every change that it took
	for {
		removed := 0
		err := s.committer.do(ctx, func(t *table) error {
			removed = t.expire(sweepBatch)
			return nil
		})
		if err != nil || removed < sweepBatch {
			break
		}
	}
	_ = s.committer.do(ctx, (*table).expireAside)
}

var (
	_ session.Store     = (*Store)(nil)
	_ session.Exclusive = (*Store)(nil)
	_ session.Local     = (*Store)(nil)
)
