// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// A115, A606: braces are characters of a secret, unless they name a placeholder
// that is known; what a placeholder stands for is taken as it is.
func TestSecretsWithBraces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("in{env.HOME}the{file}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BFF_TEST_SECRET", "from{the}environment")
	for raw, want := range map[string]string{
		"pa{ss}word": "pa{ss}word", "{": "{", "}{": "}{", "{}": "{}", "a}b{c": "a}b{c", "{{x}}": "{{x}}", "{env}": "{env}", "{x{env.BFF_TEST_SECRET}}": "{xfrom{the}environment}",
		"{env.BFF_TEST_SECRET}": "from{the}environment", "{file." + file + "}": "in{env.HOME}the{file}", `\{env.BFF_TEST_SECRET\}`: "{env.BFF_TEST_SECRET}",
		strings.Repeat("{", 50): strings.Repeat("{", 50),
	} {
		s, err := newConfigSecret("client_secret", raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if v, err := s.value(); err != nil || v.Reveal() != want {
			t.Errorf("%s: %q, %v; want %q", raw, v.Reveal(), err, want)
		}
	}
}

// No error says anything of a secret, however it was written wrongly.
func TestSecretErrorsSayNothing(t *testing.T) {
	const canary = "canary"
	base := "issuer https://as.example.com\nclient_id app\n"
	for name, tt := range map[string]struct{ config, want string }{
		"two words":         {bffSite(base + "client_secret can canary\n"), "client_secret takes one value"},
		"a request's":       {bffSite(base + "client_secret canary{host}canary\n"), "client_secret has a placeholder that only requests have"},
		"with another":      {bffSite(base + "client_secret canary\nclient_auth none\n"), "takes no client_secret"},
		"twice":             {bffSite(base + "client_secret canary\nclient_secret canary\n"), "client_secret already specified"},
		"and another error": {bffSite(base + "client_secret can{ary}\nbase_path x\n"), "base_path"},
		"short key":         {"{\nbff {\nkeys canary\n}\n}\n", "keys, number 1: a key has 6 bytes, needs at least 32, at Caddyfile:3"},
		"short second key":  {"{\nbff {\nkeys {env.A} canary\n}\n}\n", "keys, number 2: a key has 6 bytes, needs at least 32, at Caddyfile:3"},
		"key twice":         {"{\nbff {\nkeys canary canary\n}\n}\n", "keys has the same value twice, as number 2"},
		"empty":             {bffSite(base + "client_secret \"\"\n"), "client_secret is empty, at Caddyfile:5"},
		"blank":             {bffSite(base + "client_secret \" \"\n"), "client_secret is empty, at Caddyfile:5"},
		"key of a request":  {"{\nbff {\nkeys canary-canary-canary-canary-canary{http.x}\n}\n}\n", "keys, number 1 has a placeholder that only requests have"},
	} {
		_, err := adaptConfig(tt.config)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
	t.Setenv("BFF_TEST_CANARY", "")
	for raw, want := range map[string]string{
		"{env.BFF_TEST_CANARY}":                     "client_secret is empty: {env.BFF_TEST_CANARY} is not set, or cannot be read",
		"{file./nowhere/at/all}":                    "client_secret is empty: {file./nowhere/at/all} is not set, or cannot be read",
		"canary{env.canary_none}":                   "client_secret has a placeholder that is not set",
		"canary{file./nowhere}{canary}":             "client_secret has a placeholder that is not set",
		strings.Repeat("{", 200) + canary + "}":     "",
		"{http.request.header.canary}":              "client_secret has a placeholder that only requests have",
		"{canary{env.BFF_TEST_NONE_AT_ALL}canary}}": "client_secret has a placeholder that is not set",
	} {
		err := provisionAt(t, "app.example.com", `{"issuer":"https://as.example.com","client_id":"app","client_secret":"`+raw+`"}`)
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bff of site app.example.com") || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: error %v, want %q", raw, err, want)
		}
	}
}

// A literal secret with braces works through a real Caddy, and nothing of it is
// in the log.
func TestLiteralSecretWithBraces(t *testing.T) {
	const secret = "canary1{canary2}canary3"
	b := newBench(t, benchOptions{as: astest.Options{ClientSecret: secret}})
	b.config = []byte(strings.Replace(string(b.config), `"client_secret":"secret"`, `"client_secret":"`+secret+`"`, 1))
	b.load()
	b.browser().login()
	log := b.log()
	if !strings.Contains(log, "the client secret stands in the configuration") || strings.Contains(log, "canary") {
		t.Error(lineWith(log, "canary"))
	}
}
