// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// B1, A210, A427: only the plain spelling of a path is an endpoint, and nothing
// below the base path, in whatever spelling, reaches the application.
func TestEndpointPaths(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	for _, p := range []string{
		"/bff", "/bff/", "/bff/x", "/bff/session/", "/bff//session", "/bff/./session", "/bff/x/../session", "/bff/%73ession", "/bff/Session",
		"/%62ff/session", "/bff%2fsession", "/bff/session;x", "/bff;x/session", "//bff/session", "/./bff/session", "/x/../bff/session",
		"/bff/session%20", "/bff/session%00", "/bff/session%2f", "/bff/.well-known", "/bff/sessions", "/bff/events", "/bff/frontchannel", "/bff/Backchannel", "/bff/backchannel/", "/bff/backchannel-logout",
	} {
		r, err := http.NewRequest(http.MethodGet, b.origin()+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = "//" + b.address + p // on the wire as it stands
		a := c.send(r)
		if a.StatusCode != http.StatusNotFound || a.Header.Get("X-BFF-Error") != codeNotFound {
			t.Errorf("%s: status %d, X-BFF-Error %q: %s", p, a.StatusCode, a.Header.Get("X-BFF-Error"), a.body)
		}
	}
	for _, p := range []string{"/bffx", "/bff-x/session", "/BFF/session", "/x/bff/session", "/bff.js"} {
		if a := c.get(p); a.StatusCode != http.StatusOK || !strings.HasPrefix(a.body, "open") {
			t.Errorf("%s: status %d: %s", p, a.StatusCode, a.body)
		}
	}
}

// Rewrites of the site move nothing: the endpoints are where the browser says.
func TestEndpointsBeforeRewrites(t *testing.T) {
	b := newBench(t, benchOptions{site: `
	rewrite /bff/session /index.html
	rewrite /alias /bff/session
	try_files {path} /index.html
	respond "app {http.request.uri}"
`})
	c := b.browser()
	if got := c.get("/bff/session").json(t)["authenticated"]; got != false {
		t.Errorf("session is %v", got)
	}
	if a := c.get("/alias"); !strings.HasPrefix(a.body, "app /") {
		t.Errorf("a rewrite reached an endpoint: %s", a.body)
	}
}

// B3: 405 with Allow; HEAD where there is GET, without effect where GET has one.
func TestEndpointMethods(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	for p, allow := range map[string]string{
		"session": "GET, HEAD", "user": "GET, HEAD", "login": "GET, HEAD, POST", "callback": "GET, HEAD, POST", "refresh": "POST", "backchannel": "POST",
		"session/extend": "POST", "logout": "GET, HEAD, POST", "logout/callback": "GET, HEAD", "client.js": "GET, HEAD", "silent-login": "GET, HEAD",
	} {
		for _, method := range []string{"PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get"} {
			a := c.do(method, "/bff/"+p, "", "X-HTTP-Method-Override", "GET")
			if a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != allow {
				t.Errorf("%s %s: status %d, Allow %q, want %q", method, p, a.StatusCode, a.Header.Get("Allow"), allow)
			}
		}
		if !strings.Contains(allow, "GET") {
			c.get("/bff/"+p).wantError(t, http.StatusMethodNotAllowed, codeMethodNotAllowed)
			continue
		}
		a := c.do(http.MethodHead, "/bff/"+p, "", navigate...)
		if a.StatusCode >= 500 || len(a.Cookies()) > 0 || a.location() != "" && p != "logout/callback" || a.body != "" {
			t.Errorf("HEAD %s: status %d, %v", p, a.StatusCode, a.Header)
		}
	}
}

// CK-01, NS-07: plain http on a host that is no loopback one is told so by our
// endpoints and by guarded routes; everything else works.
func TestPlainHTTPBeyondLoopback(t *testing.T) {
	b := newBench(t, benchOptions{host: "app.example.com", site: `
	handle /page {
		bff_protect
		respond page
	}
	handle {
		respond open
	}`})
	c := b.browser()
	_, port, _ := strings.Cut(b.address, ":")
	host := []string{"Host", "app.example.com:" + port}
	for _, p := range []string{"/bff/session", "/bff/login", "/bff/callback?code=a&state=b", "/bff/client.js", "/page"} {
		a := c.get(p, host...)
		a.wantError(t, http.StatusBadRequest, codeHTTPSRequired)
		if len(a.Cookies()) > 0 {
			t.Errorf("%s sets cookies", p)
		}
	}
	if a := c.get("/health", host...); a.StatusCode != 200 || a.body != "open" {
		t.Errorf("open path: %d %s", a.StatusCode, a.body)
	}
	if a := c.get("/page", with(navigate, host...)...); !strings.Contains(a.body, "Secure connection required") {
		t.Errorf("page: %s", a.body)
	}
}

// CK-05, A405: with a public origin of https, cookies are as CONTRACT section 5
// says, the redirect URI is fixed (A206), and deletions have the same attributes
// (CK-14).
func TestCookiesOfASecureSite(t *testing.T) {
	b := newBench(t, benchOptions{bff: "public_origin https://app.example.com\nname shop"})
	c := b.browser()
	a := c.get("/bff/login?return_to=/x", with(navigate, "X-Forwarded-Host", "evil.com", "Forwarded", "host=evil.com")...)
	if got := mustParse(t, a.location()).Query().Get("redirect_uri"); got != "https://app.example.com/bff/callback" {
		t.Errorf("redirect_uri %q", got)
	}
	back := c.authorize(mustParse(t, a.location()))
	done := c.get(back, arrive...)
	out := c.do(http.MethodPost, "/bff/logout", "", script...)
	seen := map[string]bool{}
	for _, k := range append(append(a.Cookies(), done.Cookies()...), out.Cookies()...) {
		seen[k.Name] = true
		if !strings.HasPrefix(k.Name, "__Host-Http-bff-shop") || !k.Secure || !k.HttpOnly || k.Path != "/" || k.Domain != "" || len(k.Raw) > 4096 {
			t.Errorf("cookie %+v", k)
		}
		if k.Name == "__Host-Http-bff-shop" && (k.SameSite != http.SameSiteStrictMode || len(k.Value) >= 512 || !k.Expires.IsZero()) {
			t.Errorf("session cookie %+v", k)
		}
	}
	if !seen["__Host-Http-bff-shop"] || len(seen) < 2 {
		t.Errorf("cookies seen: %v", seen)
	}
}

func mustParse(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// BFF-09, NS-02, CH-03: `session` says what there is, calls nobody, extends
// nothing, and is never stored.
func TestSessionEndpoint(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{Claims: map[string]any{"roles": []string{"a", "b"}, "email": "alice@example.com"}}})
	c := b.browser()
	state := c.get("/bff/session", bareFetch...).json(t)
	if state["authenticated"] != false || state["reason"] != "none" || state["user"] != nil || state["session"] != nil || state["login_url"] != "/bff/login" {
		t.Errorf("anonymous: %v", state)
	}
	if n := len(b.as.Requests(astest.Metadata)); n != 0 {
		t.Errorf("%d calls to the authorization server", n)
	}
	c.login()
	a := c.get("/bff/session", script...)
	state = a.json(t)
	user, _ := state["user"].(map[string]any)
	info, _ := state["session"].(map[string]any)
	if state["authenticated"] != true || user["sub"] != "alice" || user["email"] != "alice@example.com" || user["roles"] != nil || user["nonce"] != nil {
		t.Errorf("user: %v", state)
	}
	if n, _ := info["expires_in"].(float64); n < 1700 || n > 1800 {
		t.Errorf("session: %v", info)
	}
	if id, _ := info["id"].(string); id == "" || strings.Contains(c.jar["bff"], id) {
		t.Errorf("handle: %v", info)
	}
	if a.Header.Get("Cache-Control") != "no-store" || len(a.Cookies()) > 0 {
		t.Errorf("header: %v", a.Header)
	}
	if got, _ := state["logout_url"].(string); !strings.HasPrefix(got, "/bff/logout?sid=") {
		t.Errorf("logout_url %q", got)
	}
	if a := c.do(http.MethodPost, "/bff/session/extend", "", script...); a.json(t)["authenticated"] != true {
		t.Errorf("extend: %s", a.body)
	}
}

