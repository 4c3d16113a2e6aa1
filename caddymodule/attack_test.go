// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// Attacks, each named for the attack, from outside.

// C301, BFF-15: the attacker's callback, opened in the victim's browser.
func TestLoginCSRF(t *testing.T) {
	b := newBench(t, benchOptions{})
	attacker, victim, fresh := b.browser(), b.browser().login(), b.browser()
	callback := attacker.authorize(attacker.startLogin("/after"))
	before := victim.jar["bff"]
	calls := b.as.Count(astest.Token)
	for name, c := range map[string]*browser{"signed in": victim, "not signed in": fresh, "in a login of its own": func() *browser { c := b.browser(); c.startLogin("/"); return c }()} {
		a := c.get(callback, navigate...)
		a.wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
		if c.jar["bff"] != "" && c != victim || !strings.Contains(a.body, "/bff/login") {
			t.Errorf("%s: %v %s", name, c.jar, a.body)
		}
	}
	if victim.jar["bff"] != before || !victim.signedIn() {
		t.Error("the victim's session changed")
	}
	if b.as.Count(astest.Token) != calls {
		t.Error("a foreign code was sent")
	}
	// C304: the attacker's code with the victim's own state.
	own := fresh.startLogin("/after")
	q := mustParse(t, callback).Query()
	q.Set("state", own.Query().Get("state"))
	if a := fresh.get("/bff/callback?"+q.Encode(), navigate...); a.StatusCode < 400 || fresh.jar["bff"] != "" {
		t.Errorf("injected code: %d %v", a.StatusCode, fresh.jar)
	}
}

// C302, F-rows of a callback: once alone is a callback good, also when it is
// delivered many times at a time; a repeated one is harmless.
func TestCallbackReplay(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	callback := c.authorize(c.startLogin("/after"))
	jar := c.jar
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 10 {
		wg.Go(func() {
			r, _ := http.NewRequest(http.MethodGet, b.origin()+callback, nil)
			for name, value := range jar {
				r.AddCookie(&http.Cookie{Name: name, Value: value})
			}
			r.Header.Set("Sec-Fetch-Mode", "navigate")
			r.Header.Set("Sec-Fetch-Dest", "document")
			resp, err := c.client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			statuses[resp.StatusCode]++
			for _, k := range resp.Cookies() {
				if k.Name == "bff" {
					statuses[0]++
				}
			}
		})
	}
	wg.Wait()
	if n := b.as.Count(astest.Token); n != 1 || statuses[0] != 1 || statuses[http.StatusSeeOther] != 10 {
		t.Errorf("%d token requests, statuses %v (0: sessions made)", n, statuses)
	}
}

// A repeated callback in a browser that has the session goes where the first
// one went; a stale one begins the login again, once.
func TestRepeatedAndStaleCallback(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	callback := c.authorize(c.startLogin("/after"))
	old := map[string]string{}
	for k, v := range c.jar {
		old[k] = v
	}
	c.get(callback, arrive...)
	calls := b.as.Count(astest.Token)
	// The Strict cookie stays at home at first; the reload brings it.
	strict := c.jar["bff"]
	delete(c.jar, "bff")
	if a := c.get(callback, arrive...); a.StatusCode != 200 || !strings.Contains(a.body, "http-equiv") {
		t.Errorf("cross-site: %d %s", a.StatusCode, a.body)
	}
	c.jar["bff"] = strict
	if a := c.get(callback, with(navigate[2:], "Sec-Fetch-Site", "same-origin")...); a.StatusCode != http.StatusSeeOther || a.location() != "/after" {
		t.Errorf("repeated: %d %q %s", a.StatusCode, a.location(), a.body)
	}
	// A browser with the login's cookie and without the session: once more.
	again := b.browser()
	again.jar = old
	a := again.get(callback, navigate...)
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location(), b.as.Issuer()) {
		t.Fatalf("stale: %d %q %s", a.StatusCode, a.location(), a.body)
	}
	restarted := again.authorize(mustParse(t, a.location()))
	saved := map[string]string{}
	for k, v := range again.jar {
		saved[k] = v
	}
	if a = again.get(restarted, navigate...); a.location() != "/after" {
		t.Errorf("restarted: %d %q", a.StatusCode, a.location())
	}
	// The restarted one, stale in its turn, is not restarted.
	again.jar = saved
	again.get(restarted, navigate...).wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
	if n := b.as.Count(astest.Token) - calls; n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// C303, A110, A310, CK-10: a new identifier at every login, and the old one dead.
