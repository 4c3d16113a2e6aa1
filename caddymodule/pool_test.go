// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// valueOf reads a counter.
func valueOf(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// H209, E103: what is wrong with every session is said ten times a second, and
// then how often it was not said. What is no complaint is always said.
func TestProcessLogDoesNotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		root := new(atomic.Pointer[slog.Handler])
		handler := slog.Handler(slog.NewTextHandler(&out, nil))
		root.Store(&handler)
		log := slog.New(&currentLog{root: root, failures: &failureLog{}})
		said := func(do func()) []string {
			out.Reset()
			do()
			return strings.Split(strings.TrimSpace(out.String()), "\n")
		}
		before := valueOf(t, metrics.suppressed)
		lines := said(func() {
			for i := range 1000 {
				log.With("session", i).Error("the client is refused", "i", i)
			}
		})
		if len(lines) != 10 || strings.Contains(lines[9], "suppressed") {
			t.Errorf("%d lines of 1000, the last: %s", len(lines), lines[len(lines)-1])
		}
		if got := valueOf(t, metrics.suppressed) - before; got != 990 {
			t.Errorf("%v lines were counted as left out", got)
		}
		if lines := said(func() { log.Warn("something else") }); !strings.Contains(lines[0], "something else") {
			t.Errorf("another complaint: %q", lines)
		}
		if lines := said(func() {
			for range 100 {
				log.Info("session ended")
			}
		}); len(lines) != 100 {
			t.Errorf("%d of 100 lines that are no complaint", len(lines))
		}
		time.Sleep(time.Second)
		if lines := said(func() { log.Error("the client is refused", "i", 1) }); !strings.Contains(lines[0], "suppressed=990 ") || !strings.Contains(lines[0], "i=1 ") {
			t.Errorf("a second later: %q", lines)
		}
	})
}
