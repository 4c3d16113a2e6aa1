// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package memstore

import (
	"container/heap"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// shardCount spreads the locks. Keys are hashes, so their first byte is as good
// as any.
const shardCount = 64

// entry is one record in its shard. Its fields are guarded by the shard.
type entry struct {
	rec  *session.Record
	size int64
	pos  int // in byExpiry
}

func (e *entry) live(now time.Time) bool { return now.Before(e.rec.Expiry) }

// shard holds a part of the records, ordered by expiry as well, so that making
// room never walks over live ones.
type shard struct {
	mu       sync.RWMutex
	entries  map[session.Key]*entry
	byExpiry expiryHeap
	watched  map[session.Key]*watch
}

func (s *Store) shard(k session.Key) *shard { return &s.shards[k[0]%shardCount] }

func (sh *shard) add(e *entry) {
	sh.entries[e.rec.Key] = e
	heap.Push(&sh.byExpiry, e)
	sh.tell(e.rec.Key)
}

// moved restores the order after the record of e, and with it the expiry, changed.
func (sh *shard) moved(e *entry) {
	heap.Fix(&sh.byExpiry, e.pos)
	sh.tell(e.rec.Key)
}

func (sh *shard) remove(e *entry) {
	delete(sh.entries, e.rec.Key)
	heap.Remove(&sh.byExpiry, e.pos)
	sh.tell(e.rec.Key)
}

// expiryHeap is a heap.Interface with the next record to expire on top.
type expiryHeap []*entry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].rec.Expiry.Before(h[j].rec.Expiry) }

func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (h *expiryHeap) Push(x any) {
	e := x.(*entry)
	e.pos = len(*h)
	*h = append(*h, e)
}

func (h *expiryHeap) Pop() any {
	old := *h
	last := len(old) - 1
	e := old[last]
	old[last] = nil
	*h = old[:last]
	return e
}
