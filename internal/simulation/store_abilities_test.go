// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// watchingHandle tells of changes.
type watchingHandle struct{ *handle }

func (h *watchingHandle) Watch(key session.Key) (changed <-chan struct{}, stop func()) {
	x := &watcher{p: h.p, changed: make(chan struct{})}
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	set := h.s.watchers[key]
	if set == nil {
		set = make(map[*watcher]struct{})
		h.s.watchers[key] = set
	}
	set[x] = struct{}{}
	if h.p.cutFrom(&h.p.storeCut) != cutNone {
		x.tell() // nothing will be heard of it
	}
	return x.changed, func() {
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		delete(set, x)
	}
}

// cachingHandle keeps local copies. The store tells of their changes, a little
// later than they happen.
type cachingHandle struct{ watchingHandle }

func (h *cachingHandle) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	if err := h.p.gate(ctx); err != nil {
		return nil, h.gone(err)
	}
	h.p.asks(key)
	time.Sleep(h.p.dice("copy", key).between(20*time.Microsecond, 100*time.Microsecond)) // so that nobody asks for ever in one moment
	if rec := h.p.cache.get(key); rec != nil && h.s.now().Before(rec.Expiry) {
		return rec, nil
	}
	return h.Fresh(ctx, key)
}

// Fresh is Load past the copies.
func (h *cachingHandle) Fresh(ctx context.Context, key session.Key) (rec *session.Record, err error) {
	var c *copied
	err = h.call(ctx, "load", key, "", "", func() (err error) {
		rec, err = h.s.load(key)
		c = h.p.cache.expect(key)
		return err
	})
	if err != nil {
		return nil, err
	}
	h.p.cache.fill(key, c, rec)
	return rec, nil
}

func (h *cachingHandle) Replace(ctx context.Context, old, next *session.Record) error {
	err := h.watchingHandle.Replace(ctx, old, next)
	h.p.cache.drop(old.Key) // whatever came of it
	return err
}

// trackingDoubt is how long copies count after the connection that tells of
// changes has last been heard of.
const trackingDoubt = time.Second

// cache is the copies of one process.
type cache struct {
	mu     sync.Mutex
	copies map[session.Key]*copied
	doubts time.Time // since when nothing was heard of the store; zero: it is there
}

// copied is a copy, or the place of one that is on its way: a change that is
// told of before it is there takes the place away.
type copied struct{ rec *session.Record }

func (c *cache) init(*process) { c.copies = make(map[session.Key]*copied) }

func (c *cache) get(key session.Key) *session.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.copies[key]; found != nil && (c.doubts.IsZero() || time.Since(c.doubts) < trackingDoubt) {
		return found.rec
	}
	return nil
}

func (c *cache) expect(key session.Key) *copied {
	c.mu.Lock()
	defer c.mu.Unlock()
	place := &copied{}
	c.copies[key] = place
	return place
}

func (c *cache) fill(key session.Key, place *copied, rec *session.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.copies[key] == place {
		c.copies[key] = &copied{rec}
	}
}

func (c *cache) drop(key session.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.copies, key)
}

func (c *cache) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubts = time.Now()
}

func (c *cache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubts = time.Time{}
	clear(c.copies)
}
