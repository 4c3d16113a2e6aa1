// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Address{
		"redis":                       {HostPort: "redis:6379", DB: -1},
		"redis:7000":                  {HostPort: "redis:7000", DB: -1},
		"127.0.0.1":                   {HostPort: "127.0.0.1:6379", DB: -1},
		"[::1]:7000":                  {HostPort: "[::1]:7000", DB: -1},
		"[::1]":                       {HostPort: "[::1]:6379", DB: -1},
		"::1":                         {HostPort: "[::1]:6379", DB: -1},
		"redis://redis":               {HostPort: "redis:6379", DB: -1},
		"redis://redis:7000/":         {HostPort: "redis:7000", DB: -1},
		"rediss://u:p%40@redis/2":     {HostPort: "redis:6379", TLS: true, Username: "u", Password: "p@", DB: 2},
		"redis://:p@redis:7000/0":     {HostPort: "redis:7000", Password: "p", DB: 0},
		"unix:///run/redis.sock":      {Socket: "/run/redis.sock", DB: -1},
		"unix://:p@/run/redis?db=3":   {Socket: "/run/redis", Password: "p", DB: 3},
		"redis://u@[2001:db8::1]:1/1": {HostPort: "[2001:db8::1]:1", Username: "u", DB: 1},
	} {
		if got, err := ParseAddress(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ":6379", "a:b:c", "redis:", "redis:x", "redis:0", "redis:65536", "a b", "redis/2", "u:p@redis",
		"redis://", "redis:///2", "redis://redis/x", "redis://redis/1/2", "redis://redis/-1", "redis://redis/70000",
		"redis://redis?db=1", "redis://redis#x", "rediss:redis", "http://redis", "unix://run/redis", "unix:run/redis",
		"unix:///run/redis?x=1", "unix://", "redis://a b", "redis://%zz",
	} {
		if got, err := ParseAddress(text); err == nil {
			t.Errorf("%q was taken as %+v", text, got)
		}
	}
	for text, local := range map[string]bool{
		"localhost": true, "127.0.0.1": true, "127.1.2.3:7": true, "[::1]": true, "::ffff:127.0.0.1": true, "unix:///s": true,
		"redis": false, "10.0.0.1": false, "[fe80::1]": false, "localhost.example.com": false,
	} {
		a, err := ParseAddress(text)
		if err != nil || a.Local() != local {
			t.Errorf("%s: local is %t, %v", text, a.Local(), err)
		}
	}
}

// Options and addresses get into panics and debug output: no password does.
func TestAddressPrintsNoPassword(t *testing.T) {
	a, err := ParseAddress("rediss://shop:geheim@redis/1")
	if err != nil || a.Password.Reveal() != "geheim" {
		t.Fatal(a, err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, value := range []any{a, &a, Options{Addresses: []Address{a}}} {
			if got := fmt.Sprintf(verb, value); strings.Contains(got, "geheim") || strings.Contains(got, hex.EncodeToString([]byte("geheim"))) {
				t.Errorf("%s: %s", verb, got)
			}
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, text := range []string{"redis:6379", "rediss://u:secret@r/1", "unix:///s?db=1", "[::1]:1", "redis://:secret@[", "0["} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			if len(text) > 12 && strings.Contains(err.Error(), text) {
				t.Errorf("the error repeats the address: %v", err)
			}
			return
		}
		if (a.Socket == "") == (a.HostPort == "") {
			t.Errorf("%q is %+v", text, a)
		}
		if a.HostPort != "" {
			if _, _, err := net.SplitHostPort(a.HostPort); err != nil {
				t.Errorf("%q has the address %q", text, a.HostPort)
			}
		}
	})
}
