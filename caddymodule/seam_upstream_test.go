// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestSeamUpstreams covers kinds and numbers of upstreams. PX-13, B217.
func TestSeamUpstreams(t *testing.T) {
	plain, tls, h2c := newResourceServer(t, "http", nil), newResourceServer(t, "https", nil), newResourceServer(t, "h2c", nil)
	other := newResourceServer(t, "http", nil)
	for _, rs := range []*resourceServer{plain, tls, h2c, other} {
		rs.strict = true
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCertificate(t, ca, tls.Certificate())
	dead := freeAddress(t)
	g := startGateway(t, fmt.Sprintf(`
	handle /https/* {
		reverse_proxy https://%[2]s {
			transport bff {
				tls_trust_pool file %[5]s
				tls_server_name example.com
			}
		}
	}
	handle /h2c/* {
		reverse_proxy h2c://%[3]s {
			transport bff
		}
	}
	handle /both/* {
		reverse_proxy %[1]s %[4]s {
			lb_policy round_robin
			transport bff
		}
	}
	handle /dead/* {
		reverse_proxy %[6]s %[1]s {
			lb_policy first
			lb_try_duration 10s
			lb_try_interval 10ms
			fail_duration 1m
			transport bff
		}
	}
	handle /health/* {
		reverse_proxy %[4]s {
			health_uri /healthz
			health_interval 50ms
			transport bff
		}
	}`, plain.address(), tls.address(), h2c.address(), other.address(), ca, dead))
	c := client(t, false)

	t.Run("https", func(t *testing.T) {
		s := newSeamSource(t)
		resp, body := call(t, c, s, "POST", g.url("/https/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /https/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, tls.requests(), 0, 1)
		if tls.requests()[1].Proto != 2 {
			t.Error("not over HTTP/2")
		}
	})
	t.Run("h2c", func(t *testing.T) {
		s := newSeamSource(t)
		resp, body := call(t, c, s, "POST", g.url("/h2c/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /h2c/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, h2c.requests(), 0, 1)
		if h2c.requests()[1].Proto != 2 {
			t.Error("not over HTTP/2")
		}
	})
	t.Run("lb_policy", func(t *testing.T) {
		s := newSeamSource(t)
		for range 4 {
			if resp, _ := call(t, c, s, "GET", g.url("/both/x"), nil); resp.StatusCode != 200 {
				t.Errorf("answered %d", resp.StatusCode)
			}
		}
		n := 0
		for _, r := range slices.Concat(plain.requests(), other.requests()) {
			if r.Header.Get("Authorization") == s.bearer(1) {
				n++
			}
		}
		if n != 4 || s.refreshes.Load() != 1 {
			t.Errorf("%d accepted requests and %d refreshes, want 4 and 1", n, s.refreshes.Load())
		}
	})
	t.Run("dead upstream", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(plain.requests())
		resp, body := call(t, c, s, "POST", g.url("/dead/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /dead/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, plain.requests()[before:], 0, 1)
	})
	t.Run("health checks are bare", func(t *testing.T) {
		checked := func() *seenRequest {
			for _, r := range other.requests() {
				if r.Path == "/healthz" {
					return &r
				}
			}
			return nil
		}
		deadline := time.Now().Add(10 * time.Second)
		for checked() == nil && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		r := checked()
		if r == nil {
			t.Fatal("no health check arrived")
		}
		if r.Header["Authorization"] != nil {
			t.Errorf("health check had Authorization %q", r.Header["Authorization"])
		}
		if resp, _ := call(t, c, newSeamSource(t), "GET", g.url("/health/x"), nil); resp.StatusCode != 200 {
			t.Errorf("answered %d: a healthy upstream counts as unhealthy", resp.StatusCode)
		}
	})
}

// TestSeamReload replaces the config while a request is at the upstream that is
// about to refuse its token.
func TestSeamReload(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	rs := newResourceServer(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			close(held)
			<-release
			refuse(w)
			return
		}
		_, _ = io.WriteString(w, "done")
	}))
	g := startGateway(t, fmt.Sprintf(`
	reverse_proxy %s {
		transport bff
	}`, rs.address()))
	s := newSeamSource(t)
	type answer struct {
		status int
		body   string
	}
	answers := make(chan answer, 1)
	go func() {
		resp, body := call(t, client(t, false), s, "POST", g.url("/x"), strings.NewReader("hello"))
		answers <- answer{resp.StatusCode, body}
	}()
	<-held
	// The module is cleaned up when this returns, and the request still runs.
	if err := caddy.Load(g.config, true); err != nil {
		t.Fatal(err)
	}
	reloaded := time.Now()
	close(release)
	if got := <-answers; got != (answer{200, "done"}) {
		t.Errorf("answered %v", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", g.url("/x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(seamHeader, s.name)
	resp, err := send(client(t, false), req, reloaded)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("after the reload: answered %d", resp.StatusCode)
	}
}

func writeCertificate(t *testing.T, file string, cert *x509.Certificate) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
