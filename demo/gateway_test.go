// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

func TestGatewaySaysWhatIsWrongWithTheCaddyfile(t *testing.T) {
	for name, test := range map[string]struct{ source, want string }{
		"missing":         {"", "Caddyfile"},
		"unknown option":  {"http://localhost:8080 {\n\tbff {\n\t\tisuer http://127.0.0.1:1\n\t}\n}\n", "isuer"},
		"not in its form": {"http://localhost:8080 {\nrespond hi\n}\n", "not formatted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_DATA_HOME", "")   // restores
			t.Setenv("XDG_CONFIG_HOME", "") // both
			data := t.TempDir()
			caddyfile := filepath.Join(data, "Caddyfile")
			if test.source != "" {
				if err := os.WriteFile(caddyfile, []byte(test.source), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := newGateway(caddyfile, data, map[string]string{}, &journal.Journal{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want something about %q", err, test.want)
			}
			if !strings.HasPrefix(caddy.DefaultStorage.Path, data) || !strings.HasPrefix(caddy.ConfigAutosavePath, data) {
				t.Errorf("Caddy would write to %s and %s", caddy.DefaultStorage.Path, caddy.ConfigAutosavePath)
			}
		})
	}
}
