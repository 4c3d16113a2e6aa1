// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// F501, OP-02: reloads under load, of equal and of changed configurations, with
// tokens that are refreshed all the while: no request fails, no refresh is lost
// or made twice, nothing stays behind.
func TestReloadUnderLoad(t *testing.T) {
	for _, store := range []string{"memory", "file"} {
		t.Run(store, func(t *testing.T) {
			const lifetime = 2 * time.Second
			o := benchOptions{as: astest.Options{AccessTokenLifetime: lifetime, Latency: map[string]time.Duration{astest.Token: 100 * time.Millisecond}}, store: store,
				// What is kept alive to the resource server is Caddy's, and not counted here.
				site: "bff_proxy /api/* {$API} {\ntransport http {\nkeepalive off\n}\n}\n"}
			if store == "file" {
				o.store = "file {\npath " + filepath.Join(t.TempDir(), "s.db") + "\n}"
			}
			b := newBench(t, o)
			c := b.browser().login()
			cookie := "bff=" + c.jar["bff"]
			c.get("/api/x", script...)
			before := runtime.NumGoroutine()

			ctx, cancel := context.WithCancel(t.Context())
			var done, failed atomic.Int64
			var wg sync.WaitGroup
			tr := &http.Transport{MaxIdleConnsPerHost: 8}
			defer tr.CloseIdleConnections()
			for range 8 {
				wg.Go(func() {
					for ctx.Err() == nil {
						r, _ := http.NewRequest(http.MethodGet, b.origin()+"/api/x", nil)
						r.Header.Set("Cookie", cookie)
						r.Header.Set("X-CSRF", "1")
						resp, err := tr.RoundTrip(r)
						if err != nil {
							// An idle connection that a reload closed while it was chosen.
							if strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "reset") {
								continue
							}
							t.Error(err)
							failed.Add(1)
							return
						}
						_ = resp.Body.Close()
						done.Add(1)
						if resp.StatusCode != http.StatusOK {
							failed.Add(1)
							t.Errorf("status %d %s", resp.StatusCode, resp.Header.Get("X-BFF-Error"))
							return
						}
						time.Sleep(2 * time.Millisecond)
					}
				})
			}
			plain := bytes.Clone(b.config)
			for i := range 20 {
				b.config = plain
				if i%3 == 1 { // another manager over the same store
					b.config = bytes.Replace(plain, []byte(`"client_id":"app"`), fmt.Appendf(nil, `"client_id":"app","http_timeout":%d`, 5e9+i), 1)
				}
				b.load()
				time.Sleep(100 * time.Millisecond)
			}
			b.config = plain
			b.load()
			cancel()
			wg.Wait()
			if failed.Load() > 0 || done.Load() < 100 || b.as.ReuseDetections() > 0 {
				t.Errorf("%d requests, %d failed, %d reuses", done.Load(), failed.Load(), b.as.ReuseDetections())
			}
			refreshes := b.as.RefreshRequests()
			if len(refreshes) < 1 {
				t.Error("no refresh: the test looks at nothing")
			}
			for i, r := range refreshes {
				// Where the token endpoint is slow a token is refreshed after three
				// tenths of its life, never sooner.
				if i > 0 && r.Time.Sub(refreshes[i-1].Time) < lifetime*29/100 {
					t.Errorf("an extra refresh, %s after the one before", r.Time.Sub(refreshes[i-1].Time))
				}
			}
			tr.CloseIdleConnections()
			after := runtime.NumGoroutine()
			for range 100 {
				if after = runtime.NumGoroutine(); after <= before+10 {
					break
				}
				waitABit()
			}
			if after > before+10 {
				var stacks strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
				t.Errorf("%d goroutines, %d before:\n%s", after, before, stacks.String())
			}
			for name, p := range map[string]*caddy.UsagePool{"backends": backends.UsagePool, "rings": keyRings.UsagePool, "managers": managers.UsagePool} {
				n := 0
				p.Range(func(any, any) bool { n++; return true })
				if n != 1 {
					t.Errorf("%s: %d in the pool", name, n)
				}
			}
		})
	}
}

// A session outlives a reload, also one to a configuration without bff while a
// request of it is under way: that request ends well, and then nothing is left.
func TestReloadToNothingUnderARequest(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	api := newGate(t, entered, leave)
	b.config = bytes.ReplaceAll(b.config, []byte(b.api), []byte(api))
	b.load()
	answers := make(chan *answer, 1)
	go func() { answers <- c.do(http.MethodGet, "/api/slow", "", script...) }()
	<-entered
	b.config = adaptTB(t, fmt.Sprintf("{\nadmin off\npersist_config off\nstorage file_system %s\ngrace_period 5s\n}\nhttp://%s {\nbind 127.0.0.1\nrespond nothing\n}\n", b.dir, b.address))
	b.load()
	close(leave)
	if a := <-answers; a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for name, p := range map[string]*caddy.UsagePool{"backends": backends.UsagePool, "rings": keyRings.UsagePool, "managers": managers.UsagePool} {
		p.Range(func(key, _ any) bool { t.Errorf("%s: %v is left", name, key); return true })
	}
}
