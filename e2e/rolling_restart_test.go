// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// restart ends the gateway as a service manager does, waits for its end, and
// starts it again.
func (in *instance) restart() (stopped, started time.Duration) {
	in.f.t.Helper()
	began := time.Now()
	if err := in.process.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		in.f.t.Fatal(err)
	}
	select {
	case <-in.process.exited:
	case <-time.After(20 * time.Second):
		in.f.t.Fatalf("instance %d does not end", in.number)
	}
	stopped = time.Since(began)
	in.start()
	return stopped, time.Since(began) - stopped
}

// HARDENING F302, F303: three instances on one Redis are restarted in turn, four
// times each, under 200 requests a second, with access tokens of two seconds and
// a slow token endpoint, so that refreshes are in flight whenever one ends: no
// request fails, no refresh is made twice or once too often, no session is lost.
func TestRollingRestart(t *testing.T) {
	const (
		life     = 2 * time.Second
		rate     = 200
		sessions = 20
		rounds   = 4
	)
	f := newFleet(t, fleetOptions{instances: 3, as: astest.Options{
		AccessTokenLifetime: life, AccessTokenClaims: precise, Latency: map[string]time.Duration{astest.Token: 150 * time.Millisecond},
	}})
	front := newBalancer(t, f.instances)
	visitors := f.logins(sessions)
	began := time.Now()
	l := startLoad(t, visitors, rate, front.origin)
	var stop, start time.Duration
	for range rounds {
		for _, in := range f.instances {
			time.Sleep(time.Second)
			stopped, started := in.restart()
			stop, start = max(stop, stopped), max(start, started)
		}
	}
	time.Sleep(time.Second)
	took := time.Since(began)
	c := count(l.end())
	t.Logf("%d restarts in %s: an instance ends within %s and serves again within %s",
		rounds*len(f.instances), took.Round(time.Millisecond), stop.Round(time.Millisecond), start.Round(time.Millisecond))
	t.Logf("%s", c)
	t.Logf("%s", front)
	f.explained(sessions, life, took)
	if c.failed != 0 || c.resets != 0 {
		t.Errorf("%d requests failed, the first: %+v", c.failed, c.first)
	}
	// What waits in the queue of a listener that is closed.
	if n := front.resets.Load(); n > rounds*int64(len(f.instances)) {
		t.Errorf("%d new connections were reset", n)
	}
	if stop > 12*time.Second {
		t.Errorf("an instance took %s to end", stop)
	}
	for i, v := range visitors {
		for _, in := range f.instances {
			if status, err := in.call(t.Context(), v); status != 200 || err != nil {
				t.Errorf("session %d is lost at instance %d: status %d, %v", i, in.number, status, err)
			}
		}
	}
	if n := f.as.Count(astest.Revoke); n != 0 {
		t.Errorf("%d revocations", n)
	}
}
