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

// Attack: an authentic state with a response that was tampered with, or with
// somebody else's code. A readable page says so, no session is made or ended,
// and what shows before the exchange costs no token request. CB-02, CB-03,
// CB-08, C304, C306, C307, ID-08.
func TestTamperedCallback(t *testing.T) {
	b := newBench(t, benchOptions{})
	set := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	add := func(name, value string) func(url.Values) { return func(q url.Values) { q.Add(name, value) } }
	nonce := func(change func(claims map[string]any)) func(*astest.Options) {
		return func(o *astest.Options) {
			o.IDTokenClaims = func(_ string, claims map[string]any) { change(claims) }
		}
	}
	for name, tc := range map[string]struct {
		tamper    func(q url.Values)
		configure func(*astest.Options)
		exchanges int
	}{
		"code doubled":              {tamper: add("code", "x")},
		"state doubled":             {tamper: func(q url.Values) { q.Add("state", q.Get("state")) }},
		"iss doubled":               {tamper: func(q url.Values) { q.Add("iss", q.Get("iss")) }},
		"error doubled":             {tamper: func(q url.Values) { q.Del("code"); q["error"] = []string{"access_denied", "x"} }},
		"other iss":                 {tamper: set("iss", "https://evil.example")},
		"iss with a slash":          {tamper: func(q url.Values) { q.Set("iss", q.Get("iss")+"/") }},
		"empty iss":                 {tamper: set("iss", "")},
		"no iss":                    {tamper: func(q url.Values) { q.Del("iss") }},
		"code and error":            {tamper: set("error", "access_denied")},
		"error that is none":        {tamper: func(q url.Values) { q.Del("code"); q.Set("error", "a\"b") }},
		"empty error":               {tamper: func(q url.Values) { q.Del("code"); q.Set("error", "") }},
		"no code":                   {tamper: func(q url.Values) { q.Del("code") }},
		"empty code":                {tamper: set("code", "")},
		"code of control bytes":     {tamper: set("code", "a\x00b")},
		"code that is too long":     {tamper: set("code", strings.Repeat("a", 9<<10))},
		"tokens in place of a code": {tamper: func(q url.Values) { q.Del("code"); q.Set("access_token", "x"); q.Set("id_token", "x") }},
		"ID token, other nonce":     {configure: nonce(func(c map[string]any) { c["nonce"] = "other" }), exchanges: 1},
		"ID token, no nonce":        {configure: nonce(func(c map[string]any) { delete(c, "nonce") }), exchanges: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.configure != nil {
				b.as.Configure(tc.configure)
				defer b.as.Configure(func(o *astest.Options) { o.IDTokenClaims = nil })
			}
			for _, header := range [][]string{arrive, navigate, script} {
				c := b.browser()
				callback := mustParse(t, c.authorize(c.startLogin("/after?x=1")))
				q := callback.Query()
				if tc.tamper != nil {
					tc.tamper(q)
				}
				before := b.as.Count(astest.Token)
				a := c.get(callback.Path+"?"+q.Encode(), header...)
				a.wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
				if got := b.as.Count(astest.Token) - before; got != tc.exchanges {
					t.Errorf("%d token requests, want %d", got, tc.exchanges)
				}
				if len(c.jar) != 0 || a.location() != "" {
					t.Errorf("left: cookies %v, Location %q", c.jar, a.location())
				}
				if header[len(header)-1] == "text/html" {
					if !strings.Contains(a.body, "Request ") || !strings.Contains(a.body, `href="/bff/login?return_to=%2Fafter%3Fx%3D1"`) {
						t.Errorf("page: %s", a.body)
					}
				} else if p := a.json(t); p["request_id"] == "" || p["login_url"] != "/bff/login" {
					t.Errorf("problem: %s", a.body)
				}
			}
		})
	}
}

