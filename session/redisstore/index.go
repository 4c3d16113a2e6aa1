// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	// maxMembers bounds an index. A further Create fails with ErrFull once
	// those that have ended have been taken off; a Replace is taken.
	maxMembers = 4096
	// indexMargin is how much longer than its record an entry stays. Clocks of
	// instances may differ by as much: an expiry that one of them moves by a
	// write that leaves the expiry alone stays covered.
	indexMargin = 10 * time.Minute
	// settled is the age below which no entry is taken off, whether its record
	// is there or not: somebody may be about to write it.
	settled = time.Minute
)

// enter makes the record's entries in these indexes, before the record: a live
// record is never missing from one. most is the bound, or 0.
func (s *Store) enter(ctx context.Context, rec *session.Record, indexes []session.IndexKey, most int) error {
	life := lifeOf(rec)
	if life <= 0 || len(indexes) == 0 {
		return nil
	}
	errs := make([]error, len(indexes))
	var wg sync.WaitGroup
	for i, index := range indexes {
		wg.Go(func() {
			errs[i] = s.enterOne(ctx, rec.Key, index, life, most)
			if errors.Is(errs[i], session.ErrFull) {
				// Of those that have ended, and that nobody asked for since.
				if _, stale, err := s.find(ctx, index); err == nil && s.leave(ctx, index, stale) == nil {
					errs[i] = s.enterOne(ctx, rec.Key, index, life, most)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) enterOne(ctx context.Context, key session.Key, index session.IndexKey, life time.Duration, most int) error {
	seconds := int64((life+indexMargin)/time.Second) + 1
	var repeated bool
	reply, err := s.change(ctx, enterScript, s.keys.index(index), &repeated,
		fixed(string(key[:]), strconv.FormatInt(seconds, 10), strconv.Itoa(most)))
	if err != nil {
		return err
	}
	switch o, err := reply.AsInt64(); {
	case err != nil:
		return unavailable(err)
	case outcome(o) == refused:
		return session.ErrFull
	}
	return nil
}

// find gives the keys of an index whose records carry it, and the others.
func (s *Store) find(ctx context.Context, index session.IndexKey) (found, stale []session.Key, err error) {
	members, err := s.members(ctx, index)
	if err != nil {
		return nil, nil, err
	}
	found = make([]session.Key, 0, len(members))
	for some := range slices.Chunk(members, 128) {
		heads, err := s.heads(ctx, some)
		if err != nil {
			return nil, nil, err
		}
		for i, key := range some {
			if len(heads[i]) > 0 && carries(heads[i], key, index) {
				found = append(found, key)
			} else {
				stale = append(stale, key)
			}
		}
	}
	return found, stale, nil
}

// leave takes keys off an index, unless they were entered a moment ago.
func (s *Store) leave(ctx context.Context, index session.IndexKey, keys []session.Key) error {
	for some := range slices.Chunk(keys, 512) {
		args := make([]string, 1, 1+len(some))
		args[0] = strconv.FormatInt(int64(settled/time.Second), 10)
		for _, k := range some {
			args = append(args, string(k[:]))
		}
		err := s.step(ctx, func(ctx context.Context, l *link, _ bool) error {
			return leaveScript.run(ctx, l, s.keys.index(index), fixed(args...)).Error()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveLater is leave behind the caller's back: what remains does no harm, since
// Find looks at the records, and expires.
func (s *Store) leaveLater(indexes []session.IndexKey, keys ...session.Key) {
	if len(indexes) == 0 || len(keys) == 0 || !s.begin() {
		return
	}
	go func() {
		defer s.running.Done()
		for _, index := range indexes {
			_ = s.leave(context.Background(), index, keys)
		}
	}()
}

// members gives the keys that an index names.
func (s *Store) members(ctx context.Context, index session.IndexKey) (keys []session.Key, err error) {
	err = s.step(ctx, func(ctx context.Context, l *link, _ bool) error {
		members, err := l.Do(ctx, l.B().Zrange().Key(s.keys.index(index)).Min("0").Max(strconv.Itoa(2*maxMembers)).Build()).AsStrSlice()
		if err != nil {
			return err
		}
		keys = keys[:0]
		for _, m := range members {
			if len(m) == sha256.Size {
				keys = append(keys, session.Key([]byte(m)))
			}
		}
		return nil
	})
	return keys, err
}

// heads gives the beginnings of values; what is not there has an empty one.
func (s *Store) heads(ctx context.Context, keys []session.Key) (heads [][]byte, err error) {
	err = s.step(ctx, func(ctx context.Context, l *link, _ bool) error {
		commands := make([]rueidis.Completed, len(keys))
		for i, k := range keys {
			commands[i] = l.B().Getrange().Key(s.keys.record(k)).Start(0).End(headSize - 1).Build()
		}
		heads = make([][]byte, len(keys))
		for i, reply := range l.DoMulti(ctx, commands...) {
			var err error
			if heads[i], err = reply.AsBytes(); err != nil {
				return err
			}
		}
		return nil
	})
	return heads, err
}

// without gives the keys of a that are not in b.
func without(a, b []session.IndexKey) (rest []session.IndexKey) {
	for _, k := range a {
		if !slices.Contains(b, k) {
			rest = append(rest, k)
		}
	}
	return rest
}
