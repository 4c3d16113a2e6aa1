// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// B207: what 0-RTT data may repeat is not acted upon before the handshake is
// complete.
func TestEarlyData(t *testing.T) {
	t.Parallel()
	h := &Handler{BasePath: "/bff", logger: processLog}
	protect := new(Protect)
	for _, tt := range []struct {
		method, path string
		complete     bool
		early        bool
	}{
		{"GET", "/bff/login", false, true},
		{"GET", "/bff/callback?code=a&state=b", false, true},
		{"POST", "/bff/logout", false, true},
		{"POST", "/bff/refresh", false, true},
		{"PUT", "/bff/session", true, false},
		{"PUT", "/bff/refresh", true, false},
		{"POST", "/api", false, true},
		{"DELETE", "/api", false, true},
	} {
		r := httptest.NewRequest(tt.method, tt.path, nil)
		r.TLS = &tls.ConnectionState{HandshakeComplete: tt.complete}
		w := httptest.NewRecorder()
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
		hd := &handle{bff: h, url: r.URL, user: new(user), cookies: &http.Request{}}
		if name, ours := h.endpoint(hd); ours {
			if err := hd.serveEndpoint(w, r, name); err != nil {
				t.Error(err)
			}
		} else if _, _, err := protect.admit(hd, r); err != nil {
			if err := hd.fail(w, r, err); err != nil {
				t.Error(err)
			}
		}
		if got := w.Code == http.StatusTooEarly; got != tt.early {
			t.Errorf("%s %s, complete %t: status %d", tt.method, tt.path, tt.complete, w.Code)
		}
	}
}
