// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"sync"
	"time"
)

// publishedBeforeUse is how long the public part of a new key is shown before the
// key is used: authorization servers keep a key set for a minute and do not look
// again for the sake of a key that they do not know, and other gateway instances,
// which may be asked in our place, get the new file a little later.
const publishedBeforeUse = 2 * time.Minute

// rollover brings a new key, or certificate, into use. Its public part is shown at
// once, beside that of the old one; what is used changes later, unless the
// authorization server does not want the old one any more. Safe for concurrent use.
type rollover[T any] struct {
	published publishedKeys

	mu          sync.Mutex
	inUse, next T
	pending     bool
	from        time.Time // when next is to be used
}

// start takes a first value, which is used from now on.
func (r *rollover[T]) start(v T, keys []publishedKey) {
	r.inUse = v
	r.published.replace(keys, time.Time{})
}

// change takes a new value, whose public keys are keys; that of what is used has
// the given key ID. It returns when that is going to be: at once for one that has
// been shown for long enough.
func (r *rollover[T]) change(v T, kid string, keys []publishedKey, now time.Time) time.Time {
	r.published.replace(keys, now)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next, r.pending = v, true
	r.from = r.published.since(kid).Add(publishedBeforeUse)
	if r.from.Before(now) {
		r.from = now
	}
	return r.from
}

// current returns what is used now.
func (r *rollover[T]) current() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending && !time.Now().Before(r.from) {
		r.advance()
	}
	return r.inUse
}

// hurry has what waits be used from now on.
func (r *rollover[T]) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending {
		r.advance()
	}
}

func (r *rollover[T]) advance() {
	var none T
	r.inUse, r.next, r.pending = r.next, none, false
}
