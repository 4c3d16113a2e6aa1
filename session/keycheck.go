// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keySet is the set that the instances join with the ids of their keys.
	keySet = "keys"
	// keyCheckEvery is how often an instance joins again: what it has in the set is
	// not forgotten, a set that was lost is there again, and a ring that changed is
	// made known before it changes a second time.
	keyCheckEvery = ringCheck
	// keyCheckSoon is when it tries again that was not let in, or got no answer.
	keyCheckSoon = 2 * time.Second
	// keyCheckLimit bounds one answer.
	keyCheckLimit = 5 * time.Second
	// keyCheckRepeat is how often an instance that is not let in says so again.
	keyCheckRepeat = time.Minute
)

// keyCheck compares a key ring with those of the other instances that share the
// store. A rotation changes rings one instance at a time, and each ring has a key
// of the one before: rings that have a key in common, directly or by way of
// others, are one. (An index root that they share does not make them one: what one
// seals, the other does not open.)
type keyCheck struct {
	ring  *KeyRing
	users int // under Backend.mu
	ended chan struct{}
	wake  chan struct{} // a login found out that the ring is not let in any more
	last  atomic.Pointer[keyVerdict]

	mu   sync.Mutex
	told time.Time // when the log last said that the ring is not let in
}

// keyVerdict is the store's word on one reading of the ring.
type keyVerdict struct {
	ring     *ring
	mismatch *KeyMismatchError // nil: it is let in
}

// Join has ring compared with those of the other instances that share the store,
// where the store has instances that share it, until leave is called, once: for as
// long as the caller's configuration runs. An instance that is not let in says in
// the log what to do; no login begins or ends on it until it is, and sessions that
// open go on.
func (b *Backend) Join(ring *KeyRing) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.checks[ring]
	if c == nil {
		c = &keyCheck{ring: ring, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
		b.checks[ring] = c
		if s := b.store.Load(); s != nil && s.shared != nil {
			go b.keepJoined(c, s.shared)
		}
	}
	c.users++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.users--; c.users == 0 {
			delete(b.checks, ring)
			close(c.ended)
		}
	}
}

// keepJoined joins again and again.
func (b *Backend) keepJoined(c *keyCheck, store Shared) {
	for {
		pause := keyCheckSoon
		ctx, cancel := context.WithTimeout(context.Background(), keyCheckLimit)
		if v, err := join(ctx, store, c.ring); err == nil {
			c.take(v, b.logger)
			if v.mismatch == nil {
				pause = keyCheckEvery
			}
		}
		cancel()
		select {
		case <-time.After(pause):
		case <-c.wake:
		case <-c.ended:
			return
		case <-b.closed:
			return
		}
	}
}

// join joins with the keys as they are now.
func join(ctx context.Context, store Shared, keys *KeyRing) (*keyVerdict, error) {
	r, err := keys.current(ctx)
	if err != nil {
		return nil, err
	}
	ids := r.ids()
	joined, err := store.Join(ctx, keySet, ids)
	if err != nil {
		return nil, unavailable(err)
	}
	v := &keyVerdict{ring: r}
	if !joined.OK {
		v.mismatch = &KeyMismatchError{Place: joined.Place, There: joined.Members, Here: ids}
	}
	return v, nil
}

// take remembers a verdict, and tells the log of a ring that is not let in, and
// when it is again.
func (c *keyCheck) take(v *keyVerdict, logger *slog.Logger) {
	c.last.Store(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	no := v.mismatch
	switch {
	case no == nil && !c.told.IsZero():
		c.told = time.Time{}
		logger.Info("this instance has the keys of those that share its session store, and takes logins again")
	case no != nil && time.Since(c.told) >= keyCheckRepeat:
		c.told = time.Now()
		logger.Error("this instance has other keys than those that share its session store, and takes no logins; sessions that it can open go on. "+
			"Mend: give all instances the same keys. Where the keys here are the right ones, stop every instance that has the wrong ones and then delete the entry from the store: "+
			"the next instance to look decides, and who signed in with the wrong keys has to sign in again. "+
			"Instances that are not to share sessions need a key prefix of their own in the store",
			"entry", no.Place, "keys_in_store", no.There, "keys_here", no.Here)
	}
}

// sameKeys fails with a KeyMismatchError when ring is not let in. Any other error
// says that this cannot be known now.
func (b *Backend) sameKeys(ctx context.Context, store *openedStore, ring *KeyRing) error {
	if store.shared == nil {
		return nil
	}
	r, err := ring.current(ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	c := b.checks[ring] // nil: no configuration runs with it any more
	b.mu.Unlock()
	var v *keyVerdict
	if c != nil {
		v = c.last.Load()
	}
	if v == nil || v.ring != r {
		if v, err = join(ctx, store.shared, ring); err != nil {
			return err
		}
		if c != nil {
			c.take(v, b.logger)
			if v.mismatch != nil {
				select {
				case c.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	if v.mismatch != nil {
		return v.mismatch
	}
	return nil
}

// otherKeys gives the KeyMismatchError where it is certain, and waits for no store
// that is not open: who cannot be told keeps nobody from beginning a login, and is
// asked again at its end.
func (m *Manager) otherKeys(ctx context.Context) error {
	store := m.cfg.Backend.store.Load()
	if store == nil {
		return nil
	}
	var mismatch *KeyMismatchError
	if errors.As(m.cfg.Backend.sameKeys(ctx, store, m.cfg.Ring), &mismatch) {
		return mismatch
	}
	return nil
}

// ids names the keys, the one that seals first.
func (r *ring) ids() []string {
	var ids []string
	for _, k := range r.keys {
		if id := hex.EncodeToString(k.id[:]); len(ids) < MaxMembers && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
