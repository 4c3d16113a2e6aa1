// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/returnurl"
)

const modesSite = `
	handle /auto* {
		bff_protect
		respond "auto {http.auth.user.id}"
	}
	handle /401* {
		bff_protect {
			unauthenticated 401
		}
		respond "401 {http.auth.user.id}"
	}
	handle /login* {
		bff_protect {
			unauthenticated login
		}
		respond "login {http.auth.user.id}"
	}
	handle /pass* {
		bff_protect {
			unauthenticated pass
		}
		respond "pass {http.auth.user.id}"
	}
	handle /pass-rule* {
		bff_protect {
			unauthenticated pass
			require sub alice
		}
		respond "pass-rule {http.auth.user.id}"
	}
	handle /strict* {
		bff_protect {
			csrf strict
		}
		respond "strict {http.auth.user.id}"
	}
	handle /off* {
		bff_protect {
			csrf off
		}
		respond "off {http.auth.user.id}"
	}
	handle /rule* {
		bff_protect {
			require roles admin editor
			require tenant acme
		}
		respond "rule {http.auth.user.roles} {http.auth.user.tenant}"
	}
	handle /passapi* {
		bff_proxy {$API} {
			unauthenticated pass
		}
	}
	handle /none* {
		bff_proxy {$API} {
			token none
		}
	}
`

// The four modes of CONTRACT section 1, for documents and for everything else.
// BFF-11, A109, A307.
func TestUnauthenticated(t *testing.T) {
	b := newBench(t, benchOptions{site: modesSite})
	c := b.browser()
	for name, tt := range map[string]struct {
		method, path string
		header       []string
		status       int
		location     string
	}{
		"auto, document":           {"GET", "/auto?a=b", navigate, 302, "/bff/login?return_to=%2Fauto%3Fa%3Db"},
		"auto, old browser":        {"GET", "/auto", []string{"Accept", "text/html"}, 302, "/bff/login?return_to=%2Fauto"},
		"auto, HEAD":               {"HEAD", "/auto", navigate, 302, "/bff/login?return_to=%2Fauto"},
		"auto, fetch":              {"GET", "/auto", script, 401, ""},
		"auto, program":            {"GET", "/auto", nil, 401, ""},
		"auto, monitoring":         {"GET", "/auto", []string{"User-Agent", "ELB-HealthChecker/2.0"}, 401, ""},
		"auto, bearer":             {"GET", "/auto", []string{"Authorization", "Bearer x"}, 401, ""},
		"auto, form":               {"POST", "/auto", navigate, 401, ""},
		"auto, image":              {"GET", "/auto", []string{"Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Site", "same-origin"}, 401, ""},
		"auto, long address":       {"GET", "/auto/" + strings.Repeat("a", returnurl.MaxBytes), navigate, 302, "/bff/login"},
		"401, document":            {"GET", "/401", navigate, 401, ""},
		"401, fetch":               {"GET", "/401", script, 401, ""},
		"login, fetch":             {"GET", "/login", script, 302, "/bff/login"},
		"login, document":          {"GET", "/login", navigate, 302, "/bff/login?return_to=%2Flogin"},
		"login, POST":              {"POST", "/login", script, 401, ""},
		"pass, document":           {"GET", "/pass", navigate, 200, ""},
		"pass, POST from anywhere": {"POST", "/pass", nil, 200, ""},
		"rule":                     {"GET", "/rule", script, 401, ""},
		"pass, rule":               {"GET", "/pass-rule", script, 403, ""},
		"pass, rule, document":     {"GET", "/pass-rule", navigate, 403, ""},
		"strict, document":         {"GET", "/strict", navigate, 302, "/bff/login?return_to=%2Fstrict"},
	} {
		a := c.do(tt.method, tt.path, "", tt.header...)
		if a.StatusCode != tt.status || a.location() != tt.location || len(a.Cookies()) != 0 {
			t.Errorf("%s: %d %q %v: %s", name, a.StatusCode, a.location(), a.Cookies(), a.body)
		}
		if tt.status == 401 {
			if got := a.Header.Get("WWW-Authenticate"); got != `Session error="session_required"` {
				t.Errorf("%s: WWW-Authenticate %q", name, got)
			}
		}
		if tt.status != 200 && a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, a.Header.Get("Cache-Control"))
		}
	}
	problem := c.get("/auto", script...)
	p := problem.json(t)
	for _, member := range []string{"type", "title", "status", "code", "request_id", "login_url", "reason"} {
		if p[member] == nil {
			t.Errorf("no %s in %s", member, problem.body)
		}
	}
	if problem.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("Content-Type %q", problem.Header.Get("Content-Type"))
	}
	page := c.get("/401", navigate...)
	csp := page.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") ||
		!strings.Contains(page.body, `href="/bff/login?return_to=`) || strings.Contains(page.body, "<script") {
		t.Errorf("page: %v %s", page.Header, page.body)
	}
	// Anonymous relay: no token, no upstream contact elsewhere.
	if a := c.get("/passapi"); a.StatusCode != 401 || len(b.rs.Requests()) != 1 || b.rs.Requests()[0].Token != "" {
		t.Errorf("anonymous relay: %d %v", a.StatusCode, b.rs.Requests())
	}
}

