// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-bff/caddy-bff/session"
)

// storeMetrics are the counters of a session store. They are found without a look
// into any map: a load from memory takes less than that. It is safe for concurrent
// use.
type storeMetrics struct {
	calls    [][]prometheus.Counter // by operation and result
	duration []prometheus.Observer  // by operation
}

// ofStore gives the counters of a kind of store, "redis" say.
func (c *collectors) ofStore(store string) *storeMetrics {
	m := new(storeMetrics)
	for _, op := range session.StoreOps() {
		var calls []prometheus.Counter
		for _, result := range session.StoreResults() {
			calls = append(calls, c.storeCalls.WithLabelValues(store, op.String(), result.String()))
		}
		m.calls = append(m.calls, calls)
		m.duration = append(m.duration, c.storeDuration.WithLabelValues(store, op.String()))
	}
	return m
}

// StoreCalled implements [session.StoreObserver].
func (m *storeMetrics) StoreCalled(op session.StoreOp, result session.StoreResult, took time.Duration) {
	m.calls[op][result].Inc()
	if took >= 0 {
		m.duration[op].Observe(took.Seconds())
	}
}

var _ session.StoreObserver = (*storeMetrics)(nil)
