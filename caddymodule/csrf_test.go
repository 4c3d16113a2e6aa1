// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestCSRF is the table of CONTRACT section 3. CS-01, CS-02, CS-04, C402.
func TestCSRF(t *testing.T) {
	t.Parallel()
	const own, trusted, sibling = "https://app.example.com", "https://admin.example.com", "https://b.example.com"
	type h = []string
	const (
		site, mode, dest, origin, csrf = "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Origin", "X-Csrf"
	)
	for name, tt := range map[string]struct {
		method       string
		header       h
		auto, strict bool
	}{
		"(a) header":                                {"POST", h{csrf, "1"}, true, true},
		"(a) header, own origin":                    {"POST", h{csrf, "1", origin, own}, true, true},
		"(a) header, trusted origin":                {"POST", h{csrf, "1", origin, trusted, site, "same-site"}, true, true},
		"(a) header, trusted origin, cross-site":    {"DELETE", h{csrf, "1", origin, trusted, site, "cross-site"}, true, true},
		"(a) header, sibling":                       {"POST", h{csrf, "1", origin, sibling, site, "same-site"}, false, false},
		"(a) header, null origin":                   {"POST", h{csrf, "1", origin, "null"}, false, false},
		"(a) header, empty origin":                  {"POST", h{csrf, "1", origin, ""}, false, false},
		"(a) header, two origins":                   {"POST", h{csrf, "1", origin, own, origin, own}, false, false},
		"(a) header, origin with a path":            {"POST", h{csrf, "1", origin, own + "/"}, false, false},
		"(a) header, origin in capitals":            {"POST", h{csrf, "1", origin, "https://APP.example.com"}, false, false},
		"(a) header, longer origin":                 {"POST", h{csrf, "1", origin, own + ".evil.com"}, false, false},
		"(a) other value":                           {"POST", h{csrf, "2", site, "cross-site"}, false, false},
		"(a) empty value":                           {"POST", h{csrf, "", site, "cross-site"}, false, false},
		"(a) header twice":                          {"POST", h{csrf, "1", csrf, "1", site, "cross-site"}, false, false},
		"(b) same origin":                           {"POST", h{site, "same-origin"}, true, false},
		"(b) same origin, own origin":               {"POST", h{site, "same-origin", origin, own}, true, false},
		"(b) same origin, trusted origin":           {"POST", h{site, "same-origin", origin, trusted}, false, false},
		"(b) same origin, foreign origin":           {"POST", h{site, "same-origin", origin, "https://evil.com"}, false, false},
		"(b) same site":                             {"POST", h{site, "same-site", origin, sibling}, false, false},
		"(b) twice":                                 {"POST", h{site, "same-origin", site, "cross-site"}, false, false},
		"(b) in capitals":                           {"POST", h{site, "Same-Origin"}, false, false},
		"(c) GET, nothing known":                    {"GET", nil, true, false},
		"(c) HEAD, nothing known":                   {"HEAD", nil, true, false},
		"(c) GET, own origin":                       {"GET", h{origin, own}, true, false},
		"(c) GET, foreign origin":                   {"GET", h{origin, "https://evil.com"}, false, false},
		"(c) GET, trusted origin":                   {"GET", h{origin, trusted}, false, false},
		"(c) GET, typed":                            {"GET", h{site, "none", mode, "navigate", dest, "document"}, true, false},
		"(c) GET, link from another site":           {"GET", h{site, "cross-site", mode, "navigate", dest, "document"}, true, false},
		"(c) GET, link from a sibling":              {"GET", h{site, "same-site", mode, "navigate", dest, "document"}, true, false},
		"(c) GET, frame of another site":            {"GET", h{site, "cross-site", mode, "navigate", dest, "iframe"}, false, false},
		"(c) GET, image of another site":            {"GET", h{site, "cross-site", mode, "no-cors", dest, "image"}, false, false},
		"(c) GET, script of a sibling":              {"GET", h{site, "same-site", mode, "no-cors", dest, "script"}, false, false},
		"(c) GET, fetch of another site":            {"GET", h{site, "cross-site", mode, "cors", dest, "empty", origin, "https://evil.com"}, false, false},
		"(c) GET, unknown value":                    {"GET", h{site, "cross-planet", mode, "no-cors"}, false, false},
		"(c) GET, document without navigation":      {"GET", h{site, "cross-site", dest, "document"}, false, false},
		"POST, nothing known":                       {"POST", nil, false, false},
		"POST, own origin only":                     {"POST", h{origin, own}, false, false},
		"POST, typed":                               {"POST", h{site, "none", mode, "navigate", dest, "document"}, false, false},
		"POST, form of another site":                {"POST", h{site, "cross-site", mode, "navigate", dest, "document", origin, "https://evil.com"}, false, false},
		"POST, form of a site without a referrer":   {"POST", h{site, "cross-site", mode, "navigate", dest, "document", origin, "null"}, false, false},
		"POST, text/plain":                          {"POST", h{site, "cross-site", "Content-Type", "text/plain"}, false, false},
		"OPTIONS, nothing known":                    {"OPTIONS", nil, false, false},
		"PUT, method override":                      {"PUT", h{"X-HTTP-Method-Override", "GET"}, false, false},
		"get in small letters is not GET":           {"get", nil, false, false},
		"DELETE, same origin, header not right":     {"DELETE", h{site, "same-origin", csrf, "no"}, true, false},
		"GET, header and a link from another site":  {"GET", h{csrf, "1", site, "cross-site"}, true, true},
		"GET, header with foreign origin, document": {"GET", h{csrf, "1", origin, "https://evil.com", mode, "navigate", dest, "document"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest("GET", "/", nil)
			r.Method = tt.method
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Add(tt.header[i], tt.header[i+1])
			}
			s := siteOf(r, own, trusted)
			if got := s.csrfAccepted(r, csrfAuto); got != tt.auto {
				t.Errorf("auto: %t, want %t", got, tt.auto)
			}
			if got := s.csrfAccepted(r, csrfStrict); got != tt.strict {
				t.Errorf("strict: %t, want %t", got, tt.strict)
			}
			if !s.csrfAccepted(r, csrfOff) {
				t.Error("off: refused")
			}
		})
	}
}

