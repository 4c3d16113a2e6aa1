// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

// How requests are answered or let through, beside the codes of errors.
const (
	resultSession    = "session"     // let through with a session
	resultBearer     = "bearer"      // let through with an access token of its own
	resultAnonymous  = "anonymous"   // let through without one
	resultLogin      = "login"       // sent to login
	resultReload     = "reload"      // a page that asks again from the site itself
	resultPreflight  = "preflight"   // of CORS
	resultEndpoint   = "endpoint"    // an endpoint answered, not with an error
	resultClientGone = "client_gone" // nobody was there for the answer any more
)

var requestResults = []string{
	resultSession, resultBearer, resultAnonymous, resultLogin, resultReload, resultPreflight, resultEndpoint, resultClientGone,
}

// Limits that are not those of sessions.
const (
	limitReplayBuffer session.Limit = "replay_buffer" // a body was too large, or too slow, to be sent again
	limitReplayMemory session.Limit = "replay_memory" // of all replay buffers together
)

// siteMetrics are the counters of one application. It is told by session, and is
// safe for concurrent use.
type siteMetrics struct {
	*collectors
	site            string
	requests        map[string]prometheus.Counter
	refreshDuration prometheus.Observer
}

// ofSite gives the counters of an application, all of them there from the start:
// a counter that comes into being with its first event hides that event.
func (c *collectors) ofSite(site string) *siteMetrics {
	m := &siteMetrics{collectors: c, site: site, requests: make(map[string]prometheus.Counter), refreshDuration: c.refreshDuration.WithLabelValues(site)}
	for _, result := range requestResults {
		m.requests[result] = c.requests.WithLabelValues(site, result)
	}
	for code := range problems {
		m.requests[code] = c.requests.WithLabelValues(site, code)
	}
	for _, outcome := range session.LoginOutcomes() {
		c.logins.WithLabelValues(site, string(outcome))
	}
	for _, trigger := range session.RefreshTriggers() {
		for _, result := range session.RefreshResults() {
			c.refreshes.WithLabelValues(site, string(trigger), string(result))
		}
	}
	for _, result := range upstream.ReplayResults() {
		c.replays.WithLabelValues(site, string(result))
	}
	for _, reason := range session.EndReasons() {
		c.ends.WithLabelValues(site, string(reason))
	}
	for _, limit := range append(session.Limits(), limitReplayBuffer, limitReplayMemory) {
		c.limits.WithLabelValues(site, string(limit))
	}
	return m
}

// metricsName is the label site: the application's name, or what identifies it
// where it has none.
func (h *Handler) metricsName() string {
	name := h.Name
	if name == "" {
		name = h.ClientID
		if issuer, err := url.Parse(h.Issuer); err == nil {
			name += "@" + issuer.Host + issuer.Path
		}
	}
	return strings.ToValidUTF8(name, "?")
}

// requested counts a request.
func (m *siteMetrics) requested(result string) { m.requests[result].Inc() }

// LoginEnded implements [session.Observer].
func (m *siteMetrics) LoginEnded(outcome session.LoginOutcome) {
	m.logins.WithLabelValues(m.site, string(outcome)).Inc()
}

// RefreshEnded implements [session.Observer].
func (m *siteMetrics) RefreshEnded(trigger session.RefreshTrigger, result session.RefreshResult, call time.Duration) {
	m.refreshes.WithLabelValues(m.site, string(trigger), string(result)).Inc()
	if call >= 0 {
		m.refreshDuration.Observe(call.Seconds())
	}
}

// SessionEnded implements [session.Observer].
func (m *siteMetrics) SessionEnded(reason session.Reason) {
	m.ends.WithLabelValues(m.site, string(reason)).Inc()
}

// LimitReached implements [session.Observer].
func (m *siteMetrics) LimitReached(limit session.Limit) {
	m.limits.WithLabelValues(m.site, string(limit)).Inc()
}

// replayed counts a request whose access token was refused.
func (m *siteMetrics) replayed(result upstream.ReplayResult) {
	m.replays.WithLabelValues(m.site, string(result)).Inc()
	if result == upstream.ReplayBodyGone {
		m.LimitReached(limitReplayBuffer)
	}
}

var _ session.Observer = (*siteMetrics)(nil)
