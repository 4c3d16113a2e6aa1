// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// signOut has the authorization server deliver a logout token.
func (b *bench) signOut(token string) astest.LogoutAnswer {
	b.t.Helper()
	a, err := astest.SendLogoutToken(b.t.Context(), http.DefaultClient, b.origin()+"/bff/backchannel", token)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// wantAnswer checks an answer to the authorization server (Back-Channel Logout
// section 2.8).
func wantAnswer(t *testing.T, a astest.LogoutAnswer, status int) {
	t.Helper()
	if a.Status != status || a.Header.Get("Cache-Control") != "no-store" || len(a.Header["Set-Cookie"]) > 0 {
		t.Errorf("answered %d %v: %s; want %d", a.Status, a.Header, a.Body, status)
	}
	var body struct {
		Error            string `json:"error"`
		ErrorDescription string `json:"error_description"`
	}
	switch {
	case status == http.StatusOK:
		if a.Body != "" {
			t.Errorf("body %q", a.Body)
		}
	case json.Unmarshal([]byte(a.Body), &body) != nil || body.Error == "" || body.ErrorDescription == "":
		t.Errorf("the body of %d: %s", a.Status, a.Body)
	case status < 429 && body.Error != "invalid_request", status >= 429 && (body.Error != "temporarily_unavailable" || a.Header.Get("Retry-After") == ""):
		t.Errorf("%d: %v %s", a.Status, a.Header, a.Body)
	}
}

// The OpenID Foundation's plan oidcc-client-back-channel-logout-rp-basic, module by
// module: LO-09 to LO-11, LO-15.
//
// As there, the logout is begun here, the user is sent to the end-session endpoint,
// and then the logout token comes: by then the session is over here, and the token
// is judged on its merits all the same.
func TestConformanceBackchannelLogout(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{Algorithm: "RS256"}})
	key := b.as.SigningKey()
	for name, tc := range map[string]struct {
		change map[string]any // of the claims; nil removes one
		token  func(claims map[string]any) string
		status int
	}{
		"oidcc-client-test-rp-backchannel-rpinitlogout": {status: 200},
		"oidcc-client-test-rp-backchannel-rpinitlogout-alg-none": {status: 400, token: func(claims map[string]any) string {
			signed := key.Sign(map[string]any{"alg": "none", "typ": "logout+jwt"}, claims)
			return signed[:strings.LastIndexByte(signed, '.')+1]
		}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-alg": {status: 400, token: func(claims map[string]any) string {
			return astest.SignHMAC([]byte("secret"), map[string]any{"alg": "HS256", "typ": "logout+jwt"}, claims)
		}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-no-event":    {status: 400, change: map[string]any{"events": nil}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-event": {status: 400, change: map[string]any{"events": map[string]any{"http://schemas.openid.net/event/wrong": map[string]any{}}}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-with-nonce":  {status: 400, change: map[string]any{"nonce": "n"}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-aud":   {status: 400, change: map[string]any{"aud": "app-wrong"}},
		"oidcc-client-test-rp-backchannel-rpinitlogout-wrong-iss":   {status: 400, change: map[string]any{"iss": b.as.Issuer() + "/wrong"}},
		"sid required: neither sub nor sid":                         {status: 400, change: map[string]any{"sub": nil, "sid": nil}},
	} {
		t.Run(name, func(t *testing.T) {
			sign := func(sid string) string {
				if tc.token == nil {
					return b.as.LogoutToken("alice", sid, tc.change)
				}
				return tc.token(b.as.LogoutClaims("alice", sid))
			}
			sid := func() string { all := b.as.SIDs("alice"); return all[len(all)-1] }
			c := b.browser().login()
			target, _ := c.do(http.MethodPost, "/bff/logout", "", script...).json(t)["logout_url"].(string)
			res, err := c.client.Get(target)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			wantAnswer(t, b.signOut(sign(sid())), tc.status)
			if back := c.get(mustParse(t, res.Header.Get("Location")).RequestURI(), arrive...); back.StatusCode != http.StatusSeeOther || back.location() != "/" || c.signedIn() {
				t.Errorf("back: %d %q", back.StatusCode, back.location())
			}
			// And a session that lives ends by a right token alone.
			c = b.browser().login()
			wantAnswer(t, b.signOut(sign(sid())), tc.status)
			if ends := tc.status == 200; c.signedIn() == ends {
				t.Errorf("the session lives: %v", !ends)
			} else if ends {
				c.get("/api/x", script...).wantError(t, http.StatusUnauthorized, codeSessionRevoked)
			}
		})
	}
}

