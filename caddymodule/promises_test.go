// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// The tests of this file make the promises of the README come true, or not,
// through a real Caddy, real sockets and real time.

// call sends one API request and gives its status. It is safe for concurrent use.
func (c *browser) call(ctx context.Context, method, body string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.origin()+"/api/x", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	if body == "" {
		r.Body = nil
	}
	r.Header.Set("X-CSRF", "1")
	for name, value := range c.jar {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// burst sends n requests at once and gives how many got which status.
func (c *browser) burst(n int) map[int]int {
	c.t.Helper()
	var mu sync.Mutex
	got := make(map[int]int)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			status, err := c.call(c.t.Context(), http.MethodGet, "")
			if err != nil {
				c.t.Error(err)
			}
			mu.Lock()
			got[status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	return got
}

// wantRefreshes checks how often the authorization server was asked, and that no
// refresh token came twice.
func (b *bench) wantRefreshes(want int) {
	b.t.Helper()
	if got := len(b.as.RefreshRequests()); got != want {
		b.t.Errorf("%d refresh requests, want %d", got, want)
	}
	if n := b.as.ReuseDetections(); n != 0 {
		b.t.Errorf("a refresh token was used twice, %d times", n)
	}
}

// F101, RF-02, RF-13: 200 parallel requests at the moment of expiry; the authorization
// server answers in 300 ms and revokes everything on reuse.
func TestTwoHundredRequestsAtExpiry(t *testing.T) {
	for name, hangUp := range map[string]bool{"all stay": false, "the one that triggered it hangs up": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{as: astest.Options{
				AccessTokenLifetime: 2 * time.Second, Latency: map[string]time.Duration{astest.Token: 300 * time.Millisecond},
			}})
			c := b.browser().login()
			time.Sleep(2100 * time.Millisecond)
			b.as.Configure(func(o *astest.Options) { o.AccessTokenLifetime = time.Hour })
			if hangUp {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := c.call(ctx, http.MethodGet, ""); err == nil {
					t.Error("it was answered before it hung up")
				}
			}
			if got := c.burst(200); got[200] != 200 {
				t.Errorf("answers %v", got)
			}
			if got := c.burst(1); got[200] != 1 {
				t.Errorf("afterwards %v", got)
			}
			b.wantRefreshes(1)
		})
	}
}

// PX-02, PX-08, B215: a resource server that refuses a token once.
func TestRefusedOnceIsHealed(t *testing.T) {
	for _, body := range []string{"", "small", strings.Repeat("x", 64<<10)} {
		t.Run(strconv.Itoa(len(body)), func(t *testing.T) {
			b := newBench(t, benchOptions{})
			c := b.browser().login()
			b.rs.Refuse(1)
			method := http.MethodPost
			if body == "" {
				method = http.MethodGet
			}
			status, err := c.call(t.Context(), method, body)
			if err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v", status, err)
			}
			seen := b.rs.Requests()
			if len(seen) != 2 || seen[0].Token == seen[1].Token || seen[1].BodyBytes != int64(len(body)) {
				t.Errorf("the resource server saw %d requests: %+v", len(seen), seen)
			}
			b.wantRefreshes(1)
		})
	}
}

// B213, PX-06: one that always does cannot drive the refreshes, and the client
// gets its 401.
func TestRefusedAlwaysIsBounded(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	b.rs.Refuse(-1)
	for range 5 {
		if got := c.burst(100); got[401] != 100 {
			t.Fatalf("answers %v", got)
		}
	}
	if n := len(b.as.RefreshRequests()); n < 1 || n > 4 {
		t.Errorf("%d refreshes for 500 requests", n)
	}
	if n := b.as.ReuseDetections(); n != 0 {
		t.Errorf("a refresh token was used twice, %d times", n)
	}
	b.rs.Refuse(0)
	if got := c.burst(1); got[200] != 1 {
		t.Errorf("afterwards %v", got)
	}
}