func siteOf(r *http.Request, own string, trusted ...string) site {
	return site{origin: own, trusted: trusted, csrfHeader: csrfHeaderOf(r, "X-Csrf", "1")}
}

// B208, CS-08: the Origin of a WebSocket has to be there and has to be right.
func TestWebSocketOrigin(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]bool{
		"https://app.example.com":      true,
		"https://admin.example.com":    true,
		"https://app.example.com.evil": false,
		"https://xapp.example.com":     false,
		"http://app.example.com":       false,
		"https://app.example.com:444":  false,
		"null":                         false,
		"":                             false,
		"-":                            false, // none
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if origin != "-" {
			r.Header.Set("Origin", origin)
		}
		if got := siteOf(r, "https://app.example.com", "https://admin.example.com").webSocketAccepted(r); got != want {
			t.Errorf("Origin %q: %t, want %t", origin, got, want)
		}
	}
}

func TestWebSocketHandshakes(t *testing.T) {
	t.Parallel()
	handshake := func(method string, major int, proto string, header ...string) *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.Method, r.ProtoMajor, r.Proto = method, major, proto
		for i := 0; i < len(header); i += 2 {
			r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
		}
		return r
	}
	for name, tt := range map[string]struct {
		r    *http.Request
		want bool
	}{
		"upgrade":                {handshake("GET", 1, "HTTP/1.1", "Connection", "Upgrade", "Upgrade", "websocket"), true},
		"upgrade, list and case": {handshake("GET", 1, "HTTP/1.1", "Connection", "keep-alive, upGrade", "Upgrade", "WebSocket"), true},
		"h2c":                    {handshake("GET", 1, "HTTP/1.1", "Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c"), false},
		"no connection header":   {handshake("GET", 1, "HTTP/1.1", "Upgrade", "websocket"), false},
		"extended CONNECT, h2":   {handshake("CONNECT", 2, "HTTP/2.0", ":protocol", "websocket"), true},
		"CONNECT, h2":            {handshake("CONNECT", 2, "HTTP/2.0"), false},
		"extended CONNECT, h3":   {handshake("CONNECT", 3, "websocket"), true},
		"CONNECT, h3":            {handshake("CONNECT", 3, "HTTP/3.0"), false},
		"CONNECT, h1":            {handshake("CONNECT", 1, "HTTP/1.1"), false},
	} {
		if got := webSocket(tt.r); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// BFF-11: documents are told from everything else by fetch metadata, and by
// Accept in browsers that send none.
func TestDocumentRequest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		method string
		header []string
		want   bool
	}{
		"navigation":             {"GET", navigate, true},
		"navigation, HEAD":       {"HEAD", navigate, true},
		"navigation, POST":       {"POST", navigate, false},
		"frame":                  {"GET", []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html"}, false},
		"fetch that takes HTML":  {"GET", []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "text/html"}, false},
		"mode alone":             {"GET", []string{"Sec-Fetch-Mode", "navigate", "Accept", "text/html"}, false},
		"old browser":            {"GET", []string{"Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}, true},
		"old browser, XHR":       {"GET", []string{"Accept", "text/html", "X-Requested-With", "XMLHttpRequest"}, false},
		"program":                {"GET", []string{"Accept", "*/*"}, false},
		"program without Accept": {"GET", nil, false},
	} {
		r := httptest.NewRequest(tt.method, "/", nil)
		for i := 0; i < len(tt.header); i += 2 {
			r.Header.Add(tt.header[i], tt.header[i+1])
		}
		if got := documentRequest(r); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}
