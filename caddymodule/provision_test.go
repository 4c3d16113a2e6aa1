// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// provision checks a handler as `caddy validate` does.
func provision(t *testing.T, config string) error {
	t.Helper()
	handler := `{"handler":"bff",` + strings.TrimPrefix(config, "{")
	handler = strings.Replace(handler, `"bff",}`, `"bff"}`, 1)
	return validate(t, fmt.Sprintf(`{"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[%s]}]}}}}}`, handler))
}

// validate does what `caddy validate` does, with nothing of it left behind.
func validate(t *testing.T, config string) error {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &members); err != nil {
		t.Fatal(err)
	}
	members["admin"] = json.RawMessage(`{"disabled":true}`)
	members["storage"] = json.RawMessage(fmt.Sprintf(`{"module":"file_system","root":%q}`, t.TempDir()))
	if members["logging"] == nil {
		members["logging"] = json.RawMessage(`{"logs":{"default":{"writer":{"output":"discard"}}}}`)
	}
	whole, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(whole, &cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

// A605, A105: what is wrong in JSON is an error, whatever the Caddyfile lets
// through. No server is called for it.
func TestConfigErrors(t *testing.T) {
	const ok = `"issuer":"https://as.example.com","client_id":"app","client_auth":"none"`
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{}`: "issuer", `{"issuer":"https://as.example.com"}`: "client_id", `{"issuer":"https://as.example.com","client_id":"app"}`: "needs a client_secret",
		`{"issuer":"http://as.example.com","client_id":"app","client_auth":"none"}`:                                 "loopback",
		`{"issuer":"https://as.example.com","client_id":"app","client_auth":"client_secret_post"}`:                  "needs a client_secret",
		`{"issuer":"https://as.example.com","client_id":"app","client_auth":"private_key_jwt","client_secret":"x"}`: "takes no client_secret",
		`{"issuer":"https://as.example.com","client_id":"app","client_secret":"{env.BFF_TEST_NOT_THERE}"}`:          "client_secret",
		`{"issuer":"https://as.example.com","client_id":"app","client_secret":"{file./nowhere/at/all}"}`:            "client_secret",
		`{"issuer":"https://as.example.com","client_id":"app","client_secret":" "}`:                                 "client_secret is empty",
		`{` + ok + `,"client_secret":"x"}`:                                     "takes no client_secret",
		`{` + ok + `,"name":"a b"}`:                                            "name",
		`{` + ok + `,"base_path":"bff"}`:                                       "base_path",
		`{` + ok + `,"base_path":"/"}`:                                         "base_path",
		`{` + ok + `,"base_path":"/a/"}`:                                       "base_path",
		`{` + ok + `,"base_path":"/a/../b"}`:                                   "base_path",
		`{` + ok + `,"public_origin":"https://a/b"}`:                           "public_origin",
		`{` + ok + `,"public_origin":"http://app.example.com"}`:                "public_origin",
		`{` + ok + `,"return_origins":["*"]}`:                                  "return_origins",
		`{` + ok + `,"trusted_origins":["null"]}`:                              "trusted_origins",
		`{` + ok + `,"response_mode":"fragment"}`:                              "response_mode",
		`{` + ok + `,"error_pages":"none"}`:                                    "error_pages",
		`{` + ok + `,"cookie":{"same_site":"none"}}`:                           "same_site",
		`{` + ok + `,"session":{"lifetime":-1}}`:                               "should be above zero",
		`{` + ok + `,"refresh":{"on":"403"}}`:                                  "refresh on",
		`{` + ok + `,"refresh":{"rotation":"grace"}}`:                          "grace",
		`{` + ok + `,"refresh":{"rotation_grace":5}}`:                          "takes no duration",
		`{` + ok + `,"access_token":{"validate":"introspect"}}`:                "validate",
		`{` + ok + `,"access_token":{"validate":"expiry","audience":["api"]}}`: "audience",
		`{` + ok + `,"logout":{"return_to":"//evil.com"}}`:                     "return_to",
		`{` + ok + `,"logout":{"return_to":"/bff/login"}}`:                     "return_to",
		`{` + ok + `,"logout":{"revoke":"maybe"}}`:                             "revoke",
		`{` + ok + `,"login_param":["redirect_uri"]}`:                          "redirect_uri",
		`{` + ok + `,"csrf_header":{"name":"X CSRF","value":"1"}}`:             "csrf_header",
		`{` + ok + `,"csrf_header":{"name":"X-CSRF"}}`:                         "csrf_header",
		`{` + ok + `,"csrf_header":{"name":"Accept","value":"x"}}`:             "any page may send",
		`{` + ok + `,"trust_ca":["/nowhere/ca.pem"]}`:                          "trust_ca",
		`{` + ok + `,"trust_ca":["` + notPEM + `"]}`:                           "no certificate",
		`{` + ok + `,"resource":["x"]}`:                                        "not an absolute URI",
		`{` + ok + `,"resource":["https://x","https://x"]}`:                    "appears twice",
		`{` + ok + `,"resources":["https://x"]}`:                               "unknown field",
	} {
		if err := provision(t, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %q", config, err, want)
		}
	}
	if err := provision(t, `{`+ok+`}`); err != nil {
		t.Error(err)
	}
	for name, p := range map[string]*caddy.UsagePool{"backends": backends.UsagePool, "rings": keyRings.UsagePool, "managers": managers.UsagePool, "credentials": credentials.UsagePool} {
		p.Range(func(key, _ any) bool { t.Errorf("%s: %v is left", name, key); return true })
	}
}

func TestProtectConfigErrors(t *testing.T) {
	t.Parallel()
	for _, p := range []Protect{{Unauthenticated: "x"}, {CSRF: "x"}, {Activity: "x"}, {Token: "x"}, {Cache: "x"}, {Require: []Rule{{}}}, {Require: []Rule{{Claim: "a"}}}, {Require: []Rule{{Claim: "a", Values: []string{"b", ""}}}}} {
		if err := p.Provision(caddy.Context{}); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
}

// Cleanup is called after a Provision that failed anywhere, and more than once.
func TestCleanupOfHalfProvisioned(t *testing.T) {
	t.Parallel()
	for _, m := range []caddy.CleanerUpper{new(Handler), new(App), &App{Keys: []string{"short"}}} {
		for range 2 {
			if err := m.Cleanup(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Keys that are too short, missing or empty are errors of the configuration.
func TestKeysConfig(t *testing.T) {
	dir := t.TempDir()
	file := func(content string) string {
		name := filepath.Join(dir, fmt.Sprint(len(content)))
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + name + "}"
	}
	long, other := strings.Repeat("k", 32), strings.Repeat("o", 40)
	for name, tt := range map[string]struct {
		keys []string
		want int // keys; 0: an error
	}{
		"one": {[]string{long}, 1}, "lines": {[]string{file(long + "\n\n" + other + "\n")}, 2}, "several": {[]string{file(other), long}, 2},
		"short": {[]string{"short"}, 0}, "a short line": {[]string{file(long + "\nx")}, 0}, "missing file": {[]string{"{file." + dir + "/none}"}, 0}, "missing variable": {[]string{"{env.BFF_TEST_NONE}"}, 0},
	} {
		r, err := newConfiguredRing(tt.keys)
		if tt.want == 0 {
			if err == nil {
				t.Errorf("%s: no error", name)
			} else if strings.Contains(err.Error(), long) || strings.Contains(err.Error(), "short") && name == "short" && strings.Contains(err.Error(), `"short"`) {
				t.Errorf("%s: the key is in the error: %v", name, err)
			}
			continue
		}
		keys, err := r.LoadRing(t.Context())
		if err != nil || len(keys) != tt.want {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

// A606: what Caddy shows and saves of the configuration holds no secret that
// was given by placeholder; the placeholder's file is read again when it changed.
func TestSecretsByPlaceholder(t *testing.T) {
	const first, second = "canary-first-secret", "canary-second-secret"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("canary-session-key-canary-session-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, benchOptions{as: astest.Options{ClientSecret: first}, store: "memory\nkeys {file." + keys + "}"})
	b.config = []byte(strings.Replace(string(b.config), `"client_secret":"secret"`, `"client_secret":"{file.`+file+`}"`, 1))
	b.load()
	c := b.browser().login()
	r, err := json.Marshal(json.RawMessage(b.config))
	if err != nil {
		t.Fatal(err)
	}
	managers.Range(func(key, _ any) bool { r = fmt.Append(r, key); return true })
	keyRings.Range(func(key, _ any) bool { r = fmt.Append(r, key); return true })
	if s := string(r) + b.log(); strings.Contains(s, "canary") {
		t.Error("a secret shows")
	}
	// A115: a rotated secret works at once, and a wrong one ends no session.
	b.as.Configure(func(o *astest.Options) { o.ClientSecret = second })
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusBadGateway || a.Header.Get("X-BFF-Error") != codeTokenUnavailable {
		t.Errorf("wrong secret: %d %s", a.StatusCode, a.body)
	}
	if !c.signedIn() {
		t.Error("signed out by a wrong secret")
	}
	if err := os.WriteFile(file, []byte(second), 0o600); err != nil {
		t.Fatal(err)
	}
	b.browser().login()
	// A file that is being replaced: the last good value serves.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.browser().login()
}

// A literal secret works, with a warning that does not repeat it.
func TestLiteralSecretWarns(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{ClientSecret: "canary-literal"}})
	b.config = []byte(strings.Replace(string(b.config), `"client_secret":"secret"`, `"client_secret":"canary-literal"`, 1))
	b.load()
	b.browser().login()
	log := b.log()
	if !strings.Contains(log, "the client secret stands in the configuration") || strings.Contains(log, "canary-literal") {
		t.Error(lineWith(log, "canary-literal"))
	}
}
