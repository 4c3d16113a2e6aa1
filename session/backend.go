// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	openTimeout = 30 * time.Second // opening the store, all told
	openWait    = 5 * time.Second  // how long a request waits for it
	openRetry   = time.Second      // after a failure
	sweepEvery  = time.Minute      // what the process remembers of sessions
)

// Backend is a store, opened at first use, with what must exist once for each
// store in a process: the refreshes in flight and what they learned. Managers
// of several sites, and of the configurations before and after a reload, share
// it. It is safe for concurrent use.
//
// It counts its users. NewBackend counts one; whoever works with the store
// holds a further reference, so that a configuration that goes away does not
// close the store under a request or a refresh.
type Backend struct {
	openStore func(context.Context) (Store, error)
	logger    *slog.Logger
	spoolDir  string
	instance  [16]byte // owner of this process's attempts

	observer StoreObserver

	live    entries
	waiters atomic.Int64 // requests that wait for tokens

	users  atomic.Int64
	store  atomic.Pointer[openedStore]
	closed chan struct{} // closed with the last reference

	mu       sync.Mutex
	opening  chan struct{} // closed when the attempt to open ends; nil: none
	openErr  error
	openedAt time.Time // when openErr came

	gates gates

	revocations chan struct{} // places for calls
	ending      chan struct{} // closed when the process ends
	endOnce     sync.Once

	settled atomic.Int64 // unix nanoseconds; before, no refresh token is presented

	checks map[*KeyRing]*keyCheck // of the configurations that run

	flights int
	landed  chan struct{} // closed when flights reaches zero; nil: nobody waits
}

type openedStore struct {
	Store
	exclusive   bool
	watcher     Watcher     // or nil
	caching     Caching     // or nil
	shared      Shared      // or nil
	local       Local       // or nil
	replaceable Replaceable // or nil
	observer    StoreObserver
}

// fresh is Load past the store's local copies.
func (s *openedStore) fresh(ctx context.Context, key Key) (*Record, error) {
	c, ok := s.Store.(Caching)
	if !ok {
		return s.Load(ctx, key)
	}
	began := time.Now()
	rec, err := c.Fresh(ctx, key)
	s.called(StoreLoad, began, err)
	return rec, err
}

// watch gives a channel that is closed when the record of key may have changed;
// nil where the store does not tell, or is not open. glance is after how long
// without a word to look at the record all the same.
func (b *Backend) watch(key Key) (changed <-chan struct{}, glance time.Duration, stop func()) {
	s := b.store.Load()
	if s == nil || s.watcher == nil {
		return nil, leaseWatch, func() {}
	}
	changed, stop = s.watcher.Watch(key)
	select {
	case <-changed:
		// It cannot tell at the moment: who took this for news would ask in a circle.
		return nil, leaseWatch, stop
	default:
		return changed, leaseGlance, stop
	}
}

// NewBackend makes a backend whose store is opened by open at first use, with
// one reference for the caller. An error of open is answered with
// [ErrStoreUnavailable] and tried again.
func NewBackend(open func(context.Context) (Store, error), logger *slog.Logger) *Backend {
	b := &Backend{
		openStore: open, logger: logger, observer: unobservedStore{}, closed: make(chan struct{}),
		revocations: make(chan struct{}, maxRevocations), ending: make(chan struct{}),
		checks: map[*KeyRing]*keyCheck{},
	}
	rand.Read(b.instance[:]) //nolint:errcheck // never fails, see crypto/rand
	b.users.Store(1)
	b.live.init()
	return b
}