// A top-level document from another site gets one reload, and none where a
// foreign site must not choose what is asked. CK-06.
func TestCrossSiteDocument(t *testing.T) {
	b := newBench(t, benchOptions{site: modesSite})
	c := b.browser()
	for _, p := range []string{"/auto?x=<script>", "/pass", "/login", "/bff/login", "/bff/session"} {
		a := c.get(p, arrive...)
		if a.StatusCode != 200 || !strings.Contains(a.body, `http-equiv="refresh" content="0"`) || !strings.Contains(a.body, `<a href="">`) ||
			a.Header.Get("Vary") != "Cookie, Sec-Fetch-Site" || a.Header.Get("Cache-Control") != "no-store" || strings.Contains(a.body, "<script") {
			t.Errorf("%s: %d %v %s", p, a.StatusCode, a.Header, a.body)
		}
	}
	for _, p := range []string{"/401", "/strict", "/bff/user"} {
		c.get(p, arrive...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	}
	// Not for what is no explicit cross-site document, so it cannot loop.
	for _, header := range [][]string{navigate, {"Accept", "text/html"}, with(navigate[2:], "Sec-Fetch-Site", "same-origin"), with(navigate[2:], "Sec-Fetch-Site", "same-site")} {
		if a := c.get("/auto", header...); a.StatusCode != http.StatusFound {
			t.Errorf("%v: %d", header, a.StatusCode)
		}
	}
	// With our cookie (SameSite=Lax, say) the page itself.
	c.login()
	if a := c.get("/auto", arrive...); a.body != "auto alice" {
		t.Errorf("with cookie: %s", a.body)
	}
}

// CSRF on a guarded route, and that nothing refused reaches the resource server.
func TestProtectCSRF(t *testing.T) {
	b := newBench(t, benchOptions{site: modesSite + "handle /api/* {\nbff_proxy {$API}\n}\n"})
	c := b.browser().login()
	cross := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "HEAD"} {
		a := c.do(method, "/api/x", "", cross...)
		if a.StatusCode != http.StatusForbidden || a.location() != "" || a.Header.Get("X-BFF-Error") != codeCSRFRejected {
			t.Errorf("%s: %d", method, a.StatusCode)
		}
		if len(a.Header.Values("Access-Control-Allow-Origin")) > 0 {
			t.Errorf("%s: CORS for everybody", method)
		}
	}
	if n := len(b.rs.Requests()); n != 0 {
		t.Errorf("%d requests reached the resource server", n)
	}
	if a := c.do("POST", "/api/x", "x", bareFetch...); a.StatusCode != 200 {
		t.Errorf("own fetch: %d", a.StatusCode)
	}
	c.get("/strict", bareFetch...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	if a := c.get("/strict", script...); a.body != "strict alice" {
		t.Errorf("strict with header: %s", a.body)
	}
	if a := c.do("POST", "/off", "", cross...); a.body != "off alice" {
		t.Errorf("off: %s", a.body)
	}
	if got := b.rs.Requests()[0]; got.Header.Get("X-CSRF") != "" {
		t.Error("the CSRF header reached the resource server")
	}
}

// CS-03, C403, A315: CORS for trusted origins alone; a preflight asks for neither
// session nor token.
func TestCORS(t *testing.T) {
	b := newBench(t, benchOptions{bff: "trusted_origins https://admin.example.com"})
	c := b.browser()
	preflightOf := func(origin string) []string {
		return []string{"Origin", origin, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "x-csrf, content-type", "X-Forwarded-User", "root"}
	}
	for _, p := range []string{"/api/x", "/bff/refresh", "/bff/session"} {
		a := c.do("OPTIONS", p, "", preflightOf("https://admin.example.com")...)
		if a.StatusCode != http.StatusNoContent || a.Header.Get("Access-Control-Allow-Origin") != "https://admin.example.com" ||
			a.Header.Get("Access-Control-Allow-Credentials") != "true" || a.Header.Get("Access-Control-Allow-Methods") != "PUT" ||
			a.Header.Get("Access-Control-Allow-Headers") != "x-csrf, content-type" || !strings.Contains(a.Header.Get("Vary"), "Origin") {
			t.Errorf("%s: %d %v", p, a.StatusCode, a.Header)
		}
		for _, origin := range []string{"https://evil.com", "null", "https://admin.example.com.evil", "https://evil-admin.example.com", "http://admin.example.com"} {
			a := c.do("OPTIONS", p, "", preflightOf(origin)...)
			if a.StatusCode != http.StatusForbidden || a.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s from %s: %d %v", p, origin, a.StatusCode, a.Header)
			}
		}
	}
	if len(b.rs.Requests()) != 0 || len(b.as.Requests(astest.Metadata)) != 0 {
		t.Error("a preflight made work")
	}
	from := []string{"Origin", "https://admin.example.com", "Sec-Fetch-Site", "same-site", "X-CSRF", "1"}
	a := c.get("/api/x", from...)
	a.wantError(t, http.StatusUnauthorized, codeSessionRequired)
	if a.Header.Get("Access-Control-Allow-Origin") != "https://admin.example.com" || !strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "X-BFF-Error") {
		t.Errorf("error without CORS: %v", a.Header)
	}
	c.login()
	if a := c.get("/api/x", from...); a.StatusCode != 200 || len(a.Header.Values("Access-Control-Allow-Origin")) != 1 {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	if a := c.get("/bff/session", from...); a.Header.Get("Access-Control-Allow-Origin") != "https://admin.example.com" {
		t.Errorf("session: %v", a.Header)
	}
	if a := c.get("/open", from...); a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("CORS on a route that is not guarded")
	}
}

