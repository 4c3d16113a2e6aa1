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

// C404, CS-09: no page of ours is shown in a frame, whoever frames it and whatever the
// page is about.
func TestPagesCannotBeFramed(t *testing.T) {
	b := newBench(t, benchOptions{site: modesSite})
	anonymous, c := b.browser(), b.browser().login()
	seen := map[int]bool{}
	for name, a := range map[string]*answer{
		"session required":   anonymous.get("/401", navigate...),
		"reload":             anonymous.get("/auto", arrive...),
		"CSRF":               anonymous.get("/strict", arrive...),
		"rule":               c.get("/rule", navigate...),
		"state":              anonymous.get("/bff/callback?code=x&state=y", navigate...),
		"parameter":          anonymous.get("/bff/callback?x=%zz", navigate...),
		"return URL":         anonymous.get("/bff/login?return_to=//evil.example", navigate...),
		"logout":             c.get("/bff/logout?sid=x", navigate...),
		"no such endpoint":   c.get("/bff/nothing", navigate...),
		"no such method":     c.do(http.MethodPost, "/bff/session", "a=b", with(navigate, "Content-Type", "application/x-www-form-urlencoded", "Origin", b.origin())...),
		"logged-out, no app": c.do(http.MethodPost, "/bff/callback", "state=y", with(arrive, "Content-Type", "application/x-www-form-urlencoded")...),
	} {
		policy := a.Header.Get("Content-Security-Policy")
		if !strings.Contains(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(policy, "frame-ancestors 'none'") || !strings.Contains(policy, "default-src 'none'") ||
			a.Header.Get("X-Frame-Options") != "DENY" || strings.Contains(a.body, "<script") || strings.Contains(a.body, "postMessage") {
			t.Errorf("%s: %d %v %s", name, a.StatusCode, a.Header, a.body)
		}
		seen[a.StatusCode] = true
	}
	for _, status := range []int{200, 400, 401, 403, 404, 405} {
		if !seen[status] {
			t.Errorf("no page with %d", status)
		}
	}
}

// C501, NS-09: a login without the user cannot be made in a frame, or by anything but a
// navigation, and what comes of it goes to a page of this site alone.
func TestSilentLoginIsForOurOwnPages(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	for _, login := range []string{"/bff/silent-login?return_to=/page", "/bff/login?prompt=none&return_to=/page"} {
		for _, dest := range []string{"iframe", "frame", "embed", "object", "fencedframe", "image", "script", "empty", "worker"} {
			for _, site := range []string{"cross-site", "same-site", "same-origin", "none"} {
				mode := "navigate"
				if dest == "image" || dest == "script" || dest == "empty" || dest == "worker" {
					mode = "no-cors"
				}
				a := c.get(login, "Sec-Fetch-Site", site, "Sec-Fetch-Mode", mode, "Sec-Fetch-Dest", dest, "Accept", "text/html")
				if site == "none" || site == "same-origin" {
					a.wantError(t, http.StatusBadRequest, codeNavigationRequired)
				}
				if a.StatusCode < 400 || a.location() != "" || len(a.Cookies()) != 0 {
					t.Errorf("%s in %s of %s: %d %q", login, dest, site, a.StatusCode, a.location())
				}
			}
		}
	}
	if n := b.as.Count(astest.Metadata); n != 0 {
		t.Errorf("%d calls to the authorization server", n)
	}
	for _, target := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "http://127.0.0.1:1/"} {
		c.get("/bff/silent-login?return_to="+url.QueryEscape(target), navigate...).wantError(t, http.StatusBadRequest, codeInvalidReturnURL)
	}
	for as, want := range map[string]string{"login_required": "/page?bff_error=login_required", "interaction_required": "/page?bff_error=interaction_required", "": "/page"} {
		b.as.Configure(func(o *astest.Options) { o.AuthorizeError = as })
		silent := b.browser()
		request := mustParse(t, silent.get("/bff/silent-login?return_to=/page", navigate...).location())
		if request.Query().Get("prompt") != "none" {
			t.Errorf("prompt %q", request.Query().Get("prompt"))
		}
		a := silent.get(silent.authorize(request), arrive...)
		if a.StatusCode != http.StatusSeeOther || a.location() != want || strings.TrimSpace(a.body) != "" {
			t.Errorf("%q: %d %q %s", as, a.StatusCode, a.location(), a.body)
		}
		// In another browser, as in a frame of somebody else's page, it is nobody's.
		if other := b.browser().get("/bff/callback?error=login_required&state="+request.Query().Get("state")+"&iss="+url.QueryEscape(b.as.Issuer()), navigate...); other.location() != "" {
			t.Errorf("%q elsewhere: %q", as, other.location())
		}
	}
}
