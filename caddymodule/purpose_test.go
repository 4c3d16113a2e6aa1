// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// upstreams are resource servers that each take access tokens of their own
// audience alone.
type upstreams struct {
	*bench
	servers map[string]*astest.ResourceServer // by audience
}

const upstreamSite = `
	handle /orders/* {
		bff_proxy %s {
			resource https://orders.test
		}
	}
	handle /stock/* {
		bff_proxy %s {
			exchange {
				audience stock
				scope openid
			}
		}
	}
	handle /nobody/* {
		bff_proxy %[2]s {
			resource https://nobody.test
		}
	}
	handle /api/* {
		bff_proxy %[3]s
	}
	handle {
		respond "open"
	}
`

func newUpstreams(t *testing.T, o benchOptions) *upstreams {
	t.Helper()
	o.as.Resources = []string{"https://orders.test", "stock", "https://api.test", "https://other.test"}
	u := &upstreams{servers: map[string]*astest.ResourceServer{}}
	addresses := map[string]string{}
	// The server is known only when the gateway is made; until then nobody calls.
	var ready sync.WaitGroup
	ready.Add(1)
	for _, audience := range []string{"https://orders.test", "stock", "https://api.test"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ready.Wait()
			u.servers[audience].ServeHTTP(w, r)
		}))
		t.Cleanup(s.Close)
		addresses[audience] = s.Listener.Addr().String()
	}
	o.site = fmt.Sprintf(upstreamSite, addresses["https://orders.test"], addresses["stock"], addresses["https://api.test"])
	u.bench = newBench(t, o)
	for audience := range addresses {
		u.servers[audience] = u.as.ResourceServer().ForAudience(audience)
	}
	ready.Done()
	return u
}

var paths = map[string]string{"https://orders.test": "/orders/x", "stock": "/stock/x", "https://api.test": "/api/x"}

// checkTokens: each upstream was sent tokens of its own audience and no other, and
// nothing that is a secret is in the log.
func (u *upstreams) checkTokens() {
	u.t.Helper()
	log := u.log()
	for audience, rs := range u.servers {
		for _, r := range rs.Requests() {
			if got := u.as.Audience(r.Token); !slices.Equal(got, []string{audience}) {
				u.t.Errorf("%s was sent a token for %q", audience, got)
			}
			if strings.Contains(log, r.Token) {
				u.t.Errorf("a token of %s is in the log", audience)
			}
		}
	}
}

func (u *upstreams) mustGet(c *browser, audience string) {
	u.t.Helper()
	if a := c.get(paths[audience], script...); a.StatusCode != http.StatusOK {
		u.t.Fatalf("%s: %d %s", audience, a.StatusCode, a.body)
	}
}

// TX-01, TX-05, TX-06, PX-13: a token of its own for each upstream, by resource and
// by exchange, over refreshes, heals, and parallel first calls.
func TestTokenForEachUpstream(t *testing.T) {
	u := newUpstreams(t, benchOptions{as: astest.Options{AccessTokenLifetime: 2 * time.Second, Latency: map[string]time.Duration{astest.Token: 50 * time.Millisecond}}})
	c := u.browser().login()
	var wg sync.WaitGroup
	for i := range 60 {
		other := u.browser()
		other.jar["bff"] = c.jar["bff"]
		audience := []string{"https://orders.test", "stock", "https://api.test"}[i%3]
		wg.Go(func() {
			if a := other.get(paths[audience], script...); a.StatusCode != http.StatusOK {
				t.Errorf("%s: %d %s", audience, a.StatusCode, a.body)
			}
		})
	}
	wg.Wait()
	if n, x := len(u.as.RefreshRequests()), len(u.as.ExchangeRequests()); n != 1 || x != 1 {
		t.Errorf("%d refreshes and %d exchanges for the first calls", n, x)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for audience := range paths {
			u.mustGet(c, audience)
		}
	}
	for audience, rs := range u.servers { // heals with one of its own
		rs.Refuse(1)
		u.mustGet(c, audience)
	}
	if u.as.ReuseDetections() != 0 || u.as.Refreshes() < 4 {
		t.Errorf("%d reuses, %d refreshes", u.as.ReuseDetections(), u.as.Refreshes())
	}
	u.checkTokens()
}

