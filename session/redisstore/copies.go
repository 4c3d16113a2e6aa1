// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	// copyShards spread the locks. Keys are hashes: their first byte is as good
	// as any.
	copyShards = 64
	// copyOverhead is what a copy costs beyond its encoded size, in bytes.
	copyOverhead = 512
	// useGrain is how exactly the last use of a copy is known.
	useGrain = int64(time.Second)
)

// copies are the records that this store value gave or wrote, as far as they
// fit: local copies while a tracker vouches for them, and afterwards what is
// known of how far a record has come.
type copies struct {
	keys   keyspace
	start  time.Time
	most   int   // records in a shard
	room   int64 // bytes in a shard
	used   atomic.Int64
	shards [copyShards]copyShard

	mu       sync.Mutex
	trackers map[*tracker]struct{}
	replaced chan struct{} // closed with the next connection
}

type copyShard struct {
	mu      sync.RWMutex
	entries map[session.Key]*copyEntry
	marks   map[session.Key]mark
	flights map[session.Key]*flight
	watches map[session.Key]*watch
	bytes   int64
}

// copyEntry is one record. Its fields are guarded by the shard.
type copyEntry struct {
	rec  *session.Record
	sum  uint64
	size int64
	// at is when rec was put here. A read that began before may give less.
	at int64
	// backSince is when the server was first seen to have an older revision.
	backSince int64
	// tracker vouches for rec in its epoch. nil: nobody does. After deadline,
	// when the record should have expired, the server is asked again.
	tracker  *tracker
	epoch    uint64
	deadline int64
	used     atomic.Int64
}

// mark says that the reply to a read has come, and nothing since that
// invalidates it. The reader of the connection makes it, in the order of things.
type mark struct {
	read    string
	tracker *tracker
	epoch   uint64
}

// flight is a read that others wait for as well.
type flight struct {
	done chan struct{}
	rec  *session.Record
	err  error
	own  bool // it ended because its own caller did
}

type verdict int

const (
	given    verdict = iota // this is what Load gives
	wentBack                // the server had a newer revision before
)

func newCopies(keys keyspace, records int, bytes int64) *copies {
	c := &copies{
		keys: keys, start: time.Now(), trackers: make(map[*tracker]struct{}), replaced: make(chan struct{}),
		most: max(1, records/copyShards), room: max(1, bytes/copyShards),
	}
	for i := range c.shards {
		sh := &c.shards[i]
		sh.entries = make(map[session.Key]*copyEntry)
		sh.marks = make(map[session.Key]mark)
		sh.flights = make(map[session.Key]*flight)
		sh.watches = make(map[session.Key]*watch)
	}
	c.used.Store(-int64(time.Hour))
	return c
}

// now is a clock that no one sets.
func (c *copies) now() int64 { return int64(time.Since(c.start)) }

func (c *copies) shard(k session.Key) *copyShard { return &c.shards[k[0]%copyShards] }

// get gives the record when it is known to be the current one.
func (c *copies) get(key session.Key) *session.Record {
	now := c.now()
	if now-c.used.Load() > int64(beatEvery) {
		c.used.Store(now)
	}
	sh := c.shard(key)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	e := sh.entries[key]
	if e == nil || !e.current(now) {
		return nil
	}
	if now-e.used.Load() > useGrain {
		e.used.Store(now)
	}
	return e.rec
}

func (e *copyEntry) current(now int64) bool {
	return e.tracker != nil && now < e.deadline && e.tracker.vouches(e.epoch, now)
}

// join gives the read of key that is under way, or a new one that the caller
// leads. Every read that is given here began after the last change that this
// store heard of.
func (c *copies) join(key session.Key) (f *flight, leading bool) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f = sh.flights[key]; f != nil {
		return f, false
	}
	f = &flight{done: make(chan struct{})}
	sh.flights[key] = f
	return f, true
}

func (c *copies) land(key session.Key, f *flight) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.flights[key] == f {
		delete(sh.flights, key)
	}
	close(f.done)
}

