// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-bff/caddy-bff/session"
)

// collectors are what Prometheus reads on Caddy's /metrics. The values of all
// labels are of closed sets, but for site and store, which the configuration names:
// nothing of a user, a session or a request is in them.
type collectors struct {
	logins, refreshes, replays, ends, requests, limits *prometheus.CounterVec
	storeCalls                                         *prometheus.CounterVec
	refreshDuration, storeDuration                     *prometheus.HistogramVec

	suppressed prometheus.Counter // lines that belong to no site
}

// metrics are those of the process. Every configuration that is loaded has a
// registry of its own; what is registered there goes on counting over reloads.
var metrics = newCollectors()

func newCollectors() *collectors {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "bff", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "caddy", Subsystem: "bff", Name: name, Help: help, Buckets: buckets}, labels)
	}
	c := &collectors{
		logins:     counter("logins_total", "Logins that came back from the authorization server, by what became of them.", "site", "result"),
		refreshes:  counter("refreshes_total", "Refreshes of access tokens, by why they began and how they ended.", "site", "trigger", "result"),
		replays:    counter("replays_total", "Requests whose access token a resource server refused, by what became of sending them again.", "site", "result"),
		ends:       counter("sessions_ended_total", "Sessions that this instance ended, by reason.", "site", "reason"),
		requests:   counter("requests_total", "Requests to guarded routes and endpoints, by how they were answered or let through.", "site", "result"),
		limits:     counter("limits_total", "Bounds that were reached.", "site", "limit"),
		storeCalls: counter("store_operations_total", "Operations of the session store, by what became of them.", "store", "op", "result"),
		// An authorization server in the same network takes some milliseconds, and
		// a refresh call may take 30 s.
		refreshDuration: histogram("refresh_duration_seconds", "Time that the authorization server took to answer refreshes.",
			[]float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "site"),
		storeDuration: histogram("store_operation_duration_seconds", "Time that operations of the session store took; records that were in memory are not measured.",
			[]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}, "store", "op"),
	}
	c.suppressed = c.limits.WithLabelValues("", string(session.LimitLogLines))
	return c
}

// register makes the collectors part of a configuration's registry.
func (c *collectors) register(r *prometheus.Registry) error {
	for _, one := range []prometheus.Collector{
		c.logins, c.refreshes, c.replays, c.ends, c.requests, c.limits, c.storeCalls, c.refreshDuration, c.storeDuration,
	} {
		err := r.Register(one)
		var there prometheus.AlreadyRegisteredError
		if err != nil && (!errors.As(err, &there) || there.ExistingCollector != one) {
			return err
		}
	}
	return nil
}
