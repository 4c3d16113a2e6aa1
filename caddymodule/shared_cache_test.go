// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// CH-01, CH-02, CH-04, CH-05: a resource server counts on Authorization to keep shared
// caches away (RFC 9111 section 3.5), and a browser sends a cookie instead. So what one
// user gets through bff_proxy says by itself that no shared cache may keep it, unless
// the route leaves that to the upstream.
func TestSharedCachesKeepNothing(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for _, value := range r.URL.Query()["cc"] {
			h.Add("Cache-Control", value)
		}
		h.Set("ETag", `"1"`)
		h.Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		h.Set("Vary", "Accept-Language")
		h.Set("Expires", "Fri, 01 Jan 2100 00:00:00 GMT")
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write([]byte("for one user"))
	}))
	defer upstream.Close()
	address := upstream.Listener.Addr().String()
	b := newBench(t, benchOptions{site: "handle /api/* {\nbff_proxy " + address + "\n}\nhandle /shared/* {\nbff_proxy " + address + " {\ncache upstream\n}\n}\n"})
	c := b.browser().login()
	for name, tc := range map[string]struct {
		target string
		header []string
		status int
	}{
		"nothing said":       {"/api/x", nil, 200},
		"public":             {"/api/x?cc=public,max-age=60", nil, 200},
		"shared for a while": {"/api/x?cc=s-maxage=60", nil, 200},
		"in two fields":      {"/api/x?cc=public&cc=max-age=60,s-maxage=60", nil, 200},
		"must-revalidate":    {"/api/x?cc=must-revalidate,max-age=60", nil, 200},
		"not modified":       {"/api/x?cc=public,max-age=60", []string{"If-None-Match", `"1"`}, 304},
	} {
		a := c.get(tc.target, with(script, tc.header...)...)
		said := strings.ToLower(strings.Join(a.Header.Values("Cache-Control"), ","))
		if a.StatusCode != tc.status || !strings.Contains(said, "private") && !strings.Contains(said, "no-store") || strings.Contains(said, "public") || strings.Contains(said, "s-maxage") {
			t.Errorf("%s: %d, Cache-Control %q", name, a.StatusCode, said)
		}
		if vary := strings.Join(a.Header.Values("Vary"), ","); !strings.Contains(vary, "Cookie") || !strings.Contains(vary, "Accept-Language") {
			t.Errorf("%s: Vary %q", name, vary)
		}
	}
	if a := c.get("/shared/x?cc=public,max-age=60", script...); a.Header.Get("Cache-Control") != "public,max-age=60" {
		t.Errorf("left to the upstream: Cache-Control %q", a.Header.Values("Cache-Control"))
	}
	// Whoever is signed out learns nothing of what is cached, not even that it is.
	if a := c.do(http.MethodPost, "/bff/logout", "", script...); a.StatusCode != http.StatusOK {
		t.Fatal(a.StatusCode)
	}
	b.browser().get("/api/x", with(script, "If-None-Match", `"1"`)...).wantError(t, http.StatusUnauthorized, codeSessionRequired)
}
