// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	// lookEvery is how often a watch makes sure that it would hear of a change,
	// and, where the server does not tell of any, how often it looks.
	lookEvery = 250 * time.Millisecond
	// blindFor is how long a watch that cannot see lasts, so that nobody who
	// watches again at once asks faster than this.
	blindFor = 100 * time.Millisecond
)

// watch is what everybody shares who watches one key.
type watch struct {
	changed chan struct{}
	gone    chan struct{} // closed when nobody watches any more
	wake    chan struct{} // something happened to the connections
	users   int
}

// Replaced implements [session.Replaceable], where there are local copies: only then
// is a connection told from one that is made because others are in use.
func (s *Store) Replaced() <-chan struct{} {
	s.copies.mu.Lock()
	defer s.copies.mu.Unlock()
	return s.copies.replaced
}

// Watch implements [session.Watcher]. Of a change by another instance it tells
// within milliseconds where the server supports local copies, or else within a
// quarter of a second.
func (s *Store) Watch(key session.Key) (changed <-chan struct{}, stop func()) {
	sh := s.copies.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.watches[key]
	if w == nil {
		if !s.begin() {
			closed := make(chan struct{})
			close(closed)
			return closed, func() {}
		}
		w = &watch{changed: make(chan struct{}), gone: make(chan struct{}), wake: make(chan struct{}, 1)}
		sh.watches[key] = w
		var known uint64
		if e := sh.entries[key]; e != nil {
			known = e.rec.Rev
		}
		go s.look(key, w, known)
	}
	w.users++
	return w.changed, func() {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		if w.users--; w.users > 0 {
			return
		}
		if sh.watches[key] == w {
			delete(sh.watches, key)
		}
		close(w.gone)
	}
}

// look ends when the watch does. It sees to it that the record is tracked, for
// only then does the server tell of changes, and that it has not moved on from
// the revision that was known when the watch began.
func (s *Store) look(key session.Key, w *watch, known uint64) {
	defer s.running.Done()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		rec, err := s.copies.get(key), error(nil)
		if rec == nil {
			rec, err = s.readNew(context.Background(), key, true)
			if err != nil {
				select {
				case <-time.After(blindFor):
				case <-w.gone:
				case <-s.stop:
				}
			}
		}
		// Without anything to compare it with, it may have changed.
		if err != nil || rec.Rev != known {
			s.copies.tell(key, w)
			return
		}
		select {
		case <-w.changed:
			return
		case <-w.gone:
			return
		case <-s.stop:
			s.copies.tell(key, w)
			return
		case <-w.wake:
		case <-tick.C:
		}
	}
}

// tell closes the watch, unless that has happened.
func (c *copies) tell(key session.Key, w *watch) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.watches[key] == w {
		delete(sh.watches, key)
		close(w.changed)
	}
}

// wakeWatches has all watches look at once whether they would still hear.
func (c *copies) wakeWatches() {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.RLock()
		for _, w := range sh.watches {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
		sh.mu.RUnlock()
	}
}