func TestUserEndpoint(t *testing.T) {
	b := newBench(t, benchOptions{
		as:  astest.Options{Claims: map[string]any{"roles": []string{"a", "b"}, "address": map[string]any{"country": "CH"}}},
		bff: "claims *",
	})
	c := b.browser()
	c.get("/bff/user", script...).wantError(t, http.StatusUnauthorized, codeSessionRequired)
	c.login()
	c.get("/bff/user", bareFetch...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	a := c.get("/bff/user?slide=false", script...)
	for _, want := range []string{
		`{"type":"sub","value":"alice"}`, `{"type":"roles","value":"a"},{"type":"roles","value":"b"}`,
		`{"type":"address","value":"{\"country\":\"CH\"}"}`, `"bff:session_expires_in"`, `"bff:logout_url"`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %s in %s", want, a.body)
		}
	}
	if strings.Contains(a.body, "nonce") || strings.Contains(a.body, "at_hash") {
		t.Errorf("claims of the protocol: %s", a.body)
	}
}

func TestRefreshEndpoint(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	c.do(http.MethodPost, "/bff/refresh", "", script...).wantError(t, http.StatusUnauthorized, codeSessionRequired)
	c.login()
	c.do(http.MethodPost, "/bff/refresh", "", bareFetch...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	b.as.Configure(func(o *astest.Options) { o.Claims = map[string]any{"roles": []string{"new"}} })
	a := c.do(http.MethodPost, "/bff/refresh", "", script...)
	got := a.json(t)
	if n, _ := got["access_token_expires_in"].(float64); a.StatusCode != 200 || n < 290 || n > 300 || got["claims_changed"] != true {
		t.Errorf("%d %v", a.StatusCode, got)
	}
	again := c.do(http.MethodPost, "/bff/refresh", "", script...)
	again.wantError(t, http.StatusTooManyRequests, codeRateLimited)
	if again.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if n := b.as.Refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestClientModule(t *testing.T) {
	b := newBench(t, benchOptions{bff: "csrf_header X-Shop \"a \\\"b\\\"\""})
	c := b.browser()
	a := c.get("/bff/client.js")
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || a.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	if !strings.Contains(a.body, `const CSRF = ["X-Shop","a \"b\""];`) {
		t.Error("the module does not have the CSRF header")
	}
	if again := c.get("/bff/client.js", "If-None-Match", a.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("revalidation: %d", again.StatusCode)
	}
	for _, name := range []string{"session", "login", "logout", "fetch", "onSession", "configure"} {
		if !strings.Contains(a.body, "export function "+name) && !strings.Contains(a.body, "export async function "+name) && !strings.Contains(a.body, "export const "+name) {
			t.Errorf("the module exports no %s", name)
		}
	}
}
