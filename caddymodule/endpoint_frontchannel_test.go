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

// frame are the headers of a frame in another site's page.
var frame = []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Accept", "text/html"}

// The OpenID Foundation's modules oidcc-client-test-rp-frontchannel-rpinitlogout and
// -opinitlogout; LO-19, LO-20, A311.
func TestFrontchannel(t *testing.T) {
	b := newBench(t, benchOptions{bff: "logout {\nfrontchannel on\n}"})
	address := func(iss, sid string) string {
		return "/bff/frontchannel?" + url.Values{"iss": {iss}, "sid": {sid}}.Encode()
	}
	latest := func() string { all := b.as.SIDs("alice"); return all[len(all)-1] }
	c, stranger := b.browser().login(), b.browser()
	right := address(b.as.Issuer(), latest())

	for name, a := range map[string]*answer{
		"other sid":  stranger.get(address(b.as.Issuer(), "other"), frame...),
		"other iss":  stranger.get(address("https://evil.example", latest()), frame...),
		"sid alone":  stranger.get("/bff/frontchannel?sid="+latest(), frame...),
		"iss alone":  stranger.get("/bff/frontchannel?iss="+url.QueryEscape(b.as.Issuer()), frame...),
		"nothing":    c.get("/bff/frontchannel", frame...),
		"prefetched": stranger.get(right, with(frame, "Sec-Purpose", "prefetch")...),
		"HEAD":       stranger.do(http.MethodHead, right, "", frame...),
	} {
		if a.StatusCode != 200 || len(a.Cookies()) > 0 || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", name, a.StatusCode, a.Header)
		}
	}
	stranger.get(right+"&sid=x", frame...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	stranger.do(http.MethodPost, right, "", "Content-Type", "application/x-www-form-urlencoded").wantError(t, http.StatusMethodNotAllowed, codeMethodNotAllowed)
	if !c.signedIn() {
		t.Fatal("signed out")
	}
	// Without a cookie: the frame is another site's.
	a := stranger.get(right, frame...)
	policy := a.Header.Get("Content-Security-Policy")
	if a.StatusCode != 200 || c.signedIn() || !strings.Contains(policy, "frame-ancestors "+b.as.Issuer()) || !strings.Contains(policy, "default-src 'none'") ||
		a.Header.Get("X-Frame-Options") != "" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v, signed in %v", a.StatusCode, a.Header, c.signedIn())
	}
	if other := stranger.get(address(b.as.Issuer(), "other"), frame...); other.body != a.body || other.Header.Get("Content-Security-Policy") != policy {
		t.Error("the answer tells whether there was a session")
	}
	// A cookie that comes along (same site, or a Lax one) goes with its session.
	c = b.browser().login()
	kept := b.browser().login()
	mine := b.as.SIDs("alice")
	if a := c.get(address(b.as.Issuer(), mine[len(mine)-2]), frame...); a.StatusCode != 200 || c.jar["bff"] != "" {
		t.Errorf("%d, the cookie is %q", a.StatusCode, c.jar["bff"])
	}
	if a := kept.get(address(b.as.Issuer(), "other"), frame...); a.StatusCode != 200 || kept.jar["bff"] == "" || !kept.signedIn() {
		t.Error("another's logout took the cookie")
	}
	// Begun here: the session is over when the frame comes, and that is fine.
	over := latest()
	kept.do(http.MethodPost, "/bff/logout", "", script...)
	if a := stranger.get(address(b.as.Issuer(), over), frame...); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	waitABit()
	if n := b.as.Count(astest.Revoke); n > 2 {
		t.Errorf("%d revocations, which are not those of the logout that was begun here alone", n)
	}
	if strings.Contains(b.log(), mine[0]) {
		t.Error("a sid is in the log")
	}
}
