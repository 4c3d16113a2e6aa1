// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProxyErrors: whatever is wrong in a bff_proxy, the error says in which
// file, in which line, and what the word is. A105.
func TestProxyErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		block      string // of a bff_proxy; its first line is line 3
		want, line string
	}{
		"unknown option":              {"role admin", "unrecognized subdirective role", "Caddyfile:3"},
		"unknown after a known one":   {"token none\nreplay_bufer 1KiB", "unrecognized subdirective replay_bufer", "Caddyfile:4"},
		"token: missing":              {"token", "token needs a value", "Caddyfile:3"},
		"token: wrong":                {"token client", "token is \"client\"", "Caddyfile:3"},
		"token: extra":                {"token user none", "unexpected argument 'none'", "Caddyfile:3"},
		"token: repeated":             {"token user\ntoken user", "token already specified", "Caddyfile:4"},
		"cache: wrong":                {"cache public", "cache is \"public\"", "Caddyfile:3"},
		"cache: block":                {"cache private {\nx\n}", "'{'", "Caddyfile:3"},
		"csrf: repeated":              {"csrf off\nto b:1\ncsrf off", "csrf already specified", "Caddyfile:5"},
		"replay_buffer: missing":      {"replay_buffer", "replay_buffer needs a size", "Caddyfile:3"},
		"replay_buffer: wrong":        {"replay_buffer lots", `"lots"`, "Caddyfile:3"},
		"replay_buffer: negative":     {"replay_buffer -1", `"-1"`, "Caddyfile:3"},
		"replay_buffer: too large":    {"replay_buffer 2GiB", `"2GiB"`, "Caddyfile:3"},
		"replay_buffer: extra":        {"replay_buffer 1KiB 2KiB", "'2KiB'", "Caddyfile:3"},
		"replay_buffer: block":        {"replay_buffer 1KiB {\n}", "'{'", "Caddyfile:3"},
		"replay_buffer: repeated":     {"replay_buffer 1KiB\nreplay_buffer 1KiB", "replay_buffer already specified", "Caddyfile:4"},
		"replay_buffer: in transport": {"transport http {\nreplay_buffer 1KiB\n}", "replay_buffer", "Caddyfile:4"},
		"transport: missing":          {"transport", "'transport'", "Caddyfile:3"},
		"transport: other":            {"transport fastcgi", "transport 'fastcgi'", "Caddyfile:3"},
		"transport: bff":              {"transport bff", "transport 'bff'", "Caddyfile:3"},
		"transport: unknown":          {"transport carrier_pigeon", "transport 'carrier_pigeon'", "Caddyfile:3"},
		"transport: repeated":         {"transport http\ntransport http", "transport already specified", "Caddyfile:4"},
		"transport: wrong option":     {"transport http {\nspeed 9\n}", "speed", "Caddyfile:4"},
		"resource: missing":           {"resource", "resource needs a value", "Caddyfile:3"},
		"resource: two":               {"resource https://a https://b", "unexpected argument 'https://b' of resource", "Caddyfile:3"},
		"resource: relative":          {"csrf auto\nresource orders", `resource "orders" is not an absolute URI`, "Caddyfile:4"},
		"resource: fragment":          {"resource https://a/#b", "has a fragment", "Caddyfile:3"},
		"resource: empty fragment":    {"resource https://a/#", "has a fragment", "Caddyfile:3"},
		"resource: and none":          {"resource https://a\nto b:1\ntoken none", "resource chooses an access token, and token none sends none", "Caddyfile:3"},
		"scope: missing":              {"scope", "scope needs at least one value", "Caddyfile:3"},
		"scope: repeated":             {"scope a\nscope b", "scope already specified", "Caddyfile:4"},
		"scope: wrong":                {"scope orders \"read write\"", `"read write" is no scope token`, "Caddyfile:3"},
		"scope: and none":             {"token none\nscope a", "scope chooses an access token, and token none sends none", "Caddyfile:4"},
		"exchange: no block":          {"exchange", "exchange needs a block", "Caddyfile:3"},
		"exchange: empty":             {"exchange {\n}", "exchange needs a block", "Caddyfile:3"},
		"exchange: argument":          {"exchange orders", "unexpected argument 'orders' of exchange", "Caddyfile:3"},
		"exchange: unknown":           {"exchange {\nactor a\n}", "unrecognized option 'actor' of exchange", "Caddyfile:4"},
		"exchange: repeated option":   {"exchange {\naudience a\naudience b\n}", "exchange audience already specified", "Caddyfile:5"},
		"exchange: repeated":          {"exchange {\naudience a\n}\nexchange {\naudience a\n}", "exchange already specified", "Caddyfile:6"},
		"exchange: type alone":        {"exchange {\nrequested_token_type jwt\n}", "exchange needs an audience, a resource or a scope", "Caddyfile:3"},
		"exchange: type":              {"exchange {\naudience a\nrequested_token_type refresh_token\n}", `exchange requested_token_type is "refresh_token"`, "Caddyfile:5"},
		"exchange: resource":          {"exchange {\naudience a\nresource b\n}", `exchange resource "b" is not an absolute URI`, "Caddyfile:5"},
		"exchange: beside resource":   {"resource https://a\nexchange {\naudience a\n}", "resource stands beside exchange", "Caddyfile:3"},
		"exchange: beside scope":      {"exchange {\naudience a\n}\nscope b", "scope stands beside exchange", "Caddyfile:6"},
		"exchange: and none":          {"exchange {\naudience a\n}\ntoken none", "exchange chooses an access token, and token none sends none", "Caddyfile:3"},
		"header_up: authorization":    {"header_up authorization x", "'authorization'", "Caddyfile:3"},
		"header_up: +Authorization":   {"header_up +Authorization x", "'+Authorization'", "Caddyfile:3"},
		"header_up: missing":          {"header_up", "'header_up'", "Caddyfile:3"},
		"upstream: scheme":            {"to ws://b", "ws://", "Caddyfile:3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := adaptConfig("localhost {\nbff_proxy a:1 {\n" + tt.block + "\n}\n}\n")
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.line) {
				t.Errorf("error %q, want %q at %s", err, tt.want, tt.line)
			}
		})
	}
	t.Run("no upstream", func(t *testing.T) {
		t.Parallel()
		_, err := adaptConfig("localhost {\nrespond 204\nbff_proxy /x {\ntoken none\n}\n}\n")
		if err == nil || !strings.Contains(err.Error(), "bff_proxy has no upstream") || !strings.Contains(err.Error(), "Caddyfile:3") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("of an imported file", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "proxied")
		if err := os.WriteFile(file, []byte("bff_proxy a:1 {\n\ttoken none\n\ttokn none\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := adaptConfig("localhost {\nimport " + file + "\n}\n")
		if err == nil || !strings.Contains(err.Error(), "tokn") || !strings.Contains(err.Error(), file+":3") {
			t.Errorf("error %v, want one at %s:3", err, file)
		}
	})
}

// TestProxyTakesReverseProxySubdirectives: options of both kinds may be mixed,
// snippets and arguments in their blocks too.
func TestProxyTakesReverseProxySubdirectives(t *testing.T) {
	t.Parallel()
	out, err := adaptConfig(`
(common) {
	token none
	header_up X-A {args[0]}
	replay_buffer 2KiB
	transport http {
		versions 2
	}
}
localhost {
	bff_proxy a:1 {
		health_headers {
			token none
			X-B c
		}
		import common value
		health_uri /healthz
		csrf off
	}
}
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"handler":"bff_protect","token":"none"`, `"csrf":"off"`, `"X-A":["value"]`, `"replay_buffer":2048`, `"versions":["2"]`,
		`"token":["none"]`, `"uri":"/healthz"`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
}

// TestProxyOrder: bff_proxy goes before reverse_proxy, and after the handlers
// that reverse_proxy comes after.
func TestProxyOrder(t *testing.T) {
	t.Parallel()
	out, err := adaptConfig("localhost {\nreverse_proxy b:2\nbff_proxy /a a:1\nencode\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	encode, ours, theirs := strings.Index(string(out), `"encode"`), strings.Index(string(out), `"a:1"`), strings.Index(string(out), `"b:2"`)
	if encode < 0 || encode > ours || ours > theirs {
		t.Errorf("encode at %d, bff_proxy at %d, reverse_proxy at %d in %s", encode, ours, theirs, out)
	}
}
