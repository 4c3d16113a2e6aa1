// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"math"
	"sync"
	"time"
)

// latencyHalfLife is how long it takes for a slow call to count half.
const latencyHalfLife = time.Minute

// latency remembers the worst recent latency; what it remembers decays.
type latency struct {
	mu   sync.Mutex
	peak time.Duration
	at   time.Time
}

// observe notes how long a call took.
func (l *latency) observe(d time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d >= l.decayed(now) {
		l.peak, l.at = d, now
	}
}

// worst returns what is remembered at now; 0 when nothing was ever observed.
func (l *latency) worst(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.decayed(now)
}

func (l *latency) decayed(now time.Time) time.Duration {
	age := max(now.Sub(l.at), 0)
	return time.Duration(float64(l.peak) * math.Exp2(-float64(age)/float64(latencyHalfLife)))
}
