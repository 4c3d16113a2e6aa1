// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-bff/caddy-bff/upstream"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is a reverse proxy transport that relays with the access token of
// the browser's session. It is the http transport in all else and takes all of
// its options.
//
// It attaches a token only to a request that a bff_protect handler has let
// through. Health checks go out bare. A request of a client that no bff_protect
// has seen is answered with 500 and never reaches the upstream.
//
// A 401 of the upstream that says that the token is invalid is not passed on at
// once: the token is refreshed and the request sent once more, if its body is
// not larger than the replay buffer.
type Transport struct {
	// The http transport that this one is built on.
	*reverseproxy.HTTPTransport

	// The size in bytes of the largest request body that can be sent again
	// after a 401. A larger body streams, and its 401 is passed on. Default:
	// 65536. A negative size sends no body again.
	ReplayBuffer int64 `json:"replay_buffer,omitempty"`

	relay  *upstream.Transport
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: "http.reverse_proxy.transport.bff",
		New: func() caddy.Module {
			return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
		},
	}
}

// Provision sets up the transport.
func (t *Transport) Provision(ctx caddy.Context) error {
	if t.HTTPTransport == nil {
		t.HTTPTransport = new(reverseproxy.HTTPTransport)
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return fmt.Errorf("provisioning http transport: %w", err)
	}
	t.logger = ctx.Logger()
	t.relay = &upstream.Transport{
		Base:         t.HTTPTransport,
		ReplayBuffer: t.ReplayBuffer,
		Logger:       slog.New(ctx.Slogger().Handler()),
		Replayed: func(ctx context.Context, result upstream.ReplayResult) {
			t.logger.Debug("resource server refused the access token", zap.String("replay", string(result)))
			if hd, ok := handleFrom(ctx); ok {
				hd.bff.metrics.replayed(result)
			}
		},
		NoRoom: func(ctx context.Context) {
			if hd, ok := handleFrom(ctx); ok {
				hd.bff.metrics.LimitReached(limitReplayMemory)
			}
		},
	}
	return nil
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	if t.HTTPTransport == nil {
		return nil
	}
	return t.HTTPTransport.Cleanup()
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, ok := upstream.GrantFrom(req.Context()); !ok && ofClient(req.Context()) {
		// An answer and not an error, as an error would count against the
		// upstream and be tried again on the next one.
		t.logger.Error("request without a grant: this reverse_proxy needs a bff_protect in front of it, or has to be a bff_proxy",
			zap.String("host", req.Host),
			zap.String("method", req.Method),
			zap.String("upstream", req.URL.Host))
		return ungranted(req), nil
	}
	t.SetScheme(req) // a proof of possession names it
	return t.relay.RoundTrip(req)
}

// ofClient reports whether a context is that of a client's request. (The server
// in caddyhttp.ServerCtxKey says nothing: modules are provisioned with it, and
// health checks inherit it.)
func ofClient(ctx context.Context) bool {
	return ctx.Value(caddyhttp.VarsCtxKey) != nil || ctx.Value(http.ServerContextKey) != nil
}

// ungranted is the answer to a request without a grant.
func ungranted(req *http.Request) *http.Response {
	return &http.Response{
		Status:     "500 " + http.StatusText(http.StatusInternalServerError),
		StatusCode: http.StatusInternalServerError,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{"Cache-Control": {"no-store"}, "Content-Length": {"0"}},
		Body:       http.NoBody,
		Request:    req,
	}
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport bff {
//	    replay_buffer <size>
//	    # and every subdirective of `transport http`
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume transport name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s' of transport bff", d.Val())
	}
	block, err := splitBlock(d)
	if err != nil {
		return err
	}
	rest, err := block.take(func(option *caddyfile.Dispenser) (bool, error) {
		if option.Val() != "replay_buffer" {
			return false, nil
		}
		return true, t.unmarshalReplayBuffer(option)
	})
	if err != nil {
		return err
	}
	return t.HTTPTransport.UnmarshalCaddyfile(rest)
}

// unmarshalReplayBuffer reads the size behind a replay_buffer option.
func (t *Transport) unmarshalReplayBuffer(d *caddyfile.Dispenser) error {
	if t.ReplayBuffer != 0 {
		return d.Err("replay_buffer already specified")
	}
	var err error
	t.ReplayBuffer, err = parseReplayBuffer(d)
	return err
}

// maxReplayBuffer bounds what one request may hold in memory.
const maxReplayBuffer = 1 << 30

// parseReplayBuffer reads a size; zero, which in JSON stands for the default,
// comes back as -1.
func parseReplayBuffer(d *caddyfile.Dispenser) (int64, error) {
	if !d.NextArg() {
		return 0, d.Errf("%s needs a size", d.Val())
	}
	word := d.Val()
	size, err := humanize.ParseBytes(word)
	if err != nil || size > maxReplayBuffer {
		return 0, d.Errf("replay_buffer is %q, should be a size such as 64KiB, at most 1GiB", word)
	}
	if d.NextArg() {
		return 0, d.Errf("unexpected argument '%s' of replay_buffer", d.Val())
	}
	if size == 0 {
		return -1, nil
	}
	return int64(size), nil
}

// Interface guards. The second group is what reverse_proxy asks its transport
// for, promoted from the http transport.
var (
	_ caddy.Provisioner     = (*Transport)(nil)
	_ caddy.CleanerUpper    = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)

	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
