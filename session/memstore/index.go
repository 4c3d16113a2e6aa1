// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package memstore

import (
	"slices"
	"sync"

	"github.com/caddy-bff/caddy-bff/session"
)

// index finds the keys of records by their index keys. It has a lock of its
// own, which is always the last one taken.
type index struct {
	mu   sync.RWMutex
	sets map[session.IndexKey]map[session.Key]struct{}
}

func (x *index) init() { x.sets = make(map[session.IndexKey]map[session.Key]struct{}) }

// move takes key from the sets of one list of index keys to those of another.
func (x *index) move(key session.Key, from, to []session.IndexKey) {
	if slices.Equal(from, to) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range from {
		set := x.sets[k]
		delete(set, key)
		if len(set) == 0 {
			delete(x.sets, k)
		}
	}
	for _, k := range to {
		set := x.sets[k]
		if set == nil {
			set = make(map[session.Key]struct{})
			x.sets[k] = set
		}
		set[key] = struct{}{}
	}
}

// keys gives the set of one index key as a slice of its own, never nil.
func (x *index) keys(k session.IndexKey) []session.Key {
	x.mu.RLock()
	defer x.mu.RUnlock()
	keys := make([]session.Key, 0, len(x.sets[k]))
	for key := range x.sets[k] {
		keys = append(keys, key)
	}
	return keys
}
