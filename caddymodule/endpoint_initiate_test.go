// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// AR-12, A312, oidcc-client-test-3rd-party-init-login: a portal sends the user, by GET
// or POST, and what comes of it is a plain login.
func TestThirdPartyInitiatedLogin(t *testing.T) {
	b := newBench(t, benchOptions{})
	ask := url.Values{
		"iss": {b.as.Issuer()}, "target_link_uri": {b.origin() + "/page?x=1#f"}, "login_hint": {"bob & co"},
		"prompt": {"none"}, "scope": {"admin"}, "redirect_uri": {"https://evil.com/"}, "client_id": {"evil"}, "force": {"true"}, "acr_values": {"low"},
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		c := b.browser()
		var a *answer
		if method == http.MethodGet {
			a = c.get("/bff/login/initiate?"+ask.Encode(), arrive...)
		} else {
			a = c.do(method, "/bff/login/initiate", ask.Encode(), with(arrive, "Origin", "https://portal.example.com", "Content-Type", "application/x-www-form-urlencoded")...)
		}
		next := mustParse(t, a.location())
		if a.StatusCode != http.StatusSeeOther || next.Host != "" || next.Path != "/bff/login" || len(next.Query()) != 2 || len(a.Cookies()) > 0 {
			t.Fatalf("%s: %d %q %v", method, a.StatusCode, a.location(), a.Cookies())
		}
		// Still a request from another site: the session cookie is seen after a reload.
		if a = c.get(a.location(), arrive...); a.StatusCode != http.StatusOK || a.location() != "" {
			t.Fatalf("%s: %d %q", method, a.StatusCode, a.location())
		}
		a = c.get(next.String(), navigate...)
		request := mustParse(t, a.location())
		q := request.Query()
		if q.Get("login_hint") != "bob & co" || q.Get("scope") == "admin" || q.Has("prompt") || q.Has("acr_values") || q.Get("client_id") != "app" || q.Get("redirect_uri") != b.origin()+"/bff/callback" {
			t.Errorf("%s: %v", method, q)
		}
		if a = c.get(c.authorize(request), arrive...); a.location() != "/page?x=1#f" {
			t.Errorf("%s: came to %q", method, a.location())
		}
		// Signed in already: nothing is begun anew, and nothing is ended.
		if a = c.get(next.String(), navigate...); a.location() != "/page?x=1#f" || len(a.Cookies()) > 0 {
			t.Errorf("%s: with a session: %q %v", method, a.location(), a.Cookies())
		}
	}
}

// AR-12, C2, A303: an issuer that is not ours, and targets that are not.
func TestThirdPartyInitiatedLoginIsRefused(t *testing.T) {
	b := newBench(t, benchOptions{bff: "login_param prompt\nreturn_origins https://help.example.com"})
	c := b.browser()
	iss := "iss=" + url.QueryEscape(b.as.Issuer())
	for _, query := range []string{
		"", "iss=", "iss=https://evil.com", iss + "/", iss + "&" + iss, iss + "%00", strings.ToUpper(iss),
		iss + "&target_link_uri=/a&target_link_uri=/b", iss + "&login_hint=a&login_hint=b", iss + "&x=%zz",
	} {
		a := c.get("/bff/login/initiate?"+query, arrive...)
		a.wantError(t, http.StatusBadRequest, codeInvalidParameter)
		if a.location() != "" {
			t.Errorf("%s: Location %q", query, a.location())
		}
	}
	for target, want := range map[string]string{
		"": "/", "/a?b#c": "/a?b#c", b.origin(): "/", b.origin() + "?x": "/?x", b.origin() + "#x": "/#x", b.origin() + "/a": "/a",
		"https://help.example.com/x": "https://help.example.com/x", "https://evil.com/": "/", "//evil.com": "/", "/\\evil.com": "/", "javascript:alert(1)": "/",
		b.origin() + "@evil.com": "/", b.origin() + ".evil.com": "/", b.origin() + "0/": "/", b.origin() + "//evil.com": "/", b.origin() + "/%09/evil.com": "/",
		b.origin() + "/\\evil.com": "/", b.origin() + "/bff/logout": "/", "/a\r\nX: y": "/",
	} {
		a := c.get("/bff/login/initiate?login_hint=bob&"+iss+"&target_link_uri="+url.QueryEscape(target), arrive...)
		q := mustParse(t, a.location()).Query()
		if a.StatusCode != http.StatusSeeOther || q.Get("return_to") != want || q.Has("login_hint") {
			t.Errorf("%q: %d %q", target, a.StatusCode, a.location())
		}
	}
	good := "/bff/login/initiate?" + iss
	for _, header := range [][]string{
		script, with(arrive, "Sec-Purpose", "prefetch"),
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"},
		{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
	} {
		c.get(good, header...).wantError(t, http.StatusBadRequest, codeNavigationRequired)
		c.do(http.MethodPost, good, iss, with(header, "Content-Type", "application/x-www-form-urlencoded")...).wantError(t, http.StatusBadRequest, codeNavigationRequired)
	}
	c.do(http.MethodPost, good, iss, with(arrive, "Content-Type", "text/plain")...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	if a := c.do(http.MethodHead, good, "", arrive...); a.StatusCode != http.StatusOK || a.location() != "" {
		t.Errorf("HEAD: %d %q", a.StatusCode, a.location())
	}
	if n := b.as.Count(""); n != 0 {
		t.Errorf("%d calls of the authorization server", n)
	}
}
