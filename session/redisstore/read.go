// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"errors"
	"hash/maphash"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	// rolledBackReads is how often a read is repeated that gave an older
	// revision than there was; a node that is being replaced may give it.
	rolledBackReads = 4
	// rolledBackPatience is how long such a record is not believed.
	rolledBackPatience = 2 * time.Second
	// copyLife is given to the client, which wants to know and keeps nothing.
	// ToStaticTTL has it ask for the value alone: a transaction that asks for
	// the key's life as well is refused by a server whose memory is full.
	copyLife = time.Hour
)

// reading is what a read gave.
type reading struct {
	rec   *session.Record
	sum   uint64 // of the value
	size  int
	began int64  // on the clock of copies, before the read was sent
	mark  string // by which the tracker knows the read; empty without one
}

// Load implements [session.Store]. While a record is unchanged it gives the same
// pointer each time.
func (s *Store) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, unavailable(ctx.Err())
	}
	if s.closed.Load() {
		return nil, unavailable(errClosed)
	}
	if rec := s.copies.get(key); rec != nil {
		return rec, nil
	}
	for {
		f, leading := s.copies.join(key)
		if leading {
			f.rec, f.err = s.readNew(ctx, key, false)
			f.own = ctx.Err() != nil
			s.copies.land(key, f)
			return f.rec, f.err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
		// What only its own caller's end kept from an answer says nothing.
		if !f.own {
			return f.rec, f.err
		}
	}
}

// Local implements [session.Local] with what is a local copy at this moment.
func (s *Store) Local(key session.Key) *session.Record {
	if s.closed.Load() {
		return nil
	}
	return s.copies.get(key)
}

// Fresh implements [session.Caching]: it reads what the server has, whatever
// local copies there are.
func (s *Store) Fresh(ctx context.Context, key session.Key) (*session.Record, error) {
	return s.readNew(ctx, key, true)
}

// readNew reads a record and keeps it as a local copy. Unless evenOlder is set
// it gives none that is older than what was given before.
func (s *Store) readNew(ctx context.Context, key session.Key, evenOlder bool) (*session.Record, error) {
	for older := 1; ; older++ {
		r, err := s.read(ctx, key)
		if err != nil {
			if errors.Is(err, session.ErrNotFound) {
				s.copies.absent(key, r.began)
			}
			return nil, err
		}
		rec, verdict := s.copies.settle(r)
		switch {
		case verdict == given || verdict == wentBack && evenOlder:
			return rec, nil
		case older == rolledBackReads:
			return nil, session.ErrWentBack
		}
		select {
		case <-time.After(20 * time.Millisecond << older):
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
}

var sumSeed = maphash.MakeSeed()

// read asks the server, on the tracked connection when there is one. However
// large the value is, no more is fetched than a record may have.
func (s *Store) read(ctx context.Context, key session.Key) (r reading, err error) {
	name := s.keys.record(key)
	r.began = s.copies.now()
	var value []byte
	err = s.step(ctx, func(ctx context.Context, l *link, _ bool) error {
		for range 2 {
			// A byte more than there may be, to see whether there is; and some
			// more still, to give every read another name.
			end := maxValueSize + int64(s.reads.Add(1)&0xffff)
			read := l.B().Getrange().Key(name).Start(0).End(end)
			r.began = s.copies.now()
			var result rueidis.RedisResult
			if l.tracking {
				s.copies.unmark(key, r.mark)
				r.mark = readMark(end)
				result = l.DoCache(ctx, read.Cache().ToStaticTTL(), copyLife)
			} else {
				result = l.Do(ctx, read.Build())
			}
			var err error
			if value, err = result.AsBytes(); err != nil {
				return err
			}
			if len(value) > 0 {
				return nil
			}
			// No key and an empty string look alike.
			there, err := l.Do(ctx, l.B().Exists().Key(name).Build()).AsInt64()
			if err != nil {
				return err
			}
			if there == 0 {
				return session.ErrNotFound
			}
		}
		return errDamaged
	})
	if err == nil {
		if r.rec, err = decode(key, value); err != nil {
			err = unavailable(err)
		}
	}
	if err != nil {
		s.copies.unmark(key, r.mark)
		return r, err
	}
	r.sum, r.size = maphash.Bytes(sumSeed, value), len(value)
	return r, nil
}

// readMark is how the client names a read to the tracker.
func readMark(end int64) string { return "GETRANGE0" + strconv.FormatInt(end, 10) }
