// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxEntries bounds what a process remembers of sessions between requests.
// Forgetting costs opening the record once more, and what was learned about
// failing refreshes.
const maxEntries = 1 << 17

// entryIdle is how long a session stays unsealed that nobody asks for.
const entryIdle = 5 * time.Minute

const entryShards = 64

// entries is the process's memory of sessions by store key.
type entries struct {
	shards [entryShards]entryShard
}

type entryShard struct {
	mu sync.RWMutex
	m  map[Key]*entry
}

func (e *entries) init() {
	for i := range e.shards {
		e.shards[i].m = make(map[Key]*entry)
	}
}

// of gives the entry of key, a new one if need be.
func (e *entries) of(key Key) *entry {
	shard := e.shard(key)
	shard.mu.RLock()
	found := shard.m[key]
	shard.mu.RUnlock()
	if found != nil {
		return found
	}
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found := shard.m[key]; found != nil {
		return found
	}
	if len(shard.m) >= maxEntries/entryShards {
		shard.evict()
	}
	made := &entry{key: key}
	shard.m[key] = made
	return made
}

// open gives what is unsealed of the session, if it is known.
func (e *entry) open(rec *Record) *opened {
	e.look(rec)
	return e.opened.Load()
}

// keep remembers what was unsealed.
func (e *entry) keep(o *opened) {
	e.look(o.rec)
	e.opened.Store(o)
}

func (e *entry) look(rec *Record) {
	if now := time.Now().Unix(); e.used.Load() != now {
		e.used.Store(now)
		e.expiry.Store(rec.Expiry.Unix())
	}
}

func (e *entries) shard(key Key) *entryShard { return &e.shards[key[0]%entryShards] }

// evict forgets one entry that nothing is going on with; the map's order picks.
func (s *entryShard) evict() {
	for key, e := range s.m {
		if e.leave() {
			delete(s.m, key)
			return
		}
	}
}

// forget drops what is remembered of a session that is over.
func (e *entries) forget(key Key) {
	shard := e.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found := shard.m[key]; found != nil && found.leave() {
		delete(shard.m, key)
	}
}

// sweep drops what is unsealed of sessions that nobody asks for, so that the
// tokens of users who are away do not stay in memory, and all that is remembered
// of those that are over.
func (e *entries) sweep(now time.Time) {
	for i := range e.shards {
		shard := &e.shards[i]
		shard.mu.Lock()
		for key, found := range shard.m {
			if now.Sub(time.Unix(found.used.Load(), 0)) < entryIdle {
				continue
			}
			found.opened.Store(nil)
			if now.Unix() > found.expiry.Load() && found.leave() {
				delete(shard.m, key)
			}
		}
		shard.mu.Unlock()
	}
}

// each calls f with every entry.
func (e *entries) each(f func(*entry)) {
	for i := range e.shards {
		shard := &e.shards[i]
		shard.mu.RLock()
		all := slices.Collect(maps.Values(shard.m))
		shard.mu.RUnlock()
		for _, found := range all {
			f(found)
		}
	}
}

// entry is what the process remembers of one session.
type entry struct {
	key        Key
	opened     atomic.Pointer[opened]
	used       atomic.Int64            // unix seconds of the last look
	expiry     atomic.Int64            // unix seconds of the record's
	lastSeen   atomic.Int64            // unix nanoseconds of activity seen by this process; 0: none
	ended      atomic.Pointer[Reason]  // this process knows that the session is over
	leads      atomic.Pointer[[]byte]  // and that it goes on as another: its tombstone's pointer, sealed
	held       atomic.Pointer[result]  // refreshed tokens that the store has not taken yet
	spooled    atomic.Pointer[spooled] // those of an earlier process
	forced     atomic.Bool             // there is a streak, see below
	touching   atomic.Bool             // last seen is being written
	ending     atomic.Bool             // the session is being ended
	redeeming  atomic.Bool             // its tombstone's tokens are being revoked
	changed    atomic.Int64            // unix nanoseconds; this process stored new tokens, or the end
	redeemNext atomic.Int64            // unix nanoseconds; not before
	waiters    atomic.Int64            // requests that wait for its tokens

	// The flight's.
	presented AttemptID // the last attempt that called
	doubtGen  uint64    // a refresh token that may have been presented, and
	doubtFrom time.Time // since when this process knows
	doubtID   AttemptID // by which attempt, the last one

	mu     sync.Mutex
	gone   bool // it is no longer the entry of its session
	flight *flight

	// What failing refreshes left behind, under mu.
	retryAt   time.Time // no refresh before
	heldUntil time.Time // no refresh before that nobody waits for
	failure   error     // why
	failures  int       // in a row
	refused   int       // answers of oauth.ClassRefused in a row
	refusedAt time.Time // the first of them
	askedNext time.Time // no refresh by the endpoint before

	pursuits map[purposeID]*pursuit // what goes for one purpose alone, under mu
}

// saw notes activity at a moment; an earlier one than is known changes nothing.
func (e *entry) saw(at time.Time) {
	for now := at.UnixNano(); ; {
		known := e.lastSeen.Load()
		if now <= known || e.lastSeen.CompareAndSwap(known, now) {
			return
		}
	}
}

// presentation notes by which attempt the refresh token of a record may have been
// presented, and gives since when this process knows of the first one. An attempt
// that has no mark is a first one, whatever was answered before.
func (e *entry) presentation(rec *Record) time.Time {
	a := rec.Attempt
	if e.doubtFrom.IsZero() || e.doubtGen != rec.Gen || a != nil && !a.Takeover && a.ID != e.doubtID {
		e.doubtGen, e.doubtFrom = rec.Gen, time.Now()
	}
	if a != nil {
		e.doubtID = a.ID
	}
	return e.doubtFrom
}

// leave makes the entry one that no refresh begins from any more, unless
// something is going on with it: there must not be two at work for one session.
func (e *entry) leave() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || e.exchanging() || e.touching.Load() || e.ending.Load() || e.redeeming.Load() || e.spooled.Load() != nil {
		return false
	}
	e.gone = true
	return true
}

// opened is a record with its parts unsealed. It is immutable, but for the
// verdict on the access token.
type opened struct {
	rec    *Record
	site   *Site
	secret [32]byte
	tokens *tokens
	facts  *facts
}
