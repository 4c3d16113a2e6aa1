// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// C306, CB-05, CB-15, AR-11: one site, two authorization servers, one of them the
// attacker's. A code, a state or an error of one is worth nothing at the callback of
// the other, whose address is another, and is sent to nobody.
func TestMixUpOfTwoServers(t *testing.T) {
	evil := astest.New(astest.Options{}).Start(t)
	b := newBench(t, benchOptions{site: fmt.Sprintf("bff /other/* {\nissuer %s\nclient_id app\nclient_secret secret\nname other\nbase_path /other/bff\n}\n%s", evil.Issuer(), defaultSite)})
	start := func(c *browser, base string) *url.URL {
		a := c.get(base+"/login?return_to=/after", navigate...)
		if a.StatusCode != http.StatusFound {
			t.Fatalf("login at %s: %d %s", base, a.StatusCode, a.body)
		}
		return mustParse(t, a.location())
	}
	answer := func(as *astest.Server, request *url.URL) url.Values {
		back, err := as.Login(request.String())
		if err != nil {
			t.Fatal(err)
		}
		return back.Query()
	}
	c := b.browser()
	honest, attacked := start(c, "/bff"), start(c, "/other/bff")
	if a, b := honest.Query().Get("redirect_uri"), attacked.Query().Get("redirect_uri"); a == b || a == "" || b == "" {
		t.Errorf("both have the redirect URI %q", a)
	}
	// The honest server's answer to a request that the attacker passed on to it.
	code := answer(b.as, honest)
	state, iss := attacked.Query().Get("state"), evil.Issuer()
	replaced := func(q url.Values, with ...string) url.Values {
		out := url.Values{}
		for name := range q {
			out.Set(name, q.Get(name))
		}
		for i := 0; i < len(with); i += 2 {
			if out.Del(with[i]); with[i+1] != "" {
				out.Set(with[i], with[i+1])
			}
		}
		return out
	}
	for name, tc := range map[string]struct {
		base  string
		query url.Values
	}{
		"honest answer at the other callback":           {"/other/bff", code},
		"honest code in the attacker's login":           {"/other/bff", replaced(code, "state", state)},
		"honest code in the attacker's login, no iss":   {"/other/bff", replaced(code, "state", state, "iss", "")},
		"attacker's login at the honest callback":       {"/bff", replaced(code, "state", state)},
		"attacker's login and name at the honest one":   {"/bff", replaced(code, "state", state, "iss", iss)},
		"honest login in the attacker's name":           {"/bff", replaced(code, "iss", iss)},
		"honest login without a name":                   {"/bff", replaced(code, "iss", "")},
		"attacker's error in the honest login":          {"/bff", replaced(code, "code", "", "error", "access_denied", "iss", iss)},
		"attacker's name and code at the other, honest": {"/other/bff", replaced(code, "iss", iss)},
	} {
		victim := b.browser()
		for name, value := range c.jar {
			victim.jar[name] = value
		}
		a := victim.get(tc.base+"/callback?"+tc.query.Encode(), navigate...)
		a.wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
		if victim.jar["bff"] != "" || victim.jar["bff-other"] != "" {
			t.Errorf("%s: signed in: %v", name, victim.jar)
		}
		if n := b.as.Count(astest.Token) + evil.Count(astest.Token); n != 0 {
			t.Fatalf("%s: a code was sent", name)
		}
	}
	// Each by itself works, with the same cookies.
	for base, q := range map[string]url.Values{"/bff": code, "/other/bff": answer(evil, attacked)} {
		if a := c.get(base+"/callback?"+q.Encode(), arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/after" {
			t.Errorf("%s: %d %s", base, a.StatusCode, a.body)
		}
	}
	if b.as.Count(astest.Token) != 1 || evil.Count(astest.Token) != 1 {
		t.Errorf("%d and %d codes were sent", b.as.Count(astest.Token), evil.Count(astest.Token))
	}
	if c.jar["bff"] == "" || c.jar["bff-other"] == "" {
		t.Errorf("cookies: %v", c.jar)
	}
}
