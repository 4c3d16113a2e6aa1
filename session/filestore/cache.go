// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	cacheShards = 64
	// cacheOverhead is what a record costs in memory beyond its encoded size,
	// in bytes, rounded up.
	cacheOverhead = 512
)

// cache holds decoded records in memory. What it holds is current: this process
// is the only one that writes the file, and every commit passes through here
// before its callers hear of it.
type cache struct {
	shards   [cacheShards]cacheShard
	maxBytes int64 // of one shard
}

type cacheShard struct {
	mu      sync.RWMutex
	records map[session.Key]*cached
	bytes   int64
	// generation moves with every commit. A reader that went to the file
	// before one must not put back what it found there.
	generation uint64
}

type cached struct {
	rec  *session.Record
	size int64
	used atomic.Bool // since the last eviction came by
}

func newCache(maxBytes int64) *cache {
	c := &cache{maxBytes: maxBytes / cacheShards}
	for i := range c.shards {
		c.shards[i].records = make(map[session.Key]*cached)
	}
	return c
}

func (c *cache) shard(k session.Key) *cacheShard { return &c.shards[k[0]%cacheShards] }

// get gives the record, or nil when the file has to be asked.
func (c *cache) get(key session.Key) *session.Record {
	sh := c.shard(key)
	sh.mu.RLock()
	e := sh.records[key]
	sh.mu.RUnlock()
	if e == nil {
		return nil
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.rec
}

// generation is to be asked before the file is read, for fill.
func (c *cache) generation(key session.Key) uint64 {
	sh := c.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.generation
}

// fill takes a record that was read from the file, unless something was
// committed since. It gives the record to go on with: one pointer for all
// readers, and never an older revision than one that somebody has seen.
func (c *cache) fill(rec *session.Record, size int, generation uint64) *session.Record {
	sh := c.shard(rec.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.records[rec.Key]; e != nil && e.rec.Rev >= rec.Rev {
		return e.rec
	}
	if sh.generation == generation {
		sh.set(rec, size, c.maxBytes)
	}
	return rec
}

// committed takes what a commit left under key; nil when it removed the record.
func (c *cache) committed(key session.Key, rec *session.Record, size int) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.generation++
	if rec == nil {
		sh.remove(key)
		return
	}
	sh.set(rec, size, c.maxBytes)
}

func (sh *cacheShard) remove(key session.Key) {
	if e := sh.records[key]; e != nil {
		sh.bytes -= e.size
		delete(sh.records, key)
	}
}

// set adds a record and evicts what was not used lately. Which of those goes
// first is left to the order of the map.
func (sh *cacheShard) set(rec *session.Record, size int, maxBytes int64) {
	sh.remove(rec.Key)
	e := &cached{rec: rec, size: int64(size) + cacheOverhead}
	if e.size > maxBytes {
		return
	}
	for sh.bytes+e.size > maxBytes {
		for key, other := range sh.records {
			if other.used.Swap(false) {
				continue
			}
			sh.remove(key)
			if sh.bytes+e.size <= maxBytes {
				break
			}
		}
	}
	sh.records[rec.Key] = e
	sh.bytes += e.size
}
