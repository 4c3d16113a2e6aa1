// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// settleTime is how long no refresh token is presented after another server
	// has taken over behind the store: the instance that knows of tokens which that
	// server has not got puts them back meanwhile.
	settleTime = time.Second
	// recentChange is how old a change can be that a server which takes over has
	// not got.
	recentChange = time.Minute
	// maxHeals is how many records are looked at at a time.
	maxHeals = 16
)

// succeed looks after the records that this process has changed lately, whenever
// another server takes over.
func (b *Backend) succeed(store *openedStore) {
	for replaced := store.replaceable.Replaced(); ; {
		select {
		case <-replaced:
		case <-b.closed:
			return
		}
		replaced = store.replaceable.Replaced() // before the look, to miss nothing
		b.settled.Store(time.Now().Add(settleTime).UnixNano())
		b.healAll(store)
	}
}

// settle waits until who takes over has what the instances know.
func (b *Backend) settle(ctx context.Context) (waited bool, err error) {
	pause := time.Until(time.Unix(0, b.settled.Load()))
	if pause <= 0 {
		return false, nil
	}
	if err := sleep(ctx, pause); err != nil {
		return true, &UnavailableError{RetryAfter: time.Second, Err: err}
	}
	return true, nil
}

func (b *Backend) healAll(store *openedStore) {
	ctx, cancel := context.WithTimeout(context.Background(), recentChange)
	defer cancel()
	since := time.Now().Add(-recentChange).UnixNano()
	places := make(chan struct{}, maxHeals)
	var wg sync.WaitGroup
	b.live.each(func(e *entry) {
		if e.changed.Load() < since {
			return
		}
		places <- struct{}{}
		wg.Go(func() {
			b.heal(ctx, store, e)
			<-places
		})
	})
	wg.Wait()
}

// heal puts one record right, as the next request that asks for it would.
func (b *Backend) heal(ctx context.Context, store *openedStore, e *entry) {
	for {
		rec, err := store.fresh(ctx, e.key)
		if err == nil {
			if rec.Ended != "" {
				return
			}
			next := e.newer(rec)
			if next == nil {
				return
			}
			if err = store.heal(ctx, rec, next, b.logger); err == nil {
				return
			}
		}
		switch {
		case errors.Is(err, ErrNotFound):
			return
		case errors.Is(err, ErrConflict):
		case sleep(ctx, leaseWatch) != nil:
			return
		}
	}
}
