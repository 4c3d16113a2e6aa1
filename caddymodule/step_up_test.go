// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

const stepUpSite = `
	handle /api/* {
		bff_proxy {$API} {
			step_up
		}
	}
	handle /strict/* {
		bff_proxy {$API} {
			step_up
			unauthenticated 401
		}
	}
	handle /off/* {
		bff_proxy {$API}
	}
	handle /narrow/* {
		bff_proxy {$API} {
			step_up
			scope openid
		}
	}
	handle {
		respond "open {http.bff.session.id}"
	}
`

const goldChallenge = `Bearer error="insufficient_user_authentication", error_description="stronger, please", acr_values="gold"`

// newStepUpBench has a resource server that wants acr gold.
func newStepUpBench(t *testing.T, o benchOptions) *bench {
	t.Helper()
	o.site = stepUpSite
	if o.as.ACRs == nil {
		o.as.ACRs = []string{"pwd", "gold"}
	}
	b := newBench(t, o)
	b.rs.Demand(func(token string) string {
		if acr, _ := b.as.Authentication(token); acr != "gold" {
			return goldChallenge
		}
		return ""
	})
	return b
}

// stepUpURL gives the login_url of a step_up_required.
func stepUpURL(t *testing.T, a *answer) *url.URL {
	t.Helper()
	a.wantError(t, http.StatusUnauthorized, codeStepUpRequired)
	target, _ := a.json(t)["login_url"].(string)
	return mustParse(t, target)
}

// stepUp goes through a step-up, and gives the answer of the callback.
func (c *browser) stepUp(login string) *answer {
	c.t.Helper()
	a := c.get(login, navigate...)
	if a.StatusCode != http.StatusFound || !strings.HasPrefix(a.location(), c.as.Issuer()) {
		c.t.Fatalf("login: status %d, Location %q: %s", a.StatusCode, a.location(), a.body)
	}
	return c.get(c.authorize(mustParse(c.t, a.location())), arrive...)
}

func (c *browser) sessionID() string {
	c.t.Helper()
	s, _ := c.get("/bff/session", script...).json(c.t)["session"].(map[string]any)
	id, _ := s["id"].(string)
	return id
}

// SU-01: a challenge becomes step_up_required with a login that brings what is asked
// for; the session goes on under another identifier, and nothing is refreshed.
func TestStepUp(t *testing.T) {
	b := newStepUpBench(t, benchOptions{bff: "trusted_origins https://spa.test\nlogin_param prompt"})
	c := b.browser().login()
	before := c.sessionID()

	a := c.do("POST", "/api/pay", strings.Repeat("x", 1000), with(script, "Origin", "https://spa.test")...)
	login := stepUpURL(t, a)
	q := login.Query()
	if login.Path != "/bff/login" || q.Get("acr_values") != "gold" || q.Has("max_age") || q.Has("return_to") || q.Get("step_up") == "" {
		t.Errorf("login_url %s", login)
	}
	if got := a.Header["Www-Authenticate"]; len(got) != 1 || got[0] != `Session error="step_up_required"` {
		t.Errorf("WWW-Authenticate %q", got)
	}
	if got := a.Header["Access-Control-Allow-Origin"]; len(got) != 1 || got[0] != "https://spa.test" || len(a.Header["Set-Cookie"]) != 0 {
		t.Errorf("%v", a.Header)
	}
	q.Set("return_to", "/after?x=1")
	a = c.stepUp("/bff/login?" + q.Encode())
	if a.StatusCode != http.StatusSeeOther || a.location() != "/after?x=1" {
		t.Fatalf("%d %q %s", a.StatusCode, a.location(), a.body)
	}
	if after := c.sessionID(); after == "" || after == before { // CK-10, A310
		t.Errorf("session %q, before %q", after, before)
	}
	if a = c.get("/api/pay", script...); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if n := len(b.as.RefreshRequests()); n != 0 || b.as.Count(astest.Revoke) != 0 {
		t.Errorf("%d refreshes, %d revocations", n, b.as.Count(astest.Revoke))
	}
	// The old link leads nowhere else.
	if a = c.get("/bff/login?"+q.Encode(), navigate...); a.location() != "/after?x=1" {
		t.Errorf("the link once more: %d %q", a.StatusCode, a.location())
	}
}

