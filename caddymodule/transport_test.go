// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func unmarshalTransport(config string) (*Transport, error) {
	tr := Transport{}.CaddyModule().New().(*Transport)
	tokens, err := caddyfile.Tokenize([]byte(config), "Caddyfile")
	if err != nil {
		return nil, err
	}
	return tr, tr.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
}

func TestTransportUnmarshalCaddyfile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ config, want string }{
		"bare":          {"bff", `{}`},
		"replay_buffer": {"bff {\n\treplay_buffer 100KB\n}", `{"replay_buffer":100000}`},
		"off":           {"bff {\n\treplay_buffer 0\n}", `{"replay_buffer":-1}`},
		"of http too": {
			"bff {\n\tdial_timeout 2s\n\treplay_buffer 1KiB\n\tversions 1.1\n\ttls_server_name a\n}",
			`{"tls":{"server_name":"a"},"dial_timeout":2000000000,"versions":["1.1"],"replay_buffer":1024}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, err := unmarshalTransport(tt.config)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(tr)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
			again := Transport{}.CaddyModule().New().(*Transport)
			if err := caddy.StrictUnmarshalJSON(got, again); err != nil {
				t.Fatal(err)
			}
			if round, _ := json.Marshal(again); string(round) != string(got) {
				t.Errorf("comes back as %s", round)
			}
		})
	}
	for name, tt := range map[string]struct{ config, want, line string }{
		"argument":         {"bff x", "'x'", "Caddyfile:1"},
		"unknown":          {"bff {\n\tspeed 9\n}", "speed", "Caddyfile:2"},
		"missing":          {"bff {\n\treplay_buffer\n}", "replay_buffer needs a size", "Caddyfile:2"},
		"extra":            {"bff {\n\treplay_buffer 1KB 2\n}", "'2'", "Caddyfile:2"},
		"repeated":         {"bff {\n\treplay_buffer 1KB\n\tdial_timeout 1s\n\treplay_buffer 1KB\n}", "replay_buffer already specified", "Caddyfile:4"},
		"wrong":            {"bff {\n\treplay_buffer big\n}", `"big"`, "Caddyfile:2"},
		"block not closed": {"bff {\n\treplay_buffer 1KB", "block of bff is not closed", "Caddyfile:2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := unmarshalTransport(tt.config)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.line) {
				t.Errorf("error %v, want %q at %s", err, tt.want, tt.line)
			}
		})
	}
}

// TestTransportUnknownJSON: JSON has no words that are not read either.
func TestTransportUnknownJSON(t *testing.T) {
	t.Parallel()
	tr := Transport{}.CaddyModule().New()
	if err := caddy.StrictUnmarshalJSON([]byte(`{"replay_bufer":1}`), tr); err == nil {
		t.Error("no error")
	}
}

// TestTransportPromoted: what reverse_proxy asks its transport for comes from
// the http transport inside, and acts on it.
func TestTransportPromoted(t *testing.T) {
	t.Parallel()
	tr := Transport{}.CaddyModule().New().(*Transport)
	if tr.TLSEnabled() {
		t.Error("TLS is on from the start")
	}
	if err := tr.EnableTLS(new(reverseproxy.TLSConfig)); err != nil || !tr.TLSEnabled() {
		t.Errorf("EnableTLS does nothing: %v", err)
	}
	if ops := tr.RequestHeaderOps(); ops == nil || ops.Set.Get("Host") == "" {
		t.Error("no Host for an https upstream")
	}
	if err := tr.EnableH2C(); err != nil || tr.Versions[0] != "h2c" {
		t.Errorf("EnableH2C does nothing: %v", err)
	}
	if err := new(Transport).Cleanup(); err != nil {
		t.Errorf("cleaning up the zero value: %v", err)
	}
}

// TestTransportFailsClosed: a request of a client without a grant never reaches
// the upstream; a health check does, without anything added.
func TestTransportFailsClosed(t *testing.T) {
	t.Parallel()
	asked := make(chan http.Header, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }))
	t.Cleanup(server.Close)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	tr := Transport{}.CaddyModule().New().(*Transport)
	if err := tr.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Cleanup() })

	for name, reqCtx := range map[string]context.Context{
		"Caddy's server": context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{}),
		"Go's server":    context.WithValue(t.Context(), http.ServerContextKey, new(http.Server)),
	} {
		req, _ := http.NewRequestWithContext(reqCtx, "GET", server.URL, nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 500 || len(asked) != 0 {
			t.Errorf("%s: answered %d, upstream asked: %t", name, resp.StatusCode, len(asked) != 0)
		}
	}
	// Health checks inherit the context that modules are provisioned with.
	req, _ := http.NewRequestWithContext(context.WithValue(t.Context(), caddyhttp.ServerCtxKey, new(caddyhttp.Server)), "GET", server.URL, nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if h := <-asked; resp.StatusCode != 200 || h["Authorization"] != nil {
		t.Errorf("health check: answered %d, Authorization %q", resp.StatusCode, h["Authorization"])
	}
}

// FuzzProxyBlock: whatever stands in the block of a bff_proxy, parsing ends and
// does not panic, and no token of ours gets lost. A209.
func FuzzProxyBlock(f *testing.F) {
	f.Add("token none\nto b:1\ntransport http {\n\tversions 2\n}")
	f.Add("replay_buffer 1KiB {\n}\n}")
	f.Add("@a status 200\nhandle_response @a {\nrespond x\n}")
	f.Fuzz(func(t *testing.T, block string) {
		if strings.Contains(block, "import") || strings.Contains(block, "{$") {
			return // reads files and the environment
		}
		_, _, _ = caddyconfig.GetAdapter("caddyfile").Adapt([]byte("localhost {\nbff_proxy a:1 {\n"+block+"\n}\n}\n"), nil)
	})
}