// CB-14, CB-11: what looks at a callback ahead of the user spends nothing, and
// what cannot be read is a page with a way to try again.
func TestCallbackLookedAt(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	callback := c.authorize(c.startLogin("/after"))
	c.get(callback, with(arrive, "Sec-Purpose", "prefetch")...).wantError(t, http.StatusBadRequest, codeNavigationRequired)
	if a := c.do(http.MethodHead, callback, "", arrive...); a.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %d", a.StatusCode)
	}
	a := c.get(callback+"&x=%zz", arrive...)
	a.wantError(t, http.StatusBadRequest, codeInvalidParameter)
	if !strings.Contains(a.body, `href="/bff/login"`) {
		t.Errorf("a page without a way out: %s", a.body)
	}
	if n := b.as.Count(astest.Token); n != 0 {
		t.Errorf("%d token requests", n)
	}
	if a := c.get(callback, arrive...); a.StatusCode != http.StatusSeeOther || c.jar["bff"] == "" {
		t.Errorf("the user's own arrival: %d %s", a.StatusCode, a.body)
	}
}

// C301: none of that ends the session that the browser has.
func TestTamperedCallbackLeavesTheSession(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	request := mustParse(t, c.get("/bff/login?force=true", navigate...).location())
	c.get(c.authorize(request)+"&code=x", arrive...).wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
	if !c.signedIn() {
		t.Error("signed out")
	}
}

// answers of an authorization server that a gateway can do nothing with: 502,
// and of one that is not well: 503 and when to come back. CONTRACT section 4;
// C308, C310, MD-01, MD-03, MD-06, TK-06, F402.
var brokenAnswers = map[string]struct {
	answer     astest.Answer
	code       string
	retryAfter string // for the token endpoint; empty: any, where there has to be one
}{
	"HTML":            {astest.Answer{Body: "<html>welcome"}, codeTokenUnavailable, ""},
	"empty":           {astest.Answer{Status: 200}, codeTokenUnavailable, ""},
	"no content":      {astest.Answer{Status: 204}, codeTokenUnavailable, ""},
	"redirect":        {astest.Answer{Status: 302, Header: http.Header{"Location": {"/login"}}}, codeTokenUnavailable, ""},
	"array":           {astest.Answer{Body: "[]"}, codeTokenUnavailable, ""},
	"404":             {astest.Answer{Status: 404}, codeTokenUnavailable, ""},
	"403, come later": {astest.Answer{Status: 403, Header: http.Header{"Retry-After": {"7"}}}, codeTokenUnavailable, ""},
	"500":             {astest.Answer{Status: 500, Body: "<html>"}, codeServerUnavailable, ""},
	"503":             {astest.Answer{Status: 503, Header: http.Header{"Retry-After": {"9"}}}, codeServerUnavailable, "9"},
	"503 for a day":   {astest.Answer{Status: 503, Header: http.Header{"Retry-After": {"86400"}}}, codeServerUnavailable, "60"},
	"429":             {astest.Answer{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, codeServerUnavailable, "7"},
	"cut":             {astest.Answer{Cut: true}, codeServerUnavailable, ""},
}

func (a *answer) wantBroken(t *testing.T, code, retryAfter string) {
	t.Helper()
	if code == codeTokenUnavailable {
		a.wantError(t, http.StatusBadGateway, code)
		return
	}
	a.wantError(t, http.StatusServiceUnavailable, code)
	if got := a.Header.Get("Retry-After"); got == "" || got == "0" || retryAfter != "" && got != retryAfter {
		t.Errorf("Retry-After %q, want %q", got, retryAfter)
	}
}

func TestBrokenTokenEndpoint(t *testing.T) {
	cases := map[string]struct {
		answer           astest.Answer
		code, retryAfter string
	}{
		"token_type":      {astest.JSON(200, map[string]any{"access_token": "a", "token_type": "mac"}), codeTokenUnavailable, ""},
		"no token_type":   {astest.JSON(200, map[string]any{"access_token": "a"}), codeTokenUnavailable, ""},
		"no access token": {astest.JSON(200, map[string]any{"token_type": "Bearer"}), codeTokenUnavailable, ""},
		"invalid_client":  {astest.OAuthError(401, "invalid_client"), codeTokenUnavailable, ""},
		"invalid_request": {astest.OAuthError(400, "invalid_request"), codeTokenUnavailable, ""},
		"server_error":    {astest.OAuthError(400, "server_error"), codeServerUnavailable, ""},
	}
	for name, broken := range brokenAnswers {
		cases[name] = broken
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{})
			c := b.browser()
			callback := c.authorize(c.startLogin("/after"))
			b.as.Script(astest.Token, tc.answer)
			a := c.get(callback, arrive...)
			a.wantBroken(t, tc.code, tc.retryAfter)
			if c.jar["bff"] != "" {
				t.Error("there is a session")
			}
			// Asked again: after an outage the login begins anew by itself, once.
			again := c.get(callback, navigate...)
			if restarted := strings.HasPrefix(again.location(), b.as.Issuer()); restarted != (tc.code == codeServerUnavailable) {
				t.Errorf("asked again: %d %q", again.StatusCode, again.location())
			}

			c = b.browser().login()
			b.as.Script(astest.Token, tc.answer)
			a = c.do(http.MethodPost, "/bff/refresh", "", script...)
			a.wantBroken(t, tc.code, "")
			if !c.signedIn() {
				t.Error("signed out by a refresh")
			}
			if a := c.do(http.MethodPost, "/bff/logout", "", script...); a.StatusCode != 200 || c.signedIn() {
				t.Errorf("logout: %d %s", a.StatusCode, a.body)
			}
			b.as.ClearScript(astest.Token)
		})
	}
}

