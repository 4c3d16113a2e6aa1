// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// CS-09, CS-10, A201: pages allow their own style and nothing else, and escape
// what they are given.
func TestPages(t *testing.T) {
	t.Parallel()
	const payload = `"><script>alert(1)</script>'`
	for _, p := range []page{reloadPage, {Title: payload, Text: payload, Link: "javascript:alert(1)", LinkText: payload, Code: payload, RequestID: payload}} {
		w := httptest.NewRecorder()
		if err := p.write(w, 400); err != nil {
			t.Fatal(err)
		}
		body := w.Body.String()
		style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(body)
		if style == nil {
			t.Fatal("no style")
		}
		sum := sha256.Sum256([]byte(style[1]))
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || strings.Contains(csp, "unsafe") {
			t.Errorf("the policy does not allow the style: %s", csp)
		}
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
		if strings.Contains(body, "<script") || strings.Contains(body, `href="javascript:`) || !strings.Contains(body, `<html lang="en">`) {
			t.Errorf("%s", body)
		}
	}
}
