// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// C308, MD-07: a gateway that starts while the metadata cannot be had, whatever comes
// in its place, starts; it serves the sessions that there are, answers a login in
// bounded time, and mends by itself.
func TestStartWithoutMetadata(t *testing.T) {
	huge := strings.Repeat(" ", 16<<20)
	for name, answer := range map[string]astest.Answer{
		"hangs":          {Hang: true},
		"drips":          {Body: `{"issuer":"` + strings.Repeat("x", 1000) + `"}`, Drip: 20 * time.Millisecond},
		"huge":           {Body: `{"issuer":"x"` + huge + `}`},
		"redirects away": {Status: http.StatusFound, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}},
		"redirects home": {Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {"/.well-known/openid-configuration"}}},
		"other issuer":   {Body: `{"issuer":"https://evil.example","authorization_endpoint":"https://evil.example/a","token_endpoint":"https://evil.example/t","jwks_uri":"https://evil.example/j"}`},
		"HTML":           {Body: "<html>"},
		"cut":            {Cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{bff: "http_timeout 500ms", store: "file {\npath " + filepath.Join(t.TempDir(), "sessions.db") + "\n}"})
			c := b.browser().login()
			b.stop()
			answer.Times = -1
			b.as.Script(astest.Metadata, answer)
			before := b.as.Count(astest.Metadata)
			b.load()
			if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK || !strings.Contains(a.body, "alice") {
				t.Errorf("a session that was there: %d %s", a.StatusCode, a.body)
			}
			if a := c.get("/page", navigate...); a.body != "page of alice" {
				t.Errorf("its page: %d %s", a.StatusCode, a.body)
			}
			if a := c.get("/open", navigate...); a.StatusCode != http.StatusOK {
				t.Errorf("an open page: %d", a.StatusCode)
			}
			began := time.Now()
			a := b.browser().get("/bff/login", navigate...)
			if code := a.Header.Get("X-BFF-Error"); a.StatusCode < 500 || code != codeServerUnavailable && code != codeTokenUnavailable || a.location() != "" {
				t.Errorf("login: %d %s %q", a.StatusCode, code, a.location())
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("a login waited %v", took)
			}
			for range 20 { // at once: they share what fails
				b.browser().get("/bff/login", navigate...)
			}
			if n := b.as.Count(astest.Metadata) - before; n > 8 {
				t.Errorf("asked %d times", n)
			}
			if !c.signedIn() {
				t.Error("signed out")
			}
			b.as.ClearScript(astest.Metadata)
			deadlineLogin(t, b.browser())
		})
	}
}