// TX-04: no token for one upstream is 502 there, and nothing anywhere else.
func TestNoTokenForOneUpstream(t *testing.T) {
	u := newUpstreams(t, benchOptions{})
	c := u.browser().login()
	for range 3 {
		a := c.get("/nobody/x", script...)
		a.wantError(t, http.StatusBadGateway, codeTokenUnavailable)
		if a.json(t)["login_url"] == nil {
			t.Errorf("no login_url: %s", a.body)
		}
		for audience := range paths {
			u.mustGet(c, audience)
		}
	}
	u.as.Configure(func(o *astest.Options) { o.NoTokenExchange = true })
	fresh := u.browser().login()
	fresh.get("/stock/x", script...).wantError(t, http.StatusBadGateway, codeTokenUnavailable)
	u.mustGet(fresh, "https://orders.test")
	u.mustGet(c, "stock")
	if !c.signedIn() || !fresh.signedIn() {
		t.Error("somebody was signed out")
	}
	u.checkTokens()
}

// TX-04, CONTRACT 4: the way out that a 502 offers is another session, not a way back to it.
func TestSignInAgainWhereThereIsNoToken(t *testing.T) {
	u := newUpstreams(t, benchOptions{})
	c := u.browser().login()
	a := c.get("/nobody/x", navigate...)
	if a.StatusCode != http.StatusBadGateway {
		t.Fatalf("status %d", a.StatusCode)
	}
	link := regexp.MustCompile(`href="([^"]+)"`).FindStringSubmatch(a.body)
	if link == nil {
		t.Fatalf("no link: %s", a.body)
	}
	problem, _ := c.get("/nobody/x", script...).json(t)["login_url"].(string)
	for _, target := range []string{html.UnescapeString(link[1]), problem + "&return_to=%2Fnobody%2Fx"} {
		a := c.get(target, navigate...)
		if a.StatusCode != http.StatusFound || !strings.HasPrefix(a.location(), u.as.Issuer()) {
			t.Errorf("%s: %d to %q", target, a.StatusCode, a.location())
			continue
		}
		back, err := u.as.Login(a.location())
		if err != nil {
			t.Fatal(err)
		}
		if a := c.get(back.RequestURI(), arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/nobody/x" {
			t.Errorf("%s: back at %d %q", target, a.StatusCode, a.location())
		}
	}
}

