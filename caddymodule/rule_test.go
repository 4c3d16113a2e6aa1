// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// A105, A112: rules deny what is not exactly right, an array's elements included.
func TestRules(t *testing.T) {
	t.Parallel()
	rule := Rule{Claim: "c", Values: []string{"a@corp.com", "7", "true"}}
	for name, tt := range map[string]struct {
		v    any
		want bool
	}{
		"equal": {"a@corp.com", true}, "in a list": {[]any{"x", "a@corp.com"}, true}, "number": {float64(7), true}, "bool": {true, true},
		"absent": {nil, false}, "two at signs": {"a@evil.com@corp.com", false}, "trailing dot": {"a@corp.com.", false}, "NUL": {"a@corp.com\x00", false},
		"case": {"A@corp.com", false}, "homograph": {"а@corp.com", false}, "joined": {"x,a@corp.com", false}, "object": {map[string]any{"a@corp.com": true}, false},
		"list in a list": {[]any{[]any{"a@corp.com"}}, false}, "space": {" a@corp.com", false}, "other number": {7.5, false},
	} {
		if got := rule.holds(map[string]any{"c": tt.v}); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
	if rule.holds(nil) {
		t.Error("no claims: holds")
	}
}

func TestRulesOfARoute(t *testing.T) {
	b := newBench(t, benchOptions{site: modesSite, as: astest.Options{Claims: map[string]any{"roles": []string{"reader"}, "tenant": "acme"}}})
	c := b.browser().login()
	if a := c.get("/pass-rule", script...); a.body != "pass-rule alice" {
		t.Errorf("pass with a rule that holds: %d %s", a.StatusCode, a.body)
	}
	a := c.get("/rule", script...)
	a.wantError(t, http.StatusForbidden, codeForbidden)
	if !c.signedIn() {
		t.Error("a rule ended the session")
	}
	b.as.Configure(func(o *astest.Options) {
		o.Claims = map[string]any{"roles": []string{"x", "editor"}, "tenant": "acme"}
	})
	if a := c.do("POST", "/bff/refresh", "", script...); a.StatusCode != 200 {
		t.Fatalf("refresh: %d %s", a.StatusCode, a.body)
	}
	if a := c.get("/rule", script...); a.body != "rule x,editor acme" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
