// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// CA-09: public parts alone, for anybody, to be kept by nobody; for GET
// and HEAD; and without a key there is no such endpoint.
func TestJWKSEndpoint(t *testing.T) {
	key, next := astest.NewKey("RS256", "one"), astest.NewKey("RS256", "two")
	b, keyFile := keyBench(t, "alg PS256", key)
	c := b.browser()
	a := c.get("/bff/jwks", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Origin", "https://evil.example.com")
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/jwk-set+json" || a.Header.Get("Cache-Control") != "no-store" ||
		a.Header.Get("X-Content-Type-Options") != "nosniff" || len(a.Cookies()) > 0 || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(a.body), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v: %s", err, a.body)
	}
	want := key.JWK()
	want["alg"] = "PS256"
	for name := range set.Keys[0] {
		if set.Keys[0][name] != want[name] {
			t.Errorf("%s is %v, want %v", name, set.Keys[0][name], want[name])
		}
	}
	if len(set.Keys[0]) != len(want) {
		t.Errorf("%v", set.Keys[0])
	}
	if head := c.do(http.MethodHead, "/bff/jwks", ""); head.StatusCode != http.StatusOK || head.body != "" || head.Header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
		t.Errorf("HEAD: %d %q", head.StatusCode, head.body)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if a := c.do(method, "/bff/jwks", "", script...); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d, Allow %q", method, a.StatusCode, a.Header.Get("Allow"))
		}
	}
	// Two keys in the file: both are shown, the first signs.
	writeKey(t, keyFile, next, key)
	time.Sleep(1100 * time.Millisecond)
	if got := kids(t, []byte(c.get("/bff/jwks").body)); got != "two one" {
		t.Errorf("published: %s", got)
	}
}

func TestNoJWKSWithoutKeys(t *testing.T) {
	b := newBench(t, benchOptions{})
	for _, method := range []string{"GET", "HEAD", "POST"} {
		if a := b.browser().do(method, "/bff/jwks", ""); a.StatusCode != http.StatusNotFound || a.Header.Get("X-BFF-Error") != codeNotFound {
			t.Errorf("%s: %d %s", method, a.StatusCode, a.body)
		}
	}
}
