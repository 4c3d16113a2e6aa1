// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-bff/caddy-bff/session"
)

const (
	// aliveFor is how long a connection vouches for its copies after it proved
	// alive.
	aliveFor = time.Second
	// beatEvery is how often a connection that is in use has to prove it, and
	// inUseFor how long after the last Load one is in use.
	beatEvery = 250 * time.Millisecond
	inUseFor  = 10 * time.Second
	// beatOffset lies behind the end of every value: a heartbeat reads nothing.
	beatOffset = 1 << 30
)

// tracker is what one connection vouches for: the server remembers what was
// read on it, and tells on it of changes. The client's reader calls Update and
// Delete in the order in which the server wrote, so that a copy is only ever
// made of a reply that nothing has invalidated since. It implements
// [rueidis.CacheStore], and keeps nothing itself: each read is sent.
type tracker struct {
	copies *copies
	proven atomic.Int64 // the server was reached, and had told of all before
	epoch  atomic.Uint64
	closed atomic.Bool
	sample atomic.Pointer[session.Key] // a key that lives where the connection leads
	beats  atomic.Bool                 // a heartbeat is under way

	mu    sync.Mutex
	began map[string]int64 // reads under way, by key and command
}

func (c *copies) newTracker(rueidis.CacheStoreOption) rueidis.CacheStore {
	t := &tracker{copies: c, began: make(map[string]int64)}
	t.proven.Store(-int64(time.Hour))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trackers[t] = struct{}{}
	close(c.replaced)
	c.replaced = make(chan struct{})
	return t
}

func (t *tracker) vouches(epoch uint64, now int64) bool {
	return now-t.proven.Load() < int64(aliveFor) && t.epoch.Load() == epoch && !t.closed.Load()
}

// Flight is called before a read is sent.
func (t *tracker) Flight(key, command string, _ time.Duration, _ time.Time) (rueidis.RedisMessage, rueidis.CacheEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.began[key+command] = t.copies.now()
	return rueidis.RedisMessage{}, nil
}

// Update is called by the connection's reader when the reply has come, before
// anything else that comes.
func (t *tracker) Update(key, command string, reply rueidis.RedisMessage) (pxat int64) {
	if value, err := reply.ToString(); err == nil {
		t.replied(key, command, value != "")
	}
	return 0
}

// replied takes in a reply: the server was reached after the read was sent, and
// has told of all that had changed by then. A value is what a copy can be made
// of.
func (t *tracker) replied(key, command string, value bool) {
	began, ok := t.end(key, command)
	if !ok {
		return
	}
	for {
		proven := t.proven.Load()
		if proven >= began || t.proven.CompareAndSwap(proven, began) {
			break
		}
	}
	k, ok := t.copies.keys.recordKey(key)
	if !ok || !value {
		return
	}
	sh := t.copies.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.marks[k] = mark{read: command, tracker: t, epoch: t.epoch.Load()}
}

// Cancel is called when there will be no reply.
func (t *tracker) Cancel(key, command string, _ error) { t.end(key, command) }

func (t *tracker) end(key, command string) (began int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	began, ok = t.began[key+command]
	delete(t.began, key+command)
	return began, ok
}

// Delete is called by the connection's reader when the server tells of changes:
// of these keys, or of everything.
func (t *tracker) Delete(keys []rueidis.RedisMessage) {
	if keys == nil {
		t.epoch.Add(1)
		t.copies.wakeWatches()
		return
	}
	for i := range keys {
		name, err := keys[i].ToString()
		if err != nil {
			continue
		}
		if k, ok := t.copies.keys.recordKey(name); ok {
			t.copies.distrust(k)
		}
	}
}

// Close is called when the connection has ended.
func (t *tracker) Close(error) {
	t.closed.Store(true)
	t.copies.mu.Lock()
	delete(t.copies.trackers, t)
	t.copies.mu.Unlock()
	t.copies.wakeWatches()
}

// heartbeat has the connections that are in use prove that they are alive.
func (s *Store) heartbeat() {
	defer s.running.Done()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		now := s.copies.now()
		if now-s.copies.used.Load() > int64(inUseFor) {
			continue
		}
		for _, t := range s.copies.quiet(now) {
			if t.beats.CompareAndSwap(false, true) {
				s.running.Add(1)
				go s.beat(t)
			}
		}
	}
}

// quiet gives the connections with copies that did not prove alive lately.
func (c *copies) quiet(now int64) (quiet []*tracker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.trackers {
		if t.sample.Load() != nil && now-t.proven.Load() > int64(beatEvery)*3/4 {
			quiet = append(quiet, t)
		}
	}
	return quiet
}

// beat reads nothing from a key that was read on the connection. It goes where
// reads of that key go: if they go elsewhere by now, the connection has nothing
// to vouch for.
func (s *Store) beat(t *tracker) {
	defer s.running.Done()
	defer t.beats.Store(false)
	sample := t.sample.Load()
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if sample == nil || l == nil || !l.tracking {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	before := t.proven.Load()
	at := beatOffset + int64(s.reads.Add(1)&0xffffff)
	read := l.B().Getrange().Key(s.keys.record(*sample)).Start(at).End(at).Cache().ToStaticTTL()
	if l.DoCache(ctx, read, copyLife).Error() == nil && t.proven.Load() == before {
		t.sample.CompareAndSwap(sample, nil)
	}
}