// SU-01: documents are sent to login with both parameters, and come back.
func TestStepUpOfADocument(t *testing.T) {
	b := newStepUpBench(t, benchOptions{})
	b.rs.Demand(func(token string) string {
		if acr, _ := b.as.Authentication(token); acr != "gold" {
			return `DPoP error="insufficient_user_authentication", acr_values="platinum gold", max_age=300`
		}
		return ""
	})
	c := b.browser().login()
	a := c.get("/api/page?x=1", navigate...)
	q := mustParse(t, a.location()).Query()
	if a.StatusCode != http.StatusFound || q.Get("return_to") != "/api/page?x=1" || q.Get("acr_values") != "platinum gold" || q.Get("max_age") != "300" || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %q %v", a.StatusCode, a.location(), a.Header)
	}
	if a = c.stepUp(a.location()); a.location() != "/api/page?x=1" {
		t.Fatalf("%d %q", a.StatusCode, a.location())
	}
	if a = c.get(a.location(), with(navigate, "Sec-Fetch-Site", "-")...); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}

	c = b.browser().login()
	a = c.get("/strict/page", navigate...)
	a.wantError(t, http.StatusUnauthorized, codeStepUpRequired)
	if !strings.Contains(a.body, "step_up=") || !strings.Contains(a.body, "return_to=%2Fstrict%2Fpage") {
		t.Errorf("no link on the page: %s", a.body)
	}
	a = c.get("/api/page?bff_error=login_required", navigate...)
	a.wantError(t, http.StatusUnauthorized, codeStepUpRequired)
}

// SU-01, PX-04: a scope that is missing is asked for beside the configured one, what was
// got before as well, and nothing but a resource server can ask.
func TestStepUpForScope(t *testing.T) {
	b := newStepUpBench(t, benchOptions{bff: "scope openid offline_access"})
	lacking := ""
	b.rs.Demand(func(token string) string {
		for _, scope := range strings.Fields(lacking) {
			if !slices.Contains(strings.Fields(b.as.Scope(token)), scope) {
				return fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, scope)
			}
		}
		return ""
	})
	c := b.browser().login()
	for _, want := range []string{"orders:write", "stock:read"} {
		lacking = strings.TrimSpace(lacking + " " + want)
		login := stepUpURL(t, c.get("/api/x", script...))
		if login.Query().Has("scope") {
			t.Errorf("the link names the scope: %s", login)
		}
		a := c.get(login.String(), navigate...)
		if scope := mustParse(t, a.location()).Query().Get("scope"); !strings.HasPrefix(scope, "openid offline_access ") || len(strings.Fields(scope)) != 2+len(strings.Fields(lacking)) {
			t.Errorf("scope %q", scope)
		}
		if a = c.get(c.authorize(mustParse(t, a.location())), arrive...); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		if a = c.get("/api/x", script...); a.StatusCode != http.StatusOK {
			t.Errorf("with %s: %d %s", want, a.StatusCode, a.body)
		}
	}
	// Tokens for one upstream that never have that scope: no login could help.
	lacking += " admin"
	if a := c.get("/narrow/x", script...); a.StatusCode != http.StatusForbidden || a.Header.Get("X-BFF-Error") != "" {
		t.Errorf("narrow: %d %v", a.StatusCode, a.Header)
	}
	// Where it is not configured the answer passes, as it does for what says nothing.
	if a := c.get("/off/x", script...); a.StatusCode != http.StatusForbidden || a.Header.Get("X-BFF-Error") != "" || a.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("off: %d %v", a.StatusCode, a.Header)
	}
}