func TestSessionFixation(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser().login()
	planted := c.jar["bff"]
	b.as.Configure(func(o *astest.Options) { o.User = "bob" })
	a := c.get("/bff/login?force=true&return_to=/after", navigate...)
	c.get(c.authorize(mustParse(t, a.location())), arrive...)
	if c.jar["bff"] == planted {
		t.Error("the same cookie")
	}
	if got := c.get("/page", navigate...); got.body != "page of bob" {
		t.Errorf("signed in as: %s", got.body)
	}
	old := b.browser()
	old.jar["bff"] = planted
	if old.signedIn() {
		t.Error("the old session lives")
	}
}

// D101, D102, CK-09, A305, A306, A402, A404, D103, D105, D106: cookies that are
// not ours, whatever they look like, give nobody a session, break nothing, and
// reach no resource server.
func TestForgedCookies(t *testing.T) {
	b := newBench(t, benchOptions{})
	c, other := b.browser().login(), b.browser().login()
	good := c.jar["bff"]
	ask := func(cookie string) *answer {
		r, err := http.NewRequest(http.MethodGet, b.origin()+"/bff/session", nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		return b.browser().send(r)
	}
	flipped := []byte(good)
	flipped[len(flipped)/2] ^= 1
	for name, cookie := range map[string]string{
		"none": "", "empty": "bff=", "junk": "bff=junk", "truncated": "bff=" + good[:len(good)-2], "first half": "bff=" + good[:len(good)/2], "flipped": "bff=" + string(flipped),
		"lengthened": "bff=" + good + "A", "upper case": "bff=" + strings.ToUpper(good), "doubled in one": "bff=" + good + good, "other's tail": "bff=" + good[:60] + other.jar["bff"][60:],
		"two valid ones": "bff=" + good + "; bff=" + other.jar["bff"], "under another name": "session=" + good, "of a secure site": "__Host-Http-bff=" + good, "version 1": "$Version=1; $bff=" + good,
		"semicolons": strings.Repeat(";", 10000), "equals": "=;=;=;;bff", "a format": "bff=%s%n%x", "nul escaped": "bff=%00", "many": strings.Repeat("bff=x; ", 500) + "bff=" + good,
		"SQL": "bff=' OR 1=1 --", "path": "bff=../../etc/passwd", "prefix in Unicode": "\u2000bff=" + good, "12 kB": "bff=" + strings.Repeat("A", 12_000), "12 kB of others": "x=" + strings.Repeat("A", 12_000),
	} {
		a := ask(cookie)
		if a.StatusCode != http.StatusOK || a.json(t)["authenticated"] != false {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	// Beyond what Caddy's server takes, the answer is Caddy's.
	if a := ask("bff=" + strings.Repeat("A", 40_000)); a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("40 kB: %d", a.StatusCode)
	}
	for name, cookie := range map[string]string{
		"tossed before": "bff=tossed; bff=" + good, "tossed after": "bff=" + good + "; bff=tossed", "same twice": "bff=" + good + "; bff=" + good, "among others": "a=b; bff=" + good + ";c=d",
	} {
		if a := ask(cookie); a.json(t)["authenticated"] != true {
			t.Errorf("%s: %s", name, a.body)
		}
	}
	id := c.get("/bff/session", script...).json(t)["session"].(map[string]any)["id"].(string)
	for _, header := range []string{"X-Session-Id", "Authorization", "Bff", "X-Bff-Session"} {
		if a := b.browser().get("/bff/session?bff="+url.QueryEscape(good)+"&sid="+id, header, good); a.json(t)["authenticated"] != false {
			t.Errorf("by %s: signed in", header)
		}
	}
	// On their way to the resource server ours go, the application's stay.
	r, _ := http.NewRequest(http.MethodGet, b.origin()+"/api/x", nil)
	r.Header["Cookie"] = []string{"theme=dark; bff=" + good + `; BFF-x=1;  lang="de CH"; __Host-bff=a; __Host-Http-bff-admin=b; bff.login.x=y`, `__Secure-__host-http-bff=x; basket="1,2"`}
	if a := b.browser().send(r); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	got := strings.Join(b.rs.Requests()[0].Header["Cookie"], "; ")
	if got != `theme=dark;  lang="de CH"; basket="1,2"` {
		t.Errorf("cookies at the resource server: %s", got)
	}
}

// BFF-05, B202, A111, A601, A602, A401, A108: nothing that a client says about
// who it is, or where it wants to go, reaches anybody.
func TestIdentitySpoofing(t *testing.T) {
	b := newBench(t, benchOptions{
		global: "servers {\nexpected_underscore_headers X_Forwarded_User Remote_User x_AUTH_request_user\nprotocols h1\n}",
		site: `
	handle /api/* {
		bff_proxy {$API} {
			header_up X-User {http.auth.user.id}
		}
	}
	handle {
		respond "{http.request.header.X-Forwarded-User}{http.request.header.X_Forwarded_User}{http.request.header.Cookie}{http.request.cookie.bff}{http.request.header.X-CSRF}|{http.auth.user.id}"
	}`})
	c := b.browser().login()
	spoofed := []string{
		"X-Forwarded-User", "X_Forwarded_User", "x-forwarded-USER", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Access-Token", "X-Forwarded-Preferred-Username",
		"X-Auth-Request-User", "x_AUTH-request_user", "X-Auth-Request-Email", "X-Auth-User", "X.Forwarded.User", "Remote-User", "Remote_User", "X-Remote-User", "X-Authenticated-User",
		"X-WebAuth-User", "X-User-Id", "X-Userinfo", "X-Jwt-Assertion", "X-Token", "X-Authorization", "X-Client-Cert", "Ssl-Client-Cert", "X-SSL-Client-S-DN", "Client-Cert", "Client_Cert_Chain", "X-Access-Token", "X-Id-Token", "OIDC_CLAIM_sub", "OIDC-Claim-Email", "X-Token-Subject", "Cf-Access-Jwt-Assertion", "X-Ms-Client-Principal",
		"X-Original-Url", "X-Rewrite-Url", "X-Original-Uri", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Path", "Forwarded", "DPoP", "Proxy-Authorization",
	}
	header := with(script, "Authorization", "Bearer evil", "X-User", "root", "Connection", "Authorization, X-User, Cookie", "X-Mine", "kept")
	for _, name := range spoofed {
		header = append(header, name, "spoofed-root")
	}
	if a := c.get("/api/x?access_token=evil", header...); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	seen := b.rs.Requests()[0]
	for name, values := range seen.Header {
		if strings.Contains(strings.Join(values, " "), "spoofed") {
			t.Errorf("%s: %q reached the resource server", name, values)
		}
	}
	if seen.Token == "" || seen.Token == "evil" || seen.Header.Get("X-User") != "alice" || seen.Header.Get("X-Mine") != "kept" {
		t.Errorf("the resource server saw %v", seen.Header)
	}
	if a := c.get("/open", header...); a.body != "|" {
		t.Errorf("on an open route: %q", a.body)
	}
	// Nor does any of it count as a session.
	b.browser().get("/api/x", "Authorization", "Bearer evil", "X-Forwarded-User", "alice").wantError(t, http.StatusUnauthorized, codeSessionRequired)
}

// A604, B211: a claim is text. It is neither expanded nor able to end a line.
func TestPlaceholdersInClaims(t *testing.T) {
	t.Setenv("BFF_TEST_ENV", "env-was-expanded")
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("file-was-expanded"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := "{env.BFF_TEST_ENV} {file." + secret + "} {http.bff.session.id}\r\nX-Injected: 1\x00"
	b := newBench(t, benchOptions{as: astest.Options{Claims: map[string]any{"name": name, "email": "<script>alert(1)</script>"}}, site: `
	bff_protect
	header X-Name {http.auth.user.name}
	respond "{http.auth.user.name}|{http.auth.user.absent}|{http.bff.error}|"
`})
	c := b.browser().login()
	a := c.get("/x", script...)
	want := "{env.BFF_TEST_ENV} {file." + secret + "} {http.bff.session.id}X-Injected: 1"
	if a.body != want+"|||" || a.Header.Get("X-Injected") != "" {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
	anonymous := b.browser().get("/x", script...)
	anonymous.wantError(t, http.StatusUnauthorized, codeSessionRequired)
}

// A201, A415, CS-13: pages echo nothing that came with the request.
func TestReflectedText(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	const payload = `"><script>alert(1)</script>`
	request := c.startLogin("/page?" + payload)
	state := request.Query().Get("state")
	for _, target := range []string{
		"/bff/callback?state=" + url.QueryEscape(state) + "&error=" + url.QueryEscape(payload) + "&error_description=" + url.QueryEscape(payload+strings.Repeat("x", 10000)) + "&iss=" + url.QueryEscape(b.as.Issuer()),
		"/bff/callback?state=" + url.QueryEscape(payload) + "&code=" + url.QueryEscape(payload),
		"/bff/" + url.PathEscape(payload), "/bff/login?return_to=" + url.QueryEscape(payload), "/bff/login?prompt=" + url.QueryEscape(payload+"\x00"), "/page?" + payload,
		"/bff/logout?sid=" + url.QueryEscape(payload), "/bff/callback?%zz=" + url.QueryEscape(payload), "/bff/callback?state=a&state=b",
	} {
		for _, header := range [][]string{navigate, script} {
			a := c.get(target, with(header, "Referer", payload, "User-Agent", payload)...)
			if strings.Contains(a.body, "<script") || strings.Contains(a.location(), "<script") || a.StatusCode >= 500 && a.Header.Get("X-BFF-Error") == "" {
				t.Errorf("%s: %d %s", target, a.StatusCode, a.body)
			}
		}
	}
}

// C306: an answer in the name of another authorization server sends no code.
func TestMixUp(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{WrongIss: "https://evil.example"}})
	c := b.browser()
	callback := c.authorize(c.startLogin("/after"))
	calls := b.as.Count(astest.Token)
	a := c.get(callback, navigate...)
	if a.StatusCode < 400 || c.jar["bff"] != "" || b.as.Count(astest.Token) != calls {
		t.Errorf("%d %v", a.StatusCode, c.jar)
	}
}

// Errors of the authorization server at login have answers, and loop nowhere. C312.
func TestRefusedLogin(t *testing.T) {
	for code, want := range map[string]struct {
		status int
		code   string
	}{
		"access_denied": {403, codeForbidden}, "server_error": {503, codeServerUnavailable}, "temporarily_unavailable": {503, codeServerUnavailable},
		"invalid_scope": {502, codeTokenUnavailable}, "unauthorized_client": {502, codeTokenUnavailable},
	} {
		t.Run(code, func(t *testing.T) {
			b := newBench(t, benchOptions{as: astest.Options{AuthorizeError: code}})
			c := b.browser()
			a := c.get(c.authorize(c.startLogin("/page")), navigate...)
			a.wantError(t, want.status, want.code)
			if a.location() != "" || c.jar["bff"] != "" {
				t.Errorf("%q %v", a.location(), c.jar)
			}
			if !strings.Contains(a.body, `href="/bff/login?return_to=%2Fpage"`) {
				t.Errorf("a page without a way out: %s", a.body)
			}
		})
	}
}

// A119 and kin: an authorization server that is out when somebody signs in.
func TestLoginWhileServerIsOut(t *testing.T) {
	b := newBench(t, benchOptions{})
	b.as.SetDown(true)
	c := b.browser()
	a := c.get("/bff/login", navigate...)
	a.wantError(t, http.StatusServiceUnavailable, codeServerUnavailable)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	b.as.SetDown(false)
	deadlineLogin(t, c)
}

// deadlineLogin signs in as soon as that works again.
func deadlineLogin(t *testing.T, c *browser) {
	t.Helper()
	for i := range 100 {
		a := c.get("/bff/login?return_to=/after", navigate...)
		if a.StatusCode == http.StatusFound {
			return
		}
		if i == 99 {
			t.Fatal(fmt.Sprint(a.StatusCode, a.body))
		}
		waitABit()
	}
}