// An upstream that refuses everything gets its 401 through, and pauses nobody else.
func TestUpstreamThatRefusesAll(t *testing.T) {
	u := newUpstreams(t, benchOptions{})
	c := u.browser().login()
	for audience := range paths {
		u.mustGet(c, audience)
	}
	u.servers["https://orders.test"].Refuse(-1)
	for range 10 {
		if a := c.get("/orders/x", script...); a.StatusCode != http.StatusUnauthorized || a.Header.Get("X-BFF-Error") != "" {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	if n := len(u.as.RefreshRequests()); n != 1+2 {
		t.Errorf("%d refreshes", n)
	}
	for _, audience := range []string{"stock", "https://api.test"} {
		u.servers[audience].Refuse(1)
		u.mustGet(c, audience)
	}
	u.checkTokens()
}

// Cross-sending after a reload that gives upstreams other tokens: what was got for
// another purpose stays where it is.
func TestReloadWithOtherPurposes(t *testing.T) {
	u := newUpstreams(t, benchOptions{})
	c := u.browser().login()
	for audience := range paths {
		u.mustGet(c, audience)
	}
	before := len(u.servers["https://orders.test"].Requests())
	plain := bytes.Clone(u.config)
	edit := func(old, next string) {
		t.Helper()
		u.config = bytes.ReplaceAll(plain, []byte(old), []byte(next))
		if bytes.Equal(u.config, plain) {
			t.Fatalf("no %s in %s", old, plain)
		}
		u.load()
	}
	// The upstream of orders now wants tokens for another audience, and those for
	// orders go to where the default one went.
	edit(`"resource":"https://orders.test"`, `"resource":"https://other.test"`)
	u.servers["https://orders.test"].ForAudience("https://other.test")
	u.mustGet(c, "https://orders.test")
	u.mustGet(c, "stock")
	u.mustGet(c, "https://api.test")
	for _, r := range u.servers["https://orders.test"].Requests()[before:] {
		if got := u.as.Audience(r.Token); !slices.Equal(got, []string{"https://other.test"}) {
			t.Errorf("after the reload a token for %q", got)
		}
	}
	// Less scope, by an option of its own.
	edit(`"resource":"https://orders.test"`, `"scope":["openid"]`)
	u.servers["https://orders.test"].ForAudience("https://api.test")
	u.mustGet(c, "https://orders.test")
	list := u.servers["https://orders.test"].Requests()
	if last := list[len(list)-1]; u.as.Scope(last.Token) != "openid" || !slices.Equal(u.as.Audience(last.Token), []string{"https://api.test"}) {
		t.Errorf("a token for %q with scope %q", u.as.Audience(last.Token), u.as.Scope(last.Token))
	}
	// The resource of the default token.
	edit(`"client_id":"app"`, `"client_id":"app","resource":["https://other.test"]`)
	u.servers["https://api.test"].ForAudience("https://other.test")
	u.mustGet(c, "https://api.test")
	u.mustGet(c, "stock")
	if !c.signedIn() || u.as.ReuseDetections() != 0 {
		t.Error("signed out, or a refresh token was used twice")
	}
}

// Cross-sending after signing in as somebody else in the same browser.
func TestSignInAsSomebodyElseForEachUpstream(t *testing.T) {
	u := newUpstreams(t, benchOptions{})
	c := u.browser().login()
	for audience := range paths {
		u.mustGet(c, audience)
	}
	u.as.Configure(func(o *astest.Options) { o.User = "bob" })
	callback := c.authorize(mustParse(t, c.get("/bff/login?force=true&return_to=/after", navigate...).location()))
	if a := c.get(callback, arrive...); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for audience, rs := range u.servers {
		u.mustGet(c, audience)
		list := rs.Requests()
		if list[0].Subject != "alice" || list[len(list)-1].Subject != "bob" {
			t.Errorf("%s: %q then %q", audience, list[0].Subject, list[len(list)-1].Subject)
		}
	}
	u.checkTokens()
}

// TX-05: resource indicators of bff go along with the authorization request, the
// code and each refresh; those of authorization_param with the first alone.
func TestResourceOfTheDefaultToken(t *testing.T) {
	b := newBench(t, benchOptions{bff: "resource https://a.test https://b.test\nauthorization_param resource https://c.test\nauthorization_param resource https://a.test"})
	c := b.browser()
	u := c.startLogin("/after")
	if got := slices.Sorted(slices.Values(u.Query()["resource"])); !slices.Equal(got, []string{"https://a.test", "https://b.test", "https://c.test"}) {
		t.Errorf("authorization request: %q", got)
	}
	if a := c.get(c.authorize(u), arrive...); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for _, r := range b.as.Requests(astest.Token) {
		if got := r.Form["resource"]; !slices.Equal(got, []string{"https://a.test", "https://b.test"}) {
			t.Errorf("%s: %q", r.GrantType, got)
		}
	}
}

// In JSON the same is refused as in a Caddyfile, and placeholders are replaced.
func TestPurposeInJSON(t *testing.T) {
	t.Setenv("BFF_TEST_RESOURCE", "https://orders.test")
	const start = `{"token":"user",`
	for options, want := range map[string]string{
		`"resource":"orders"`:                         "not an absolute URI",
		`"resource":"https://orders.test/#x"`:         "has a fragment",
		`"resource":"{env.BFF_TEST_NONE}"`:            "BFF_TEST_NONE",
		`"resource":"{env.BFF_TEST_RESOURCE}/#"`:      "has a fragment",
		`"scope":["a b"]`:                             "no scope token",
		`"scope":[""]`:                                "no scope token",
		`"exchange":{}`:                               "needs an audience, a resource or a scope",
		`"exchange":{"audience":[""]}`:                "empty value",
		`"exchange":{"resource":["x"]}`:               "not an absolute URI",
		`"exchange":{"audience":["a"]},"scope":["b"]`: "scope stands beside exchange",
		`"exchange":{"audience":["a"],"requested_token_type":"urn:ietf:params:oauth:token-type:refresh_token"}`: "should be one of",
	} {
		if err := provisionProtect(t, start+options+"}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", options, err)
		}
	}
	for _, options := range []string{`"resource":"https://orders.test"`, `"scope":["a"]`, `"exchange":{"audience":["a"]}`} {
		if err := provisionProtect(t, `{"token":"none",`+options+"}"); err == nil || !strings.Contains(err.Error(), "token none") {
			t.Errorf("%s with none: %v", options, err)
		}
	}
	for _, options := range []string{
		`"resource":"{env.BFF_TEST_RESOURCE}","scope":["a","b"]`, `"resource":"urn:orders"`, `"resource":"https://orders.test/a?b=c"`,
		`"exchange":{"audience":["{env.BFF_TEST_RESOURCE}"],"requested_token_type":"jwt"}`,
	} {
		if err := provisionProtect(t, start+options+"}"); err != nil {
			t.Errorf("%s: %v", options, err)
		}
	}
}

// provisionProtect loads a bff_protect behind a bff.
func provisionProtect(t *testing.T, handler string) error {
	t.Helper()
	return provisionAt(t, "app.example.com", `{"issuer":"https://as.example.com","client_id":"shop","client_auth":"none"},{"handler":"bff_protect",`+handler[1:])
}
