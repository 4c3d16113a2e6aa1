// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// burst calls n times through every instance at once and counts the answers.
func (f *fleet) burst(n int, of func(i int) visitor) map[int]int {
	var mu sync.Mutex
	got := make(map[int]int)
	var wg sync.WaitGroup
	for _, in := range f.instances {
		for i := range n {
			wg.Go(func() {
				status, err := in.call(f.t.Context(), of(i))
				if err != nil {
					f.t.Error(err)
				}
				mu.Lock()
				got[status]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	return got
}

// refreshes checks that the authorization server was asked so often, and never
// twice with the same refresh token.
func (f *fleet) refreshes(want int) {
	f.t.Helper()
	if got := len(f.as.RefreshRequests()); got != want {
		f.t.Errorf("%d refresh requests, want %d", got, want)
	}
	if n := f.as.ReuseDetections(); n != 0 {
		f.t.Errorf("a refresh token was used twice, %d times", n)
	}
}

// F101, F103, RF-03: three instances, one session, 200 requests each at the moment of
// expiry, whatever the authorization server takes for its answer.
func TestFleetRefreshesOnce(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, latency := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 5 * time.Second, 9 * time.Second} {
		wg.Go(func() {
			t.Run(latency.String(), func(t *testing.T) {
				f := newFleet(t, fleetOptions{instances: 3, as: astest.Options{AccessTokenLifetime: 3 * time.Second}})
				v := f.instances[0].login()
				time.Sleep(3100 * time.Millisecond)
				f.as.Configure(func(o *astest.Options) {
					o.AccessTokenLifetime, o.Latency = time.Hour, map[string]time.Duration{astest.Token: latency}
				})
				if got := f.burst(200, func(int) visitor { return v }); got[200] != 600 {
					t.Errorf("answers %v", got)
				}
				f.refreshes(1)
			})
		})
	}
}

// F102: a thousand sessions that run out in the same second, asked for at every
// instance, are a thousand calls.
func TestFleetRefreshesAThousandSessions(t *testing.T) {
	f := newFleet(t, fleetOptions{instances: 3, as: astest.Options{AccessTokenLifetime: time.Minute}})
	all := make([]visitor, 1000)
	work := make(chan int)
	var wg sync.WaitGroup
	began := time.Now()
	for range 8 {
		wg.Go(func() {
			for i := range work {
				all[i] = f.instances[i%3].login()
			}
		})
	}
	for i := range all {
		f.as.Configure(func(o *astest.Options) {
			o.User = "user " + time.Duration(i).String()
			// They all run out together.
			o.AccessTokenLifetime = max(time.Second, time.Until(began.Add(20*time.Second)))
		})
		work <- i
	}
	close(work)
	wg.Wait()
	time.Sleep(max(1100*time.Millisecond, time.Until(began.Add(21*time.Second))))
	f.as.Configure(func(o *astest.Options) {
		o.AccessTokenLifetime, o.Latency = time.Hour, map[string]time.Duration{astest.Token: 50 * time.Millisecond}
	})
	before := len(f.as.RefreshRequests())
	// Three thousand requests in one moment are more than two processors do in
	// time: some may be told to come again, which they do.
	if got := f.burst(1000, func(i int) visitor { return all[i] }); got[200]+got[503] != 3000 || got[503] > 150 {
		t.Errorf("answers %v", got)
	}
	if got := f.burst(1000, func(i int) visitor { return all[i] }); got[200]+got[503] != 3000 || got[503] > 150 {
		t.Errorf("answers after the refresh %v", got)
	}
	if got := len(f.as.RefreshRequests()) - before; got != 1000 {
		t.Errorf("%d refresh requests", got)
	}
	if n := f.as.ReuseDetections(); n != 0 {
		t.Errorf("a refresh token was used twice, %d times", n)
	}
}
