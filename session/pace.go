// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"sync"
	"time"
)

const (
	// logoutsPerSecond is how many logouts that the authorization server asks for
	// are taken, and as many at once.
	logoutsPerSecond = 50
	// logoutPatience is how long one waits for its turn.
	logoutPatience = 5 * time.Second
)

// pace lets logoutsPerSecond through. It is safe for concurrent use.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next one is due, if they came evenly
}

// turn gives the time until the caller's turn. It reports false, and that time for
// the next caller, when it is longer than the caller has patience for.
func (p *pace) turn(now time.Time, patience time.Duration) (wait time.Duration, ok bool) {
	const each = time.Second / logoutsPerSecond
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = later(p.next, now.Add(-time.Second))
	wait = max(0, p.next.Add(each).Sub(now))
	if wait > patience {
		return wait - patience, false
	}
	p.next = p.next.Add(each)
	return wait, true
}