// settle takes in what a read gave, and says whether it is to be believed.
func (c *copies) settle(r reading) (*session.Record, verdict) {
	now := c.now()
	key := r.rec.Key
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m, tracked := sh.marks[key]
	if tracked = tracked && r.mark != "" && m.read == r.mark; tracked {
		delete(sh.marks, key)
	}
	e := sh.entries[key]
	switch {
	case e == nil:
		e = sh.put(c, key, now)
	case e.rec.Rev == r.rec.Rev && e.sum == r.sum:
		r.rec = e.rec // the very pointer
	case e.at >= r.began && e.rec.Rev >= r.rec.Rev:
		return e.rec, given // it came while the read was under way
	case e.rec.Rev > r.rec.Rev:
		if e.backSince == 0 {
			e.backSince = now
		}
		if now-e.backSince < int64(rolledBackPatience) {
			return r.rec, wentBack
		}
	}
	sh.set(e, r.rec, r.sum, r.size, now)
	if tracked {
		e.tracker, e.epoch, e.deadline = m.tracker, m.epoch, r.began+int64(lifeOf(r.rec))
		m.tracker.sample.Store(&key)
	}
	return r.rec, given
}

// wrote takes in a write of our own, which began after that time and left the
// server with value for life.
func (c *copies) wrote(rec *session.Record, value []byte, began int64, life time.Duration) {
	now := c.now()
	sum := maphash.Bytes(sumSeed, value)
	sh := c.shard(rec.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changed(rec.Key)
	if life <= 0 {
		sh.drop(rec.Key)
		return
	}
	e := sh.entries[rec.Key]
	switch {
	case e == nil:
		e = sh.put(c, rec.Key, now)
	case e.sum == sum:
		return // a read gave it to somebody already
	case e.at >= began && e.rec.Rev > rec.Rev:
		return // somebody else's came after it, and was read
	}
	e.tracker = nil
	sh.set(e, rec, sum, len(value), now)
}

// distrust has the next Load read, and every read that is under way not be a
// copy: a change was tried, and may or may not have happened.
func (c *copies) distrust(key session.Key) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changed(key)
}

// forget is distrust after a deletion: nothing is known of the record any more.
func (c *copies) forget(key session.Key) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changed(key)
	sh.drop(key)
}

// absent takes in that a read which began then found nothing.
func (c *copies) absent(key session.Key, began int64) {
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[key]; e != nil && e.at < began {
		sh.drop(key)
	}
}

// unmark withdraws a mark that nobody will settle.
func (c *copies) unmark(key session.Key, read string) {
	if read == "" {
		return
	}
	sh := c.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.marks[key].read == read {
		delete(sh.marks, key)
	}
}

// changed makes what is known of key the past. The shard is locked.
func (sh *copyShard) changed(key session.Key) {
	if e := sh.entries[key]; e != nil {
		e.tracker = nil
	}
	delete(sh.marks, key)
	delete(sh.flights, key)
	if w := sh.watches[key]; w != nil {
		delete(sh.watches, key)
		close(w.changed)
	}
}

// put adds an empty entry, and makes room for it among those that were not used
// for the longest time, as far as a small sample of them shows.
func (sh *copyShard) put(c *copies, key session.Key, now int64) *copyEntry {
	for len(sh.entries) > 0 && (len(sh.entries) >= c.most || sh.bytes > c.room) {
		var oldest session.Key
		seen, least := 0, int64(0)
		for k, e := range sh.entries {
			if u := e.used.Load(); seen == 0 || u < least {
				oldest, least = k, u
			}
			if seen++; seen == 8 {
				break
			}
		}
		sh.drop(oldest)
	}
	e := &copyEntry{}
	e.used.Store(now)
	sh.entries[key] = e
	return e
}

func (sh *copyShard) set(e *copyEntry, rec *session.Record, sum uint64, size int, now int64) {
	sh.bytes += int64(size) + copyOverhead - e.size
	e.rec, e.sum, e.size, e.at, e.backSince = rec, sum, int64(size)+copyOverhead, now, 0
}

func (sh *copyShard) drop(key session.Key) {
	if e := sh.entries[key]; e != nil {
		sh.bytes -= e.size
		delete(sh.entries, key)
	}
}
