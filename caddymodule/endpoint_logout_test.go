// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func (c *browser) signedIn() bool {
	c.t.Helper()
	return c.get("/bff/session", script...).json(c.t)["authenticated"] == true
}

// A208, CK-12, LO-01, LO-05: logout ends the session everywhere, at once.
func TestLogout(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	kept := b.browser()
	kept.jar["bff"] = c.jar["bff"]
	a := c.do(http.MethodPost, "/bff/logout", "return_to=/bye", with(script, "Content-Type", "application/x-www-form-urlencoded")...)
	target, _ := a.json(t)["logout_url"].(string)
	u := mustParse(t, target)
	if a.StatusCode != 200 || !strings.HasPrefix(target, b.as.Issuer()) || u.Query().Get("client_id") != "app" ||
		u.Query().Get("post_logout_redirect_uri") != b.origin()+"/bff/logout/callback" {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if c.jar["bff"] != "" || kept.signedIn() {
		t.Error("the session lives")
	}
	kept.get("/api/x", script...).wantError(t, http.StatusUnauthorized, codeSessionRevoked)
	if len(b.rs.Requests()) != 0 {
		t.Error("the resource server was called")
	}
	a = c.get("/bff/logout/callback?state="+u.Query().Get("state"), arrive...)
	if a.StatusCode != http.StatusSeeOther || a.location() != "/bye" || len(c.jar) != 0 {
		t.Errorf("back: %d %q %v", a.StatusCode, a.location(), c.jar)
	}
	// LO-03: a state that is not known does no harm.
	if a = c.get("/bff/logout/callback?state=evil", arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/" {
		t.Errorf("unknown state: %d %q", a.StatusCode, a.location())
	}
	// Idempotent.
	if a = c.do(http.MethodPost, "/bff/logout", "", script...); a.StatusCode != 200 || a.json(t)["logout_url"] != nil {
		t.Errorf("again: %d %s", a.StatusCode, a.body)
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(b.as.Requests(astest.Revoke)) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the refresh token is not revoked")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// C401, CS-07: nobody else can sign the user out.
func TestLogoutCSRF(t *testing.T) {
	b := newBench(t, benchOptions{bff: "cookie {\nsame_site lax\n}"})
	c := b.browser().login()
	evil := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for name, a := range map[string]*answer{
		"form of another site":   c.do(http.MethodPost, "/bff/logout", "a=b", with(evil, form...)...),
		"form, null origin":      c.do(http.MethodPost, "/bff/logout", "a=b", with(form, "Origin", "null")...),
		"form, no origin":        c.do(http.MethodPost, "/bff/logout", "a=b", form...),
		"form of a sibling":      c.do(http.MethodPost, "/bff/logout", "a=b", with(form, "Origin", "http://localhost", "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate")...),
		"fetch without header":   c.do(http.MethodPost, "/bff/logout", "", bareFetch...),
		"text/plain":             c.do(http.MethodPost, "/bff/logout", "a=b", "Content-Type", "text/plain", "Origin", b.origin()),
		"own origin, not a form": c.do(http.MethodPost, "/bff/logout", "", "Origin", b.origin()),
	} {
		if a.StatusCode != http.StatusForbidden || a.Header.Get("X-BFF-Error") != codeCSRFRejected {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	sid := c.get("/bff/session", script...).json(t)["logout_url"].(string)
	for name, a := range map[string]*answer{
		"no proof":         c.get("/bff/logout", navigate...),
		"empty proof":      c.get("/bff/logout?sid=", navigate...),
		"wrong proof":      c.get("/bff/logout?sid=AAAAAAAAAAAAAAAAAAAAAA", navigate...),
		"two proofs":       c.get(sid+"&sid=x", navigate...),
		"image":            c.get("/bff/logout", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"),
		"prefetched proof": c.get(sid, with(navigate, "Sec-Purpose", "prefetch")...),
		"older prefetch":   c.get(sid, with(navigate, "X-Moz", "prefetch")...),
	} {
		if a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	if a := c.do(http.MethodHead, sid, "", navigate...); a.StatusCode != 200 {
		t.Errorf("HEAD: %d", a.StatusCode)
	}
	if !c.signedIn() {
		t.Fatal("signed out")
	}
	// Another session's proof is no proof.
	other := b.browser().login()
	if a := other.get(sid, navigate...); a.StatusCode != http.StatusBadRequest || !other.signedIn() {
		t.Errorf("foreign proof: %d", a.StatusCode)
	}
	if a := c.get(sid+"&return_to=/bye", navigate...); a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location(), b.as.Issuer()) || c.signedIn() {
		t.Errorf("link: %d %q", a.StatusCode, a.location())
	}
	if a := c.get(sid+"&return_to=/bye", navigate...); a.StatusCode != http.StatusSeeOther || a.location() != "/bye" {
		t.Errorf("link, signed out already: %d %q", a.StatusCode, a.location())
	}
}

func TestLogoutByForm(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	own := []string{"Content-Type", "application/x-www-form-urlencoded", "Origin", b.origin(), "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	a := c.do(http.MethodPost, "/bff/logout", "return_to=%2Fbye", own...)
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location(), b.as.Issuer()) {
		t.Errorf("%d %q", a.StatusCode, a.location())
	}
	a = c.do(http.MethodPost, "/bff/logout", "return_to=%2Fbye", own...)
	if a.StatusCode != http.StatusSeeOther || a.location() != "/bye" {
		t.Errorf("again: %d %q", a.StatusCode, a.location())
	}
}

// LO-04, LO-06: an authorization server that is out does not hold up a logout.
func TestLogoutWhileServerIsOut(t *testing.T) {
	b := newBench(t, benchOptions{bff: "logout {\nreturn_to /bye\n}"})
	c := b.browser().login()
	b.as.SetDown(true)
	began := time.Now()
	a := c.do(http.MethodPost, "/bff/logout", "", script...)
	if a.StatusCode != 200 || c.signedIn() || time.Since(began) > 5*time.Second {
		t.Errorf("%d %s after %s", a.StatusCode, a.body, time.Since(began))
	}
}
