// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package memstore

import "github.com/caddy-bff/caddy-bff/session"

// watch is what everybody shares who watches one key.
type watch struct {
	changed chan struct{}
	users   int
}

// closedChannel is what a watch of a closed store gives.
var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Watch implements [session.Watcher]. Nobody but this process changes anything,
// so the channel is closed at the change itself, or by Close. That a record
// expires is no change.
func (s *Store) Watch(key session.Key) (changed <-chan struct{}, stop func()) {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.closed.Load() {
		return closedChannel, func() {}
	}
	w := sh.watched[key]
	if w == nil {
		w = &watch{changed: make(chan struct{})}
		if sh.watched == nil {
			sh.watched = make(map[session.Key]*watch)
		}
		sh.watched[key] = w
	}
	w.users++
	return w.changed, func() {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		if w.users--; w.users == 0 && sh.watched[key] == w {
			delete(sh.watched, key)
		}
	}
}

// tell closes the watches of a key. The shard is locked by the caller.
func (sh *shard) tell(key session.Key) {
	if w := sh.watched[key]; w != nil {
		delete(sh.watched, key)
		close(w.changed)
	}
}

var _ session.Watcher = (*Store)(nil)
