// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// reload gives the running gateway a configuration, as caddy reload does.
func (in *instance) reload(variation int) error {
	r, err := http.NewRequestWithContext(in.f.t.Context(), http.MethodPost, "http://"+in.admin+"/load", strings.NewReader(in.caddyfile(variation)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	r.Header.Set("Cache-Control", "must-revalidate") // also when nothing has changed
	res, err := in.f.client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, %v: %s", res.StatusCode, err, text)
	}
	return nil
}

// HARDENING F303: 50 reloads in 60 seconds under 200 requests a second, with
// access tokens of two seconds that are refreshed all the while: no request
// fails, no refresh is made twice or once too often, no session is lost. The
// three stores at the same time, each in a process of its own.
func TestReloadsUnderLoad(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, store := range map[string]string{"memory": "memory", "file": "file", "redis": ""} {
		wg.Go(func() { t.Run(name, func(t *testing.T) { testReloadsUnderLoad(t, store) }) })
	}
}

func testReloadsUnderLoad(t *testing.T, store string) {
	const (
		life     = 2 * time.Second
		rate     = 200
		sessions = 20
		reloads  = 50
		lasts    = time.Minute
	)
	f := newFleet(t, fleetOptions{instances: 1, store: store, admin: true, as: astest.Options{
		AccessTokenLifetime: life, AccessTokenClaims: precise, Latency: map[string]time.Duration{astest.Token: 50 * time.Millisecond},
	}})
	in := f.instances[0]
	visitors := f.logins(sessions)
	began := time.Now()
	l := startLoad(t, visitors, rate, in.origin())
	var slowest time.Duration
	for i := range reloads {
		time.Sleep(time.Until(began.Add(time.Duration(i+1) * lasts / (reloads + 1))))
		start := time.Now()
		// Two in three change nothing; the third is another manager of the same
		// sessions, and the one after it the first again.
		if err := in.reload(i % 3 / 2 * (i + 1)); err != nil {
			t.Fatalf("reload %d: %v", i+1, err)
		}
		slowest = max(slowest, time.Since(start))
	}
	time.Sleep(time.Until(began.Add(lasts)))
	took := time.Since(began)
	c := count(l.end())
	t.Logf("%d reloads in %s, the slowest took %s", reloads, took.Round(time.Millisecond), slowest.Round(time.Millisecond))
	t.Logf("%s", c)
	f.explained(sessions, life, took)
	if c.failed != 0 {
		t.Errorf("%d requests failed, the first: %+v", c.failed, *c.first)
	}
	if took > lasts+lasts/10 || c.requests < rate*int(lasts/time.Second)*9/10 || c.late > life/4 {
		t.Errorf("%d requests in %s, asked up to %s late: this machine is too busy to tell", c.requests, took, c.late)
	}
	// Caddy closes a listener with what waits in its queue, which is more where
	// this machine has more to do.
	if c.resets > c.requests/100 {
		t.Errorf("%d new connections were reset at %d reloads", c.resets, reloads)
	}
	for i, v := range visitors {
		if status, err := in.call(t.Context(), v); status != http.StatusOK || err != nil {
			t.Errorf("session %d is lost: status %d, %v", i, status, err)
		}
	}
	if n := f.as.Count(astest.Revoke); n != 0 {
		t.Errorf("%d revocations", n)
	}
}
