// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// CS-01, C402: a page of a sibling, which is the same site and so has the Strict
// cookie sent along, and pages of anybody else with a cookie that is Lax: whatever
// they can make a browser send is refused, reaches nobody and changes nothing.
func TestRequestsOfASibling(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	before := c.jar["bff"]
	calls := b.as.Count(astest.Token) + b.as.Count(astest.Metadata) + b.as.Count(astest.Revoke)
	sibling := []string{"Origin", "http://b.127.0.0.1", "Sec-Fetch-Site", "same-site"}
	foreign := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}
	form := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Content-Type", "application/x-www-form-urlencoded"}
	fetch := []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}
	for name, header := range map[string][]string{
		"sibling, form":                    with(sibling, form...),
		"sibling, text/plain":              with(sibling, with(fetch, "Content-Type", "text/plain")...),
		"sibling, multipart":               with(sibling, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Content-Type", "multipart/form-data; boundary=x"),
		"sibling, header by itself":        with(sibling, with(fetch, "X-CSRF", "1")...),
		"sibling, no origin":               {"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		"sibling, null origin":             with(fetch, "Origin", "null", "Sec-Fetch-Site", "same-site"),
		"sibling, no fetch metadata":       sibling[:2],
		"other site, form":                 with(foreign, form...),
		"other site, text/plain":           with(foreign, with(fetch, "Content-Type", "text/plain")...),
		"other site, header by itself":     with(foreign, with(fetch, "X-CSRF", "1")...),
		"other site, image":                {"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		"other site, no fetch metadata":    foreign[:2],
		"own host, another port":           with(fetch, "Origin", "http://127.0.0.1:1", "Sec-Fetch-Site", "same-site"),
		"own host, another scheme":         with(fetch, "Origin", "https://"+b.address, "Sec-Fetch-Site", "cross-site"),
		"own origin, but another site":     with(fetch, "Origin", b.origin(), "Sec-Fetch-Site", "cross-site"),
		"own origin and a foreign one":     with(sibling, "Origin", b.origin()),
		"the method is another by its own": with(sibling, with(fetch, "X-HTTP-Method-Override", "GET")...),
	} {
		for _, request := range [][2]string{
			{"GET", "/api/x"}, {"HEAD", "/api/x"}, {"POST", "/api/x"}, {"PUT", "/api/x"}, {"DELETE", "/api/x"}, {"PATCH", "/api/x"},
			{"GET", "/bff/session"}, {"GET", "/bff/user"}, {"POST", "/bff/refresh"}, {"POST", "/bff/session/extend"}, {"POST", "/bff/login"}, {"POST", "/bff/logout"},
		} {
			body := ""
			if request[0] == "POST" {
				body = "a=b"
			}
			a := c.do(request[0], request[1], body, header...)
			if a.StatusCode != http.StatusForbidden || a.Header.Get("X-BFF-Error") != codeCSRFRejected {
				t.Errorf("%s: %s %s: %d %s", name, request[0], request[1], a.StatusCode, a.body)
			}
			if len(a.Cookies()) != 0 || a.location() != "" || a.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s: %s %s: %v", name, request[0], request[1], a.Header)
			}
		}
	}
	if n := len(b.rs.Requests()); n != 0 {
		t.Errorf("%d requests reached the resource server", n)
	}
	if c.jar["bff"] != before || !c.signedIn() {
		t.Error("the session is not what it was")
	}
	if n := b.as.Count(astest.Token) + b.as.Count(astest.Metadata) + b.as.Count(astest.Revoke); n != calls {
		t.Errorf("%d calls to the authorization server", n-calls)
	}
}

// CS-08, B208: a WebSocket that somebody else's page opens, with our cookie, does not
// even have the upstream dialled; nor does one without a session (BFF-11).
func TestWebSocketOfASiblingDialsNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var dialled atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			_ = conn.Close()
		}
	}()
	b := newBench(t, benchOptions{bff: "cookie {\nsame_site lax\n}", site: "handle /ws {\nbff_proxy " + l.Addr().String() + " {\ncsrf off\n}\n}\n"})
	handshake := func(more ...string) []string {
		return append([]string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}, more...)
	}
	stranger := b.browser()
	stranger.get("/ws", handshake("Origin", b.origin())...).wantError(t, http.StatusUnauthorized, codeSessionRequired)
	c := b.browser().login()
	for _, origin := range []string{"https://evil.example", "http://b.127.0.0.1", "http://127.0.0.1", "https://" + b.address, b.origin() + ".evil.example", "null", ""} {
		c.get("/ws", handshake("Origin", origin)...).wantError(t, http.StatusForbidden, codeCSRFRejected)
		c.get("/ws", handshake("Origin", origin, "X-CSRF", "1", "Sec-Fetch-Site", "same-origin")...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	}
	c.get("/ws", handshake()...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	if n := dialled.Load(); n != 0 {
		t.Errorf("the upstream was dialled %d times", n)
	}
	if a := c.get("/ws", handshake("Origin", b.origin())...); a.StatusCode != http.StatusBadGateway || dialled.Load() == 0 {
		t.Errorf("our own page: %d, dialled %d times", a.StatusCode, dialled.Load())
	}
}