// RF-06, F401: the authorization server is out, and comes back.
func TestAuthorizationServerOutage(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{AccessTokenLifetime: 3 * time.Second}})
	c := b.browser().login()
	signedIn := time.Now()
	b.as.SetDown(true)
	for time.Since(signedIn) < 2*time.Second {
		if got := c.burst(1); got[200] != 1 {
			t.Fatalf("after %v: %v", time.Since(signedIn), got)
		}
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(time.Until(signedIn.Add(3100 * time.Millisecond)))
	for range 20 {
		a := c.get("/api/x", script...)
		a.wantError(t, 503, codeServerUnavailable)
		if n, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
		if len(a.Header["Set-Cookie"]) != 0 {
			t.Error("a cookie was touched")
		}
	}
	if got := c.get("/bff/session", script...).json(t); got["authenticated"] != true {
		t.Errorf("session: %v", got)
	}
	b.as.SetDown(false)
	back := time.Now()
	for c.burst(1)[200] != 1 {
		if time.Since(back) > 30*time.Second {
			t.Fatal("not well half a minute after its return")
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("well again %v after the return", time.Since(back).Round(10*time.Millisecond))
}

// RF-08: a client secret that no longer fits ends no session. RF-05: a grant
// that is gone ends it once, with a clean 401.
func TestInvalidClientAndInvalidGrant(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{AccessTokenLifetime: 2 * time.Second}})
	c := b.browser().login()
	time.Sleep(2100 * time.Millisecond)
	b.as.Configure(func(o *astest.Options) { o.ClientSecret = "other" })
	a := c.get("/api/x", script...)
	a.wantError(t, 502, codeTokenUnavailable)
	if a.json(t)["login_url"] != "/bff/login?force=true" {
		t.Errorf("problem %s", a.body)
	}
	if got := c.get("/bff/session", script...).json(t); got["authenticated"] != true {
		t.Errorf("session: %v", got)
	}
	b.as.Configure(func(o *astest.Options) { o.ClientSecret = "secret" })
	until := time.Now().Add(20 * time.Second)
	for c.burst(1)[200] != 1 {
		if time.Now().After(until) {
			t.Fatal("the session did not come back")
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.as.RevokeGrants("alice")
	b.as.ForgetRequests()
	time.Sleep(2100 * time.Millisecond)
	if got := c.burst(50); got[401] != 50 {
		t.Errorf("answers %v", got)
	}
	a = c.get("/api/x", script...)
	a.wantError(t, 401, codeSessionExpired)
	if a.json(t)["reason"] != "refresh_token" || len(a.Header["Set-Cookie"]) != 0 {
		t.Errorf("problem %s, cookies %v", a.body, a.Header["Set-Cookie"])
	}
	if n := len(b.as.RefreshRequests()); n != 1 {
		t.Errorf("%d refresh requests for a dead grant", n)
	}
}

// Steady traffic across expiries, while the token endpoint takes a fifth of a
// token's life: no request fails. BenchmarkAcrossExpiries tells the latencies.
func TestSteadyTrafficAcrossExpiries(t *testing.T) {
	for name, o := range map[string]astest.Options{
		"tokens of 2 s":                    {AccessTokenLifetime: 2 * time.Second},
		"tokens of 5 s, 1 s for a refresh": {AccessTokenLifetime: 5 * time.Second, Latency: map[string]time.Duration{astest.Token: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{as: o})
			c := b.browser().login()
			for end := time.Now().Add(4 * o.AccessTokenLifetime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if got := c.burst(2); got[200] != 2 {
					t.Fatalf("answers %v", got)
				}
			}
			if n := len(b.as.RefreshRequests()); n < 3 || n > 8 {
				t.Errorf("%d refreshes in 4 lives of a token", n)
			}
			if n := b.as.ReuseDetections(); n != 0 {
				t.Errorf("a refresh token was used twice, %d times", n)
			}
		})
	}
}

// BenchmarkAcrossExpiries sends requests of two sessions in turn through the
// same gateway: one whose access token lives 5 s, with a token endpoint that
// takes 1 s, and one whose token outlives the benchmark. Run it with
// -benchtime=60s; it reports the median and worst latency of both.
func BenchmarkAcrossExpiries(b *testing.B) {
	bench := newBench(b, benchOptions{as: astest.Options{AccessTokenLifetime: time.Hour}})
	calm := bench.browser().login()
	bench.as.Configure(func(o *astest.Options) {
		o.AccessTokenLifetime = 5 * time.Second
		o.Latency[astest.Token] = time.Second
	})
	busy := bench.browser().login()
	var times [2][]time.Duration
	var failed atomic.Int64
	for b.Loop() {
		for i, c := range []*browser{calm, busy} {
			start := time.Now()
			if status, err := c.call(b.Context(), http.MethodGet, ""); err != nil || status != http.StatusOK {
				failed.Add(1)
			}
			times[i] = append(times[i], time.Since(start))
		}
	}
	if n := failed.Load(); n > 0 {
		b.Errorf("%d requests failed", n)
	}
	for i, name := range []string{"calm", "expiring"} {
		slices.Sort(times[i])
		n := len(times[i])
		b.ReportMetric(times[i][n/2].Seconds()*1e6, name+"-p50-µs")
		b.ReportMetric(times[i][n-1].Seconds()*1e6, name+"-worst-µs")
	}
	b.ReportMetric(float64(len(bench.as.RefreshRequests())), "refreshes")
}