// LO-08, LO-12, LO-15, A318, C6: POST with a form; other fields, cookies, origins
// and the query do not matter; a token counts once.
func TestBackchannelRequest(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	fresh := func() string { return b.as.LogoutToken("alice", "", nil) }
	encoded := func() string { return "logout_token=" + url.QueryEscape(fresh()) }
	stranger := b.browser()
	for name, tc := range map[string]struct {
		body   string
		header []string
		query  string
		status int
	}{
		"JSON":                {`{"logout_token":"` + fresh() + `"}`, []string{"Content-Type", "application/json"}, "", 400},
		"no type":             {encoded(), nil, "", 400},
		"text":                {encoded(), []string{"Content-Type", "text/plain"}, "", 400},
		"multipart":           {encoded(), []string{"Content-Type", "multipart/form-data; boundary=x"}, "", 400},
		"empty":               {"", form, "", 400},
		"no token":            {"a=b", form, "", 400},
		"token empty":         {"logout_token=", form, "", 400},
		"token twice":         {encoded() + "&" + encoded(), form, "", 400},
		"token in the query":  {"a=b", form, "?" + encoded(), 400},
		"malformed":           {"logout_token=%zz", form, "", 400},
		"too long":            {encoded() + "&pad=" + strings.Repeat("a", maxLogoutBody), form, "", 413},
		"junk":                {"logout_token=x", form, "", 400},
		"junk, asks for HTML": {"logout_token=x", with(form, "Accept", "text/html"), "", 400},
		"junk of a page":      {"logout_token=x", with(form, with(navigate, "Origin", "https://evil.example")...), "", 400},
		"right, junk beside":  {encoded() + "&other=1&other=2", with(form, "X-CSRF", "0", "Cookie", "bff=x", "Accept", "text/html"), "?a=b", 200},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.status == 200 && !c.signedIn() {
				t.Fatal("signed out by a bad request")
			}
			a := stranger.do(http.MethodPost, "/bff/backchannel"+tc.query, tc.body, tc.header...)
			wantAnswer(t, astest.LogoutAnswer{Status: a.StatusCode, Header: a.Header, Body: a.body}, tc.status)
			if tc.status != 200 && !strings.Contains(a.Header.Get("Content-Type"), "json") {
				t.Errorf("Content-Type %q", a.Header.Get("Content-Type"))
			}
		})
		if tc.status == 200 {
			c = b.browser().login()
		}
	}
	if !c.signedIn() {
		t.Error("signed out by a bad request")
	}
	stranger.get("/bff/backchannel").wantError(t, http.StatusMethodNotAllowed, codeMethodNotAllowed)
	once := fresh()
	wantAnswer(t, b.signOut(once), 200)
	c = b.browser().login()
	wantAnswer(t, b.signOut(once), 400)
	if !c.signedIn() {
		t.Error("a token had its effect twice")
	}
	if !strings.Contains(b.log(), "a back-channel logout was refused") || !strings.Contains(b.log(), "jti came before") {
		t.Error("nobody is told of refused logouts")
	}
	// Nothing else is exempted: the address guards itself by the signature alone.
	c.do(http.MethodPost, "/bff/refresh", encoded(), form...).wantError(t, http.StatusForbidden, codeCSRFRejected)
	c.do(http.MethodPost, "/bff/logout", encoded(), form...).wantError(t, http.StatusForbidden, codeCSRFRejected)
}

// C6, H104: by sid and by sub, at once for every browser of the user; no cookie, and
// no other user.
func TestBackchannelEndsSessions(t *testing.T) {
	b := newBench(t, benchOptions{})
	bob := b.browser()
	b.as.Configure(func(o *astest.Options) { o.User = "bob" })
	bob.login()
	b.as.Configure(func(o *astest.Options) { o.User = "alice" })
	one, two, three := b.browser().login(), b.browser().login(), b.browser().login()
	wantAnswer(t, b.signOut(b.as.LogoutToken("", b.as.SIDs("alice")[1], nil)), 200)
	if !one.signedIn() || two.signedIn() || !three.signedIn() {
		t.Error("by sid: not that session alone")
	}
	if got := two.get("/bff/session", script...).json(t)["reason"]; got != "revoked" {
		t.Errorf("reason %v", got)
	}
	began := time.Now()
	wantAnswer(t, b.signOut(b.as.LogoutToken("alice", "", nil)), 200)
	if one.signedIn() || three.signedIn() || !bob.signedIn() || time.Since(began) > time.Second {
		t.Errorf("by sub, after %s", time.Since(began))
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(b.as.Requests(astest.Revoke)) < 3 {
		if time.Now().After(deadline) {
			t.Fatal("the refresh tokens are not revoked")
		}
		time.Sleep(5 * time.Millisecond)
	}
	wantAnswer(t, b.signOut(b.as.LogoutToken("nobody", "", nil)), 200)
}

// LO-17, A317: while the store or the keys are out the token is to be sent again.
func TestBackchannelOutage(t *testing.T) {
	t.Run("keys", func(t *testing.T) {
		b := newBench(t, benchOptions{})
		token := b.as.LogoutToken("alice", "", nil)
		b.as.SetDown(true)
		wantAnswer(t, b.signOut(token), 503)
		b.as.SetDown(false)
		time.Sleep(1100 * time.Millisecond) // the metadata's back-off
		wantAnswer(t, b.signOut(token), 200)
	})
	t.Run("store", func(t *testing.T) {
		blocked := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, benchOptions{store: fmt.Sprintf("file {\npath %s\n}", filepath.Join(blocked, "sessions.db"))})
		wantAnswer(t, b.signOut(b.as.LogoutToken("alice", "", nil)), 503)
	})
}

// CONTRACT `backchannel off`: the address is nobody's.
func TestBackchannelOff(t *testing.T) {
	b := newBench(t, benchOptions{bff: "logout {\nbackchannel off\n}"})
	c := b.browser().login()
	if a := b.signOut(b.as.LogoutToken("alice", "", nil)); a.Status != http.StatusNotFound || !c.signedIn() {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}