// SU-04: what an upstream says can be no more than one value, and a link that somebody
// made can ask for no scope at all.
func TestStepUpAttacks(t *testing.T) {
	b := newStepUpBench(t, benchOptions{bff: "scope openid offline_access\nlogin_param prompt"})
	challenge := `Bearer error="insufficient_user_authentication", acr_values="x&redirect_uri=https://evil.test/&scope=admin"`
	b.rs.Demand(func(string) string { return challenge })
	c := b.browser().login()
	login := stepUpURL(t, c.get("/api/x", script...))
	a := c.get(login.String(), navigate...)
	q := mustParse(t, a.location()).Query()
	if q.Get("redirect_uri") != b.origin()+"/bff/callback" || q.Get("scope") != "openid offline_access" || len(q["redirect_uri"]) != 1 || q.Get("acr_values") != "x&redirect_uri=https://evil.test/&scope=admin" {
		t.Errorf("%v", q)
	}
	for _, malformed := range []string{"Bearer error=\"insufficient_scope\", scope=\"a\x01b\"", `Bearer error="insufficient_scope"`, `Bearer error="insufficient_user_authentication", max_age="-1"`} {
		challenge = malformed
		if a = c.get("/api/x", script...); a.Header.Get("X-BFF-Error") != "" || a.StatusCode == http.StatusOK {
			t.Errorf("%q: %d %v", malformed, a.StatusCode, a.Header)
		}
	}

	challenge = `Bearer error="insufficient_scope", scope="admin"`
	sealed := stepUpURL(t, c.get("/api/x", script...)).Query().Get("step_up")
	other := b.browser().login()
	forged := sealed[:20] + "A" + sealed[21:]
	if forged == sealed {
		forged = sealed[:20] + "B" + sealed[21:]
	}
	for name, tc := range map[string]struct {
		browser *browser
		query   url.Values
	}{
		"a scope in the link":               {c, url.Values{"force": {"true"}, "scope": {"admin"}}},
		"made up":                           {c, url.Values{"force": {"true"}, "step_up": {"admin"}}},
		"changed":                           {c, url.Values{"force": {"true"}, "step_up": {forged}}},
		"of another session":                {other, url.Values{"force": {"true"}, "step_up": {sealed}}},
		"of nobody":                         {b.browser(), url.Values{"step_up": {sealed}}},
		"endless":                           {c, url.Values{"force": {"true"}, "step_up": {strings.Repeat(sealed, 30)}}},
		"parameters that are not for links": {c, url.Values{"force": {"true"}, "acr_values": {"pwd"}}},
	} {
		a := tc.browser.get("/bff/login?"+tc.query.Encode(), navigate...)
		q := mustParse(t, a.location()).Query()
		if a.StatusCode != http.StatusFound || q.Get("scope") != "openid offline_access" || q.Has("acr_values") || q.Has("step_up") {
			t.Errorf("%s: %d %v", name, a.StatusCode, q)
		}
	}
	c.get("/bff/login?step_up="+sealed+"&step_up="+sealed, navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	if q := mustParse(t, c.get("/bff/login?step_up="+sealed, navigate...).location()).Query(); q.Get("scope") != "openid offline_access admin" {
		t.Errorf("the real one: %v", q)
	}
	if strings.Contains(b.log(), `"error_code":"misconfigured"`) {
		t.Error(b.log())
	}
}

// SU-02: an upstream that always asks causes one login; a login that does not reach
// the level says so, and leaves the session as it was.
func TestStepUpThatDoesNotHelp(t *testing.T) {
	for _, challenge := range []string{
		goldChallenge, `Bearer error="insufficient_user_authentication", max_age="0"`, `Bearer error="insufficient_scope", scope="openid"`,
	} {
		b := newStepUpBench(t, benchOptions{})
		b.rs.Demand(func(string) string { return challenge })
		c := b.browser().login()
		login := stepUpURL(t, c.get("/api/x", script...))
		if a := c.stepUp(login.String()); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		a := c.get("/api/x", script...)
		a.wantError(t, http.StatusForbidden, codeStepUpFailed)
		if a.json(t)["login_url"] != nil {
			t.Errorf("%s: it asks for another login", challenge)
		}
		c.get("/api/x", navigate...).wantError(t, http.StatusForbidden, codeStepUpFailed)
		if a := c.get("/off/x", script...); a.Header.Get("X-BFF-Error") != "" {
			t.Errorf("%v", a.Header)
		}
		b.stop()
	}
	for name, tc := range map[string]struct {
		edit   func(*astest.Options)
		code   string
		status int
	}{
		"acr":    {func(o *astest.Options) { o.ACRs = []string{"pwd"} }, codeStepUpFailed, 403},
		"error":  {func(o *astest.Options) { o.AuthorizeError = "unmet_authentication_requirements" }, codeStepUpFailed, 403},
		"login":  {func(o *astest.Options) { o.AuthorizeError = "login_required" }, codeStepUpFailed, 403},
		"denied": {func(o *astest.Options) { o.AuthorizeError = "access_denied" }, codeForbidden, 403},
	} {
		b := newStepUpBench(t, benchOptions{})
		c := b.browser().login()
		before := c.sessionID()
		login := stepUpURL(t, c.get("/api/x", script...))
		b.as.Configure(tc.edit)
		c.stepUp(login.String()).wantError(t, tc.status, tc.code)
		if after := c.sessionID(); after != before {
			t.Errorf("%s: session %q, before %q", name, after, before)
		}
		if a := c.get("/off/x", script...); a.Header.Get("X-BFF-Error") != "" || b.as.Count(astest.Revoke) != 0 { // the upstream's own
			t.Errorf("%s: %v, %d revocations", name, a.Header, b.as.Count(astest.Revoke))
		}
		b.stop()
	}
	b := newStepUpBench(t, benchOptions{as: astest.Options{Scope: "openid offline_access"}})
	b.rs.Demand(func(string) string { return `Bearer error="insufficient_scope", scope="admin"` })
	c := b.browser().login()
	c.stepUp(stepUpURL(t, c.get("/api/x", script...)).String()).wantError(t, http.StatusForbidden, codeStepUpFailed)
	// Without the user: the application asked for that, and is told (contract: bff_error).
	b.as.Configure(func(o *astest.Options) { o.AuthorizeError = "login_required" })
	if a := c.stepUp(stepUpURL(t, c.get("/api/x", script...)).String() + "&prompt=none&return_to=/x"); a.location() != "/x?bff_error=login_required" {
		t.Errorf("%d %q", a.StatusCode, a.location())
	}
}

// SU-01: requests that the browser sent with the old cookie are served while the
// callback comes back, and after it for ten seconds; streams go on. No answer of an
// upstream sets a cookie.
func TestStepUpUnderWay(t *testing.T) {
	entered, leave := make(chan struct{}, 64), make(chan struct{})
	stream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		entered <- struct{}{}
		<-leave
		fmt.Fprint(w, "data: to the end\n\n")
	}))
	t.Cleanup(stream.Close)
	b := newBench(t, benchOptions{as: astest.Options{ACRs: []string{"pwd", "gold"}}, site: strings.Replace(stepUpSite, "	handle {", `
	handle /stream {
		bff_proxy `+stream.Listener.Addr().String()+`
	}
	handle {`, 1)})
	b.rs.Demand(func(token string) string {
		if acr, _ := b.as.Authentication(token); acr != "gold" {
			return goldChallenge
		}
		return ""
	})
	c := b.browser().login()
	old := &browser{bench: b, jar: map[string]string{}, client: c.client}
	for name, value := range c.jar {
		old.jar[name] = value
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if a := old.get("/stream", script...); !strings.Contains(a.body, "to the end") {
			t.Errorf("the stream ended: %d %q", a.StatusCode, a.body)
		}
	})
	<-entered
	login := stepUpURL(t, c.get("/api/x", script...))
	a := c.get(login.String(), navigate...)
	callback := c.authorize(mustParse(t, a.location()))
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			br := &browser{bench: b, jar: old.jar, client: c.client}
			for {
				a := br.get("/api/x", script...)
				if code := a.Header.Get("X-BFF-Error"); code != "" && code != codeStepUpRequired || len(a.Header["Set-Cookie"]) > 0 {
					t.Errorf("with the old cookie: %d %v", a.StatusCode, a.Header)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	if a = c.get(callback, arrive...); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a = old.get("/api/x", script...); a.StatusCode != http.StatusOK {
		t.Errorf("with the old cookie: %d %s", a.StatusCode, a.body)
	}
	if id := old.sessionID(); id != c.sessionID() {
		t.Errorf("another session: %q", id)
	}
	time.Sleep(20 * time.Millisecond) // some more requests
	close(stop)
	close(leave)
	wg.Wait()
	// Logout by the new cookie ends what the old one leads to.
	if a = c.do("POST", "/bff/logout", "", script...); a.StatusCode != http.StatusOK {
		t.Fatal(a.StatusCode)
	}
	old.get("/api/x", script...).wantError(t, http.StatusUnauthorized, codeSessionRevoked)
}

// SU-01, SU-02: with `error_pages caddy` documents get the site's handle_errors for what
// a step-up cannot reach, and not what the resource server has to say.
func TestStepUpErrorPages(t *testing.T) {
	for routes, want := range map[string]string{"\nhandle_errors {\n\trespond \"page {err.status_code} {http.bff.error}\" {err.status_code}\n}\n": "page %d %s", "": "<!DOCTYPE html>"} {
		b := newBench(t, benchOptions{bff: "error_pages caddy", as: astest.Options{ACRs: []string{"pwd", "gold"}}, site: stepUpSite + routes})
		b.rs.Demand(func(string) string { return goldChallenge })
		page := func(a *answer, status int, code string) {
			t.Helper()
			text := want
			if routes != "" {
				text = fmt.Sprintf(want, status, code)
			}
			if a.StatusCode != status || a.Header.Get("X-BFF-Error") != code || !strings.HasPrefix(a.body, text) {
				t.Errorf("%d %v %q, want %d %q", a.StatusCode, a.Header, a.body, status, text)
			}
		}
		c := b.browser().login()
		page(c.get("/strict/page", navigate...), http.StatusUnauthorized, codeStepUpRequired)
		if a := c.stepUp(c.get("/api/page", navigate...).location()); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		page(c.get("/api/page", navigate...), http.StatusForbidden, codeStepUpFailed)
		c.get("/api/x", script...).wantError(t, http.StatusForbidden, codeStepUpFailed)
		b.stop()
	}
}

// SU-03: a page that is open through a step-up in another tab can still sign out.
func TestLogoutLinkThroughAStepUp(t *testing.T) {
	b := newStepUpBench(t, benchOptions{})
	c := b.browser().login()
	link, _ := c.get("/bff/session", script...).json(t)["logout_url"].(string)
	if a := c.stepUp(stepUpURL(t, c.get("/api/x", script...)).String()); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	b.browser().login().get(link, navigate...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
	if a := c.get(link, navigate...); a.StatusCode != http.StatusSeeOther || c.signedIn() {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// SU-04: a step-up whose callback is stale begins anew for its own session alone, and
// never for that of whoever has signed in since.
func TestStaleStepUpOfAnotherSession(t *testing.T) {
	b := newStepUpBench(t, benchOptions{bff: "scope openid"})
	b.rs.Demand(func(string) string { return `Bearer error="insufficient_scope", scope="admin"` })
	c := b.browser().login()
	callback := c.authorize(mustParse(t, c.get(stepUpURL(t, c.get("/api/x", script...)).String(), navigate...).location()))
	lost := &browser{bench: b, jar: maps.Clone(c.jar), client: c.client}
	if a := lost.get(callback, arrive...); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	asked := func(c *browser) string {
		t.Helper()
		return mustParse(t, c.get(callback, arrive...).location()).Query().Get("scope")
	}
	own := &browser{bench: b, jar: maps.Clone(c.jar), client: c.client}
	if scope := asked(own); scope != "openid admin" {
		t.Errorf("for its own session: scope %q", scope)
	}
	c.do(http.MethodPost, "/bff/logout", "", script...)
	b.as.Configure(func(o *astest.Options) { o.User = "bob" })
	if scope := asked(c.login()); scope != "openid" {
		t.Errorf("for another session: scope %q", scope)
	}
}