// B205, B208, CS-08, BFF-11: a WebSocket needs the right Origin before anything else, also with
// csrf off; no other protocol is changed to; CONNECT is no way through (A429).
func TestUpgrades(t *testing.T) {
	b := newBench(t, benchOptions{site: "handle /ws {\nbff_protect {\ncsrf off\n}\nrespond \"through {http.request.header.Upgrade}\"\n}\n"})
	c := b.browser()
	handshake := func(more ...string) []string {
		return append([]string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}, more...)
	}
	c.get("/ws", handshake("Origin", "https://evil.com")...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	c.get("/ws", handshake("Origin", b.origin())...).wantError(t, http.StatusUnauthorized, codeSessionRequired)
	c.login()
	for _, origin := range []string{"https://evil.com", "null", b.origin() + ".evil.com", "http://127.0.0.1"} {
		c.get("/ws", handshake("Origin", origin)...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	}
	c.get("/ws", handshake()...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	if a := c.get("/ws", handshake("Origin", b.origin())...); a.body != "through websocket" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	a := c.do(http.MethodTrace, "/ws", "", script...)
	a.wantError(t, http.StatusMethodNotAllowed, codeMethodNotAllowed)
	if !strings.Contains(a.Header.Get("Allow"), "POST") || strings.Contains(a.Header.Get("Allow"), "TRACE") {
		t.Errorf("TRACE: Allow %q", a.Header.Get("Allow"))
	}
	if a := c.get("/ws", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "AAMAAABkAAQ"); a.body != "through " {
		t.Errorf("h2c: %s", a.body)
	}
	conn, err := net.Dial("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT /ws HTTP/1.1\r\nHost: %s\r\nCookie: bff=%s\r\n\r\n", b.address, c.jar["bff"])
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		t.Error("CONNECT went through")
	}
}

// CH-01, A412: what a guarded route answers is for one user's browser alone.
func TestPrivateAnswers(t *testing.T) {
	b := newBench(t, benchOptions{site: "header /own Cache-Control \"max-age=5\"\nbff_protect\nrespond x\n"})
	c := b.browser().login()
	a := c.get("/x", script...)
	if a.Header.Get("Cache-Control") != "private, no-cache" || !strings.Contains(a.Header.Get("Vary"), "Cookie") {
		t.Errorf("%v", a.Header)
	}
	if a := c.get("/own", script...); a.Header.Get("Cache-Control") != "max-age=5" {
		t.Errorf("the site's own: %v", a.Header)
	}
}

// A116, A315: a store that is out is 503 for everybody with a cookie, in every
// mode, and signs nobody out.
func TestStoreOutage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sessions.db")
	b := newBench(t, benchOptions{site: modesSite, store: "file {\npath " + path + "\n}"})
	c := b.browser().login()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	// Another Caddy, whose file cannot be opened: a directory is in its place.
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.config = []byte(strings.ReplaceAll(string(b.config), path, blocked))
	b.load()
	for _, p := range []string{"/auto", "/401", "/login", "/pass", "/bff/session", "/bff/login"} {
		a := c.get(p, navigate...)
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("X-BFF-Error") != codeStoreUnavailable || a.Header.Get("Retry-After") == "" || len(a.Cookies()) > 0 {
			t.Errorf("%s: %d %v", p, a.StatusCode, a.Header)
		}
	}
	b.config = []byte(strings.ReplaceAll(string(b.config), blocked, path))
	b.load()
	if !c.signedIn() {
		t.Error("signed out by an outage")
	}
}

