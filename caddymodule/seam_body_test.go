// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// pattern is an endless body that needs no memory.
type pattern struct{ at int }

// patternBlock has a period that no buffer size is a multiple of.
var patternBlock = func() (b [64*1024 + 251]byte) {
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}()

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, patternBlock[p.at:])
	p.at = (p.at + n) % 251
	return n, nil
}

// TestSeamBodies covers request bodies: replayed whole or not at all.
// PX-07, PX-08, B204, B206, B215, B216.
func TestSeamBodies(t *testing.T) {
	rs := newResourceServer(t, "http", nil)
	rs.strict = true
	var uploaded atomic.Int64
	big := newResourceServer(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		uploaded.Store(n)
		if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			refuse(w)
		}
	}))
	var dropped atomic.Int64
	dropping := newResourceServer(t, "http", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		dropped.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	g := startGateway(t, fmt.Sprintf(`
	handle /big {
		reverse_proxy %s {
			transport bff
		}
	}
	handle /dropping {
		reverse_proxy %s {
			transport bff
		}
	}
	handle {
		reverse_proxy %s {
			transport bff {
				replay_buffer 1KiB
			}
		}
	}`, big.address(), dropping.address(), rs.address()))
	c := client(t, false)

	for _, size := range []int{0, 1, 1023, 1024, 1025, 70000} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, chunked %t", size, chunked), func(t *testing.T) {
				s := newSeamSource(t)
				before := len(rs.requests())
				sent, _ := io.ReadAll(io.LimitReader(new(pattern), int64(size)))
				var body io.Reader = strings.NewReader(string(sent))
				if chunked {
					body = io.MultiReader(body) // of unknown length
				}
				resp, _ := call(t, c, s, "POST", g.url("/x"), body)
				seen := rs.requests()[before:]
				if size <= 1024 {
					if resp.StatusCode != 200 {
						t.Errorf("answered %d, want 200", resp.StatusCode)
					}
					wantTokens(t, s, seen, 0, 1)
				} else {
					if resp.StatusCode != 401 || resp.Header.Get("X-First-Answer") != "yes" {
						t.Errorf("answered %d %v, want the first answer", resp.StatusCode, resp.Header)
					}
					wantTokens(t, s, seen, 0)
				}
				for _, r := range seen {
					if r.Err != nil || !slices.Equal(r.Body, sent) {
						t.Errorf("upstream got %d bytes (%x), %v; sent %d (%x)",
							len(r.Body), sha256.Sum256(r.Body), r.Err, len(sent), sha256.Sum256(sent))
					}
				}
			})
		}
	}

	t.Run("trailers", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(rs.requests())
		req, _ := http.NewRequestWithContext(t.Context(), "POST", g.url("/x"), io.MultiReader(strings.NewReader("hello")))
		req.Header.Set(seamHeader, s.name)
		req.Trailer = http.Header{"X-Sum": {"abc"}, "Authorization": {"Bearer of-an-attacker"}, "Cookie": {"__Host-Http-bff=x"}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		seen := rs.requests()[before:]
		wantTokens(t, s, seen, 0, 1)
		for i, r := range seen {
			if string(r.Body) != "hello" || r.Trailer.Get("X-Sum") != "abc" || len(r.Trailer) != 1 {
				t.Errorf("request %d had body %q, trailer section %v", i, r.Body, r.Trailer)
			}
		}
	})

	t.Run("Expect: 100-continue", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(rs.requests())
		resp, body := call(t, c, s, "POST", g.url("/x"), strings.NewReader("hello"), "Expect", "100-continue")
		if resp.StatusCode != 200 || body != "POST /x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, rs.requests()[before:], 0, 1)
	})

	t.Run("ambiguous failure is not replayed", func(t *testing.T) {
		s := newSeamSource(t)
		resp, _ := call(t, c, s, "POST", g.url("/dropping"), strings.NewReader("hello"))
		if resp.StatusCode != 502 || dropped.Load() != 1 {
			t.Errorf("answered %d after %d requests, want 502 after 1", resp.StatusCode, dropped.Load())
		}
	})

	t.Run("refresh fails", func(t *testing.T) {
		s := newSeamSource(t)
		s.fail.Store(true)
		resp, body := call(t, c, s, "POST", g.url("/x"), strings.NewReader("hello"))
		if resp.StatusCode != 401 || body != "first answer" {
			t.Errorf("answered %d %q, want the first answer", resp.StatusCode, body)
		}
		if resp.Header["Www-Authenticate"] != nil {
			t.Errorf("challenge reached the browser: %q", resp.Header["Www-Authenticate"])
		}
	})

	t.Run("large upload", func(t *testing.T) {
		size := int64(1 << 30)
		if testing.Short() {
			size = 64 << 20
		}
		for _, chunked := range []bool{false, true} {
			s := newSeamSource(t)
			req, _ := http.NewRequestWithContext(t.Context(), "POST", g.url("/big"), io.LimitReader(new(pattern), size))
			if !chunked {
				req.ContentLength = size
			}
			req.Header.Set(seamHeader, s.name)
			peak := watchHeap(t)
			resp, err := (&http.Client{Transport: c.Transport}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != 401 || uploaded.Load() != size {
				t.Errorf("chunked %t: answered %d, upstream got %d bytes of %d", chunked, resp.StatusCode, uploaded.Load(), size)
			}
			if s.refreshes.Load() != 1 {
				t.Errorf("chunked %t: %d refreshes, want 1 for the next attempt of the browser", chunked, s.refreshes.Load())
			}
			if grown := peak(); grown > 32<<20 {
				t.Errorf("chunked %t: heap grew by %d MiB", chunked, grown>>20)
			}
		}
	})
}

// watchHeap samples the live heap until the returned function is called, which
// tells by how many bytes it grew at most.
func watchHeap(t *testing.T) func() uint64 {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, peak := m.HeapAlloc, m.HeapAlloc
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	return func() uint64 {
		stop()
		<-done
		return peak - start
	}
}