// Retain takes a reference. It reports false, and takes none, when the last one
// is gone already.
func (b *Backend) Retain() bool {
	for {
		n := b.users.Load()
		if n == 0 {
			return false
		}
		if b.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a reference back. The last one closes the store.
func (b *Backend) Release() {
	switch n := b.users.Add(-1); {
	case n > 0:
	case n < 0:
		panic("session: backend released more often than retained")
	default:
		close(b.closed)
		go b.close()
	}
}

func (b *Backend) close() {
	b.mu.Lock()
	opening := b.opening
	b.mu.Unlock()
	if opening != nil {
		<-opening
	}
	if s := b.store.Load(); s != nil {
		if err := s.Close(); err != nil {
			b.logger.Error("closing the session store", "error", err)
		}
	}
}

// Open opens the store unless it is open. A caller waits no longer than its
// context and five seconds.
func (b *Backend) Open(ctx context.Context) error {
	_, err := b.current(ctx)
	return err
}

// current gives the open store.
func (b *Backend) current(ctx context.Context) (*openedStore, error) {
	if s := b.store.Load(); s != nil {
		return s, nil
	}
	b.mu.Lock()
	if s := b.store.Load(); s != nil {
		b.mu.Unlock()
		return s, nil
	}
	if b.opening == nil {
		if b.openErr != nil && time.Since(b.openedAt) < openRetry {
			defer b.mu.Unlock()
			return nil, b.openErr
		}
		if !b.Retain() {
			defer b.mu.Unlock()
			return nil, fmt.Errorf("%w: it is closed", ErrStoreUnavailable)
		}
		b.opening = make(chan struct{})
		go b.openNow(b.opening)
	}
	done := b.opening
	b.mu.Unlock()

	timer := time.NewTimer(openWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return nil, unavailable(context.Cause(ctx))
	case <-timer.C:
		return nil, fmt.Errorf("%w: it is still being opened", ErrStoreUnavailable)
	}
	if s := b.store.Load(); s != nil {
		return s, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return nil, b.openErr
}

func (b *Backend) openNow(done chan struct{}) {
	defer b.Release()
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	s, err := b.openStore(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.openErr, b.openedAt = unavailable(err), time.Now()
		b.logger.Error("opening the session store", "error", err)
	} else {
		e, ok := s.(Exclusive)
		opened := &openedStore{Store: s, exclusive: ok && e.Exclusive(), observer: b.observer}
		opened.watcher, _ = s.(Watcher)
		opened.caching, _ = s.(Caching)
		opened.shared, _ = s.(Shared)
		opened.replaceable, _ = s.(Replaceable)
		opened.local, _ = s.(Local)
		b.loadSpool() // before anybody refreshes
		b.store.Store(opened)
		b.openErr = nil
		go b.sweep()
		if opened.replaceable != nil {
			go b.succeed(opened)
		}
		if opened.shared != nil {
			for _, c := range b.checks {
				go b.keepJoined(c, opened.shared)
			}
		}
	}
	b.opening = nil
	close(done)
}

// sweep forgets, from time to time, what is no longer asked for.
func (b *Backend) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			b.live.sweep(now)
		case <-b.closed:
			return
		}
	}
}

// takeoff counts a refresh in flight, which holds a reference of its own. It
// reports false when the backend is closed.
func (b *Backend) takeoff() bool {
	if !b.Retain() {
		return false
	}
	b.mu.Lock()
	b.flights++
	b.mu.Unlock()
	return true
}

func (b *Backend) land() {
	b.mu.Lock()
	if b.flights--; b.flights == 0 && b.landed != nil {
		close(b.landed)
		b.landed = nil
	}
	b.mu.Unlock()
	b.Release()
}

// Drain waits until no refresh is in flight, or until ctx is done, and reports
// the context's error then. New refreshes may start meanwhile.
func (b *Backend) Drain(ctx context.Context) error {
	b.mu.Lock()
	if b.flights == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.landed == nil {
		b.landed = make(chan struct{})
	}
	landed := b.landed
	b.mu.Unlock()
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// detach runs work that outlives its request, counted like a refresh. When the
// backend is closed already, instead runs, which gives back what the caller
// had taken.
func (b *Backend) detach(work func(ctx context.Context), limit time.Duration, instead func()) {
	if !b.takeoff() {
		instead()
		return
	}
	go func() {
		defer b.land()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		work(ctx)
	}()
}
