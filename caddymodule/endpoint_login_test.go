// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/returnurl"
)

// BFF-02, BFF-10, A312: login makes one kind of request, by navigation alone.
func TestLoginRequest(t *testing.T) {
	b := newBench(t, benchOptions{bff: "authorization_param audience https://api.test"})
	c := b.browser()
	a := c.get("/bff/login?return_to=%2Fa%3Fb%23c&login_hint=bob&scope=evil&client_id=evil&redirect_uri=https://evil.com&response_type=token&state=evil&nonce=evil", navigate...)
	q := mustParse(t, a.location()).Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "app", "redirect_uri": b.origin() + "/bff/callback",
		"code_challenge_method": "S256", "login_hint": "bob", "audience": "https://api.test", "scope": "openid profile offline_access",
	} {
		if got := q[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if q.Get("state") == "evil" || q.Get("nonce") == "evil" || q.Get("state") == "" || q.Get("nonce") == "" {
		t.Errorf("state or nonce: %v", q)
	}
	if a.StatusCode != http.StatusFound || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	c.get("/bff/login", script...).wantError(t, http.StatusBadRequest, codeNavigationRequired)
	c.get("/bff/login", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image").wantError(t, http.StatusBadRequest, codeNavigationRequired)
	c.get("/bff/login", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe").wantError(t, http.StatusBadRequest, codeNavigationRequired)
	c.get("/bff/login", with(navigate, "Sec-Purpose", "prefetch;prerender")...).wantError(t, http.StatusBadRequest, codeNavigationRequired)
	c.get("/bff/login?return_to=/a&rd=/b", navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	c.get("/bff/login?return_to=/a&return_to=/b", navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	c.get("/bff/login?prompt=none&prompt=login", navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	c.get("/bff/login?max_age=-1", navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	c.get("/bff/login?login_hint=a%00b", navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
}

// C2, A101, A303, CS-11: over HTTP, on every parameter that names a return URL.
func TestOpenRedirectEndpoints(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	// One of each kind; package returnurl reads the whole corpus.
	for i, s := range []string{
		" ", "evil.com", "//evil.com", "///evil.com", "/\\evil.com", "\\\\evil.com", "/\t/evil.com", "/%09/evil.com", "/%2f/evil.com", "/%5cevil.com", "/a/..//evil.com",
		"https://evil.com", "https:evil.com", "javascript:alert(1)", "data:text/html,evil", "https://help.example.com@evil.com", "https://help.example.com.evil.com",
		"/bff/logout", "/%62ff/logout", "/a\r\nSet-Cookie: evil=1", "/a%0d%0aSet-Cookie:evil=1", "/\u202eevil", "/\xff", "/%zz", "/" + strings.Repeat("a", returnurl.MaxBytes),
	} {
		name := returnParams[i%len(returnParams)]
		a := c.get("/bff/login?"+name+"="+url.QueryEscape(s), navigate...)
		a.wantError(t, http.StatusBadRequest, codeInvalidReturnURL)
		if a.location() != "" || strings.Contains(a.body, "evil") {
			t.Errorf("%q: Location %q, body %s", s, a.location(), a.body)
		}
		c.do(http.MethodPost, "/bff/logout?"+name+"="+url.QueryEscape(s), "", script...).wantError(t, http.StatusBadRequest, codeInvalidReturnURL)
	}
}

// A live session that is what was asked for goes straight on; `prompt`, `force`
// and a stricter wish do not.
func TestLoginWithASession(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	for query, straight := range map[string]bool{
		"return_to=/x": true, "return_to=/x&max_age=3600": true, "return_to=/x&login_hint=bob": true,
		"return_to=/x&prompt=login": false, "return_to=/x&force=true": false, "return_to=/x&acr_values=gold": false, "return_to=/x&force=false": true,
	} {
		a := c.get("/bff/login?"+query, navigate...)
		if got := a.location() == "/x"; got != straight || a.StatusCode != http.StatusFound {
			t.Errorf("%s: status %d, Location %q", query, a.StatusCode, a.location())
		}
	}
}

// A silent login that finds nobody comes back with a word about it, and a
// guarded page does not send the browser round again. C312.
func TestSilentLogin(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{AuthorizeError: "login_required"}})
	c := b.browser()
	a := c.get("/bff/silent-login?return_to=/page%3Fx=1%23f", navigate...)
	request := mustParse(t, a.location())
	if request.Query().Get("prompt") != "none" {
		t.Errorf("prompt: %v", request)
	}
	a = c.get(c.authorize(request), arrive...)
	if a.StatusCode != http.StatusSeeOther || a.location() != "/page?x=1&bff_error=login_required#f" {
		t.Fatalf("%d %q", a.StatusCode, a.location())
	}
	page := c.get("/page?x=1&bff_error=login_required", navigate...)
	page.wantError(t, http.StatusUnauthorized, codeSessionRequired)
	if !strings.Contains(page.body, `href="/bff/login?return_to=`) {
		t.Errorf("no link: %s", page.body)
	}
}

// A parameter without anything in it asks for nothing, and does not take the place of
// the configured one. AR-09.
func TestEmptyLoginParameter(t *testing.T) {
	b := newBench(t, benchOptions{bff: "authorization_param acr_values gold"})
	for _, value := range []string{"", "%20", "+%20"} {
		a := b.browser().get("/bff/login?acr_values="+value, navigate...)
		if got := mustParse(t, a.location()).Query()["acr_values"]; len(got) != 1 || got[0] != "gold" {
			t.Errorf("acr_values=%s: %q", value, got)
		}
	}
}

// A login that is begun anew asks what the first one asked: one that was not to
// involve the user does not do so after all. AR-09.
func TestRestartedLoginHasItsPrompt(t *testing.T) {
	b := newBench(t, benchOptions{})
	for _, prompt := range []string{"none", "login", ""} {
		c := b.browser()
		callback := c.authorize(mustParse(t, c.get("/bff/login?prompt="+prompt, navigate...).location()))
		again := b.browser()
		again.jar = maps.Clone(c.jar)
		if a := c.get(callback, arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/" {
			t.Fatalf("prompt %q: %d %q", prompt, a.StatusCode, a.location())
		}
		a := again.get(callback, navigate...)
		if a.StatusCode != http.StatusSeeOther || mustParse(t, a.location()).Query().Get("prompt") != prompt {
			t.Errorf("prompt %q, begun anew: %d %q", prompt, a.StatusCode, a.location())
		}
	}
}

func TestLoginByPost(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	c.do(http.MethodPost, "/bff/login", "", bareFetch...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	for contentType, body := range map[string]string{
		"application/json": `{"return_to":"/x"}`, "application/x-www-form-urlencoded": "return_to=/x", "": "",
	} {
		a := c.do(http.MethodPost, "/bff/login", body, with(script, "Content-Type", contentType)...)
		if got, _ := a.json(t)["authorization_url"].(string); a.StatusCode != 200 || !strings.HasPrefix(got, b.as.Issuer()) || len(a.Cookies()) == 0 {
			t.Errorf("%s: %d %s", contentType, a.StatusCode, a.body)
		}
	}
	// A308: bodies that are nothing we know.
	for contentType, body := range map[string]string{
		"application/json": `[1]`, "application/json; charset=utf-16": `{"return_to":{}}`, "text/plain": "return_to=/x", "": "x", "multipart/form-data": "x",
		"application/x-www-form-urlencoded": "a=%zz",
	} {
		c.do(http.MethodPost, "/bff/login", body, with(script, "Content-Type", contentType)...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	}
	c.do(http.MethodPost, "/bff/login", strings.Repeat("a", maxParamBody+1), with(script, "Content-Type", "application/json")...).wantError(t, http.StatusRequestEntityTooLarge, codeBodyTooLarge)
}

// CK-15, A409: several logins at once, finished in any order; their cookies are
// bounded.
func TestLoginInSeveralTabs(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	var tabs []*url.URL
	for range 8 {
		tabs = append(tabs, c.startLogin("/after"))
	}
	if len(c.jar) > 5 {
		t.Errorf("%d login cookies", len(c.jar))
	}
	// Those whose cookie is still there end signed in, whichever comes first.
	done := 0
	for i := len(tabs) - 1; i >= 0; i-- {
		switch a := c.get(c.authorize(tabs[i]), navigate...); {
		case a.StatusCode == http.StatusSeeOther && a.location() == "/after":
			done++
		case a.StatusCode != http.StatusBadRequest:
			t.Errorf("tab %d: %d %s", i, a.StatusCode, a.location())
		}
	}
	if done != 5 {
		t.Errorf("%d of 8 logins succeeded, want 5", done)
	}
	if got := c.get("/bff/session", script...).json(t)["authenticated"]; got != true {
		t.Error("not signed in")
	}
}
