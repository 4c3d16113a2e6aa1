// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// spellings are how a value may look in a log.
func spellings(v string) []string {
	return []string{
		v, url.QueryEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), base64.RawURLEncoding.EncodeToString([]byte(v)),
		hex.EncodeToString([]byte(v)), strings.ReplaceAll(v, `&`, `\u0026`),
	}
}

// TestLogsHoldNoSecret goes through everything that handles secrets, with
// Caddy's own logs at DEBUG and access logs on, and looks for each of them in
// all that was logged. D7, A314, A607, BFF-16.
func TestLogsHoldNoSecret(t *testing.T) {
	for name, pages := range map[string]string{"builtin": "", "caddy": "error_pages caddy"} {
		t.Run(name, func(t *testing.T) {
			const secret = "canary-client-secret"
			t.Setenv("BFF_TEST_SECRET", secret)
			b := newBench(t, benchOptions{
				as:     astest.Options{ClientSecret: secret},
				bff:    pages + "\nlogout {\nid_token_hint on\n}",
				global: "servers {\ntrace\n}",
				site:   defaultSite + "handle_errors {\nrespond \"handled {http.error.status_code} {http.bff.error} {http.request.uri} {http.request.orig_uri} {http.request.orig_uri.query}{http.request.uri.query}\"\nlog_append orig {http.request.orig_uri}\n}\n",
			})
			b.config = []byte(strings.Replace(string(b.config), `"client_secret":"secret"`, `"client_secret":"{env.BFF_TEST_SECRET}"`, 1))
			b.load()
			secrets := map[string]string{"client secret": secret}
			note := func(c *browser, request *url.URL, callback string) {
				q := mustParse(t, callback).Query()
				secrets["state "+callback] = q.Get("state")
				secrets["code "+callback] = q.Get("code")
				secrets["nonce "+callback] = request.Query().Get("nonce")
				for cookie, v := range c.jar {
					secrets["cookie "+cookie+callback] = v
				}
			}
			c := b.browser()
			request := c.startLogin("/after")
			callback := c.authorize(request)
			note(c, request, callback)
			c.get(callback, arrive...)
			note(c, request, callback)
			c.get("/api/x", script...)
			c.get("/page", navigate...)
			c.get("/open", navigate...)
			b.rs.Refuse(1)
			c.get("/api/heal", script...)
			c.do(http.MethodPost, "/bff/refresh", "", script...)

			// Callbacks that fail: foreign, repeated, refused, with the server out.
			other := b.browser()
			other.get(callback, navigate...)
			other.get(callback, script...)
			c.get(callback, navigate...)
			c.do(http.MethodPost, "/bff/callback", mustParse(t, callback).RawQuery, with(arrive, "Content-Type", "application/x-www-form-urlencoded")...)
			c.do("PUT", callback, "", navigate...)
			for _, odd := range []string{"/bff/callback/?", "/bff/%63allback?", "//bff/callback?", "/bff/./callback?", "/bff/CALLBACK?", "/bff;x/callback?"} {
				c.get(odd+mustParse(t, callback).RawQuery, navigate...).wantError(t, http.StatusNotFound, codeNotFound)
			}
			request = other.startLogin("/x")
			failing := other.authorize(request)
			note(other, request, failing)
			b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
			if a := other.get(failing, navigate...); a.StatusCode < 500 {
				t.Errorf("code refused: %d", a.StatusCode)
			} else if a.Header.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("code refused: %v", a.Header)
			} else if pages != "" && !strings.Contains(a.body, "handled 502 token_unavailable /bff/callback /bff/callback ") {
				t.Errorf("handle_errors: %s", a.body)
			}
			request = other.startLogin("/x")
			failing = other.authorize(request)
			note(other, request, failing)
			b.as.SetDown(true)
			if a := other.get(failing, navigate...); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("server out: %d %s", a.StatusCode, a.body)
			}
			b.as.SetDown(false)

			for _, r := range b.as.Requests(astest.Token) {
				for _, name := range []string{"code", "code_verifier", "refresh_token", "client_secret"} {
					if v := r.Form.Get(name); v != "" {
						secrets[name+" sent"] = v
					}
				}
			}
			for _, r := range b.rs.Requests() {
				secrets["access token "+r.URL] = r.Token
			}
			a := c.do(http.MethodPost, "/bff/logout", "", script...)
			hint := mustParse(t, a.json(t)["logout_url"].(string)).Query()
			secrets["ID token"], secrets["logout state"] = hint.Get("id_token_hint"), hint.Get("state")
			c.get("/bff/logout/callback?state="+hint.Get("state"), arrive...)
			again := b.browser().login()
			link := again.get(again.get("/bff/session", script...).json(t)["logout_url"].(string), navigate...)
			secrets["ID token of a link"] = mustParse(t, link.location()).Query().Get("id_token_hint")

			log := b.log()
			if !strings.Contains(log, "handled request") || !strings.Contains(log, `"level":"debug"`) || len(secrets) < 15 {
				t.Fatalf("the test looks at nothing: %d secrets", len(secrets))
			}
			for what, v := range secrets {
				if v == "" {
					if !strings.HasPrefix(what, "cookie") {
						t.Errorf("%s is empty", what)
					}
					continue
				}
				for _, s := range spellings(v) {
					if strings.Contains(log, s) {
						t.Errorf("%s is in the log: %s", what, lineWith(log, s))
					}
				}
			}
		})
	}
}