func TestBrokenKeys(t *testing.T) {
	for name, tc := range brokenAnswers {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{})
			c := b.browser()
			callback := c.authorize(c.startLogin("/after"))
			tc.answer.Times = -1
			b.as.Script(astest.JWKS, tc.answer)
			c.get(callback, arrive...).wantBroken(t, tc.code, tc.retryAfter)
			if c.jar["bff"] != "" {
				t.Error("there is a session")
			}
		})
	}
}

func TestBrokenMetadata(t *testing.T) {
	// Nothing here waits for a key ring, which would still be written when the
	// test is over.
	const store = "memory\nkeys 0123456789abcdef0123456789abcdef"
	doc := func(change func(doc map[string]any)) astest.Options { return astest.Options{MetadataDoc: change} }
	for name, o := range map[string]astest.Options{
		"issuer with a slash":   doc(func(d map[string]any) { d["issuer"] = d["issuer"].(string) + "/" }),
		"other issuer":          doc(func(d map[string]any) { d["issuer"] = "https://evil.example" }),
		"http endpoint":         doc(func(d map[string]any) { d["token_endpoint"] = "http://evil.example/token" }),
		"no token endpoint":     doc(func(d map[string]any) { delete(d, "token_endpoint") }),
		"PKCE, but not by S256": doc(func(d map[string]any) { d["code_challenge_methods_supported"] = []string{"plain"} }),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{as: o, store: store})
			c := b.browser()
			a := c.get("/bff/login", navigate...)
			a.wantBroken(t, codeTokenUnavailable, "")
			if !strings.Contains(a.body, `href="/bff/login`) || len(c.jar) != 0 {
				t.Errorf("page: %s, cookies %v", a.body, c.jar)
			}
			c.do(http.MethodPost, "/bff/login", "", script...).wantBroken(t, codeTokenUnavailable, "")
		})
	}
	for name, tc := range brokenAnswers {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{store: store})
			tc.answer.Times = -1
			b.as.Script(astest.Metadata, tc.answer)
			b.browser().get("/bff/login", navigate...).wantBroken(t, tc.code, tc.retryAfter)
		})
	}
}