// bff_protect without a bff is a mistake of the configuration, loud and closed.
func TestProtectWithoutBFF(t *testing.T) {
	b := newBench(t, benchOptions{site: "respond x"})
	b.config = adaptTB(t, fmt.Sprintf("{\nadmin off\npersist_config off\nstorage file_system %s\nlog {\noutput file %s\n}\n}\nhttp://%s {\nbind 127.0.0.1\nbff /app/* {\nissuer %s\nclient_id app\nclient_auth none\nbase_path /app/bff\n}\nbff_protect\nrespond open\n}\n", b.dir, b.logFile, b.address, b.as.Issuer()))
	b.load()
	a := b.browser().get("/")
	if a.StatusCode != 500 || strings.Contains(a.body, "open") || !strings.Contains(b.log(), "need a bff") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// A site's handle_errors knows who is there: it has lost the request's context,
// and the cookies are off the header.
func TestProtectInErrorRoutes(t *testing.T) {
	b := newBench(t, benchOptions{site: `
	handle /boom {
		bff_proxy 127.0.0.1:1
	}
	handle /teapot {
		error 418
	}
	handle_errors {
		bff_protect
		respond "error {http.error.status_code} for {http.auth.user.id} {http.vars.bff_handle}"
	}`})
	c := b.browser()
	for _, p := range []string{"/boom", "/teapot"} {
		if a := c.get(p, navigate...); a.StatusCode != http.StatusFound || !strings.HasPrefix(a.location(), "/bff/login") {
			t.Errorf("%s, signed out: %d %s", p, a.StatusCode, a.body)
		}
	}
	c.login()
	for p, want := range map[string]string{"/boom": "error 502 for alice bff", "/teapot": "error 418 for alice bff"} {
		if a := c.get(p, navigate...); a.body != want {
			t.Errorf("%s: %d %q", p, a.StatusCode, a.body)
		}
	}
}

// B204, B216: a refusal that leaves a body unread ends the connection, so that
// the body is nobody's next request.
func TestRefusalOfUnreadBody(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	for _, size := range []int{1000, 600_000, 1_000_000} {
		for name, head := range map[string]string{
			"401":          "POST /api/x HTTP/1.1\r\n",
			"403":          "POST /api/x HTTP/1.1\r\nCookie: bff=" + c.jar["bff"] + "\r\nSec-Fetch-Site: cross-site\r\n",
			"an endpoint":  "POST /bff/refresh HTTP/1.1\r\n",
			"not found":    "POST /bff/nothing HTTP/1.1\r\n",
			"wrong method": "POST /bff/session HTTP/1.1\r\n",
		} {
			smuggled := "GET /bff/client.js HTTP/1.1\r\nHost: x\r\n\r\n"
			body := strings.Repeat(smuggled, size/len(smuggled)+1)
			conn, err := net.Dial("tcp", b.address)
			if err != nil {
				t.Fatal(err)
			}
			go fmt.Fprintf(conn, "%sHost: %s\r\nContent-Length: %d\r\n\r\n%s", head, b.address, len(body), body) //nolint:errcheck
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", name, size, err)
			}
			if resp.StatusCode < 400 || !resp.Close {
				t.Errorf("%s, %d bytes: status %d, close %t", name, size, resp.StatusCode, resp.Close)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if second, err := http.ReadResponse(r, nil); err == nil {
				t.Errorf("%s, %d bytes: a second answer: %d", name, size, second.StatusCode)
			}
			_ = conn.Close()
		}
	}
}
