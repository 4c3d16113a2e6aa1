// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	httpcaddyfile.RegisterDirective("bff_proxy", parseProxy)
	httpcaddyfile.RegisterDirectiveOrder("bff_proxy", httpcaddyfile.Before, "reverse_proxy")
}

// streamCloseDelay is how long WebSockets and other streams of bff_proxy outlive
// a config reload unless the Caddyfile says otherwise.
const streamCloseDelay = caddy.Duration(time.Hour)

// parseProxy sets up the bff_proxy directive, which is a bff_protect handler and
// a reverse_proxy handler with the transport bff behind it. Syntax:
//
//	bff_proxy [<matcher>] [<upstreams...>] {
//	    token         user|none
//	    resource      <uri>
//	    scope         <scope...>
//	    exchange {
//	        audience             <audience...>
//	        resource             <uri...>
//	        scope                <scope...>
//	        requested_token_type access_token|jwt
//	    }
//	    step_up
//	    dpop
//	    replay_buffer <size>
//	    cache         private|upstream
//
//	    # every option of bff_protect
//	    # every subdirective of reverse_proxy; of transports, only http
//	}
//
// Streams outlive a config reload by an hour, unless stream_close_delay is
// given.
func parseProxy(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcherSet, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next()
	directive := h.Dispenser.Token()
	block, err := splitBlock(h.Dispenser)
	if err != nil {
		return nil, err
	}

	p := proxyOptions{protect: &Protect{proxy: true}}
	rest, err := block.take(p.unmarshalOption)
	if err != nil {
		return nil, err
	}
	for _, check := range []func() error{p.protect.checkWrittenPurpose, p.protect.checkDPoP} {
		if err := (&options{at: p.protect.at}).locate(check()); err != nil {
			return nil, err
		}
	}
	// TransportRaw stays nil here: reverse_proxy would replace what it finds
	// there for https upstreams.
	rp := new(reverseproxy.Handler)
	if err := rp.UnmarshalCaddyfile(rest); err != nil {
		return nil, err
	}
	if err := rp.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	if len(rp.Upstreams) == 0 && rp.DynamicUpstreamsRaw == nil {
		d := caddyfile.NewDispenser([]caddyfile.Token{directive})
		d.Next()
		return nil, d.Err("bff_proxy has no upstream")
	}
	if err := p.relay(rp); err != nil {
		return nil, err
	}

	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(p.protect, "handler", "bff_protect", nil),
		caddyconfig.JSONModuleObject(rp, "handler", "reverse_proxy", nil),
	}}
	if matcherSet != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcherSet}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// proxyOptions collects the subdirectives of bff_proxy that are not for
// reverse_proxy, and what has to be known of those that are.
type proxyOptions struct {
	protect          *Protect
	replayBuffer     int64
	transport        bool // given by the user
	streamCloseDelay bool // given by the user
}

// unmarshalOption takes the subdirective at which d is positioned, if it is not
// one of reverse_proxy.
func (p *proxyOptions) unmarshalOption(d *caddyfile.Dispenser) (known bool, err error) {
	switch d.Val() {
	case "replay_buffer":
		if p.replayBuffer != 0 {
			return true, d.Err("replay_buffer already specified")
		}
		p.replayBuffer, err = parseReplayBuffer(d)
		return true, err
	case "transport":
		if p.transport {
			return false, d.Err("transport already specified")
		}
		p.transport = true
		return false, checkProxyTransport(d)
	case "header_up":
		return false, checkHeaderUp(d)
	case "stream_close_delay":
		p.streamCloseDelay = true
		return false, nil
	}
	return p.protect.unmarshalOption(d)
}

// checkProxyTransport refuses transports that cannot carry a token.
func checkProxyTransport(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	if d.Val() == "http" {
		return nil
	}
	return d.Errf("transport '%s' cannot be used in a bff_proxy: only http, to which it adds the access token", d.Val())
}

// checkHeaderUp refuses to set what the transport would take off again.
func checkHeaderUp(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return nil // reverse_proxy reports it
	}
	field := strings.TrimSuffix(d.Val(), ":")
	if strings.HasPrefix(field, "-") {
		return nil
	}
	switch http.CanonicalHeaderKey(strings.TrimLeft(field, "+?")) {
	case "Authorization":
		return d.Errf("header_up cannot set '%s' in a bff_proxy: it carries the access token or nothing", d.Val())
	case "Dpop":
		return d.Errf("header_up cannot set '%s' in a bff_proxy: it carries the proof for the access token or nothing", d.Val())
	}
	return nil
}

// relay has rp use the transport bff in place of the http transport that the
// Caddyfile made, its options kept.
func (p *proxyOptions) relay(rp *reverseproxy.Handler) error {
	transport := make(map[string]json.RawMessage)
	if rp.TransportRaw != nil {
		if err := json.Unmarshal(rp.TransportRaw, &transport); err != nil {
			return fmt.Errorf("reading transport of bff_proxy: %w", err)
		}
	}
	transport["protocol"] = json.RawMessage(`"bff"`)
	if p.replayBuffer != 0 {
		transport["replay_buffer"] = caddyconfig.JSON(p.replayBuffer, nil)
	}
	rp.TransportRaw = caddyconfig.JSON(transport, nil)
	if !p.streamCloseDelay {
		rp.StreamCloseDelay = streamCloseDelay
	}
	return nil
}
