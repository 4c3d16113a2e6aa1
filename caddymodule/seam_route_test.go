// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestSeamRoutes covers the ways a request takes through Caddy's routes.
// PX-01, PX-02, PX-09, PX-11, B201, B203, A406.
func TestSeamRoutes(t *testing.T) {
	rs := newResourceServer(t, "http", nil)
	rs.strict = true
	g := startGateway(t, fmt.Sprintf(`
	log
	handle /other/* {
		respond "not here" 418
	}
	handle_path /stripped/* {
		reverse_proxy %[1]s {
			transport bff
		}
	}
	handle /rewritten/* {
		rewrite * /base{path}?added=1
		header +X-Added once
		reverse_proxy %[1]s {
			transport bff
			header_up X-Up {http.request.method}
			header_up -X-Gone
			header_up Authorization "Bearer from-the-operator"
		}
	}
	handle /vars/* {
		respond "{http.vars.seam_grant}"
	}
	handle {
		reverse_proxy %[1]s {
			transport bff
		}
	}`, rs.address()))

	for _, version := range []string{"h1", "h2"} {
		c := client(t, version == "h2")
		run := func(name, path, want string, header []string, check func(*testing.T, *seamSource, *http.Response, []seenRequest)) {
			t.Run(version+"/"+name, func(t *testing.T) {
				s := newSeamSource(t)
				before := len(rs.requests())
				resp, body := call(t, c, s, "POST", g.url(path), strings.NewReader("hello"), header...)
				if resp.StatusCode != 200 || body != want {
					t.Errorf("answered %d %q, want 200 %q", resp.StatusCode, body, want)
				}
				if resp.Header.Get("X-First-Answer") != "" {
					t.Error("the first answer leaked into the second")
				}
				seen := rs.requests()[before:]
				wantTokens(t, s, seen, 0, 1)
				for i, r := range seen {
					if r.Method != "POST" || string(r.Body) != "hello" {
						t.Errorf("request %d was %s %q", i, r.Method, r.Body)
					}
				}
				if s.refreshes.Load() != 1 || s.accepted.Load() != 1 {
					t.Errorf("%d refreshes, %d accepted, want one of each", s.refreshes.Load(), s.accepted.Load())
				}
				if check != nil {
					check(t, s, resp, seen)
				}
			})
		}
		run("last handle of a group", "/api/x", "POST /api/x 5", nil, nil)
		run("handle_path", "/stripped/x?q=1", "POST /x?q=1 5", nil, nil)
		run("rewrite and header_up", "/rewritten/x", "POST /base/rewritten/x?added=1 5", []string{"X-Gone", "1"},
			func(t *testing.T, _ *seamSource, resp *http.Response, seen []seenRequest) {
				if got := resp.Header["X-Added"]; !slices.Equal(got, []string{"once"}) {
					t.Errorf("X-Added is %q", got)
				}
				for _, r := range seen {
					if r.Header.Get("X-Up") != "POST" || r.Header["X-Gone"] != nil {
						t.Errorf("header_up was not applied: %v", r.Header)
					}
				}
			})
		run("credentials of the client", "/api/x", "POST /api/x 5", []string{
			"Authorization", "Bearer of-an-attacker", "DPoP", "proof", "Proxy-Authorization", "Basic eDp5",
			"Cookie", "a=1; __Host-Http-bff=secret; b=2",
		}, func(t *testing.T, _ *seamSource, _ *http.Response, seen []seenRequest) {
			for _, r := range seen {
				if r.Header["Dpop"] != nil || r.Header["Proxy-Authorization"] != nil {
					t.Errorf("credentials of the client went upstream: %v", r.Header)
				}
				if got := r.Header.Get("Cookie"); got != "a=1; b=2" {
					t.Errorf("Cookie is %q", got)
				}
			}
		})
		if version == "h1" { // HTTP/2 has no Connection field
			run("hop-by-hop attack", "/api/x", "POST /api/x 5", []string{"Connection", "Authorization, close, X-Foo", "X-Foo", "1"},
				func(t *testing.T, _ *seamSource, _ *http.Response, seen []seenRequest) {
					if seen[0].Header["X-Foo"] != nil {
						t.Error("Caddy no longer takes off what Connection names: the test proves nothing")
					}
				})
		}
	}

	t.Run("grant does not print", func(t *testing.T) {
		s := newSeamSource(t)
		_, body := call(t, client(t, false), s, "GET", g.url("/vars/x"), nil)
		if strings.Contains(body, canary) || strings.Contains(body, s.name) || body == "" {
			t.Errorf("a placeholder shows the grant: %q", body)
		}
	})
	t.Run("no grant", func(t *testing.T) {
		before := len(rs.requests())
		resp, _ := call(t, client(t, false), nil, "GET", g.url("/api/x"), nil, "Authorization", "Bearer mine")
		if resp.StatusCode != 500 {
			t.Errorf("answered %d, want 500", resp.StatusCode)
		}
		if n := len(rs.requests()); n != before {
			t.Error("the upstream was asked")
		}
		if !strings.Contains(g.log(t), "request without a grant") {
			t.Error("nothing loud in the log")
		}
	})
}
