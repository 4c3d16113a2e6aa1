// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"strings"
	"testing"
)

// Placeholders of variables are replaced in every option that is text, and one
// that nobody knows is an error of the configuration, not sent to anybody.
func TestPlaceholdersInOptions(t *testing.T) {
	t.Setenv("BFF_TEST_SCOPE", "orders")
	t.Setenv("BFF_TEST_AUDIENCE", "https://api.test")
	t.Setenv("BFF_TEST_BASE", "/gateway")
	t.Setenv("BFF_TEST_HOME", "/home")
	t.Setenv("BFF_TEST_PARAM", "audience_hint")
	t.Setenv("BFF_TEST_HEADER", "X-Shop")
	b := newBench(t, benchOptions{bff: `
		scope openid {env.BFF_TEST_SCOPE}
		authorization_param audience {env.BFF_TEST_AUDIENCE}
		authorization_param resource {env.BFF_TEST_AUDIENCE}/a
		base_path {env.BFF_TEST_BASE}
		return_origins {env.BFF_TEST_AUDIENCE}
		login_param {env.BFF_TEST_PARAM}
		csrf_header {env.BFF_TEST_HEADER} {env.BFF_TEST_SCOPE}
		logout {
			return_to {env.BFF_TEST_HOME}
		}`})
	a := b.browser().get("/gateway/login?audience_hint=h&return_to=https://api.test/x", navigate...)
	if a.StatusCode != http.StatusFound {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	q := mustParse(t, a.location()).Query()
	if q.Get("scope") != "openid orders" || q.Get("audience") != "https://api.test" || q.Get("resource") != "https://api.test/a" ||
		q.Get("audience_hint") != "h" || !strings.HasSuffix(q.Get("redirect_uri"), "/gateway/callback") {
		t.Errorf("%v", q)
	}
	if a := b.browser().do(http.MethodPost, "/gateway/login", "", "X-Shop", "orders"); a.StatusCode != http.StatusOK {
		t.Errorf("CSRF header: %d %s", a.StatusCode, a.body)
	}
	const start = `{"issuer":"https://as.example.com","client_id":"shop","client_auth":"none",`
	for option, want := range map[string]string{
		`"scope":["openid","{env.BFF_TEST_NONE}"]`:                          "scope",
		`"scope":["openid","{nobody}"]`:                                     "scope",
		`"authorization_param":{"audience":["{nobody}"]}`:                   "authorization_param audience",
		`"access_token":{"audience":["{nobody}"]}`:                          "access_token audience",
		`"base_path":"/{nobody}"`:                                           "base_path",
		`"return_origins":["{nobody}"]`:                                     "return_origins",
		`"logout":{"return_to":"/{nobody}"}`:                                "logout return_to",
		`"trusted_origins":["https://{env.BFF_TEST_NONE}.test/x"]`:          "trusted_origins",
		`"login_param":["{nobody}"]`:                                        "login_param",
		`"csrf_header":{"name":"X-A","value":"{nobody}"}`:                   "csrf_header",
		`"metadata":{"id_token_signing_alg_values_supported":["{nobody}"]}`: "metadata id_token_signing_alg_values_supported",
	} {
		if err := provisionAt(t, "app.example.com", start+option+"}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", option, err)
		}
	}
}

// A rule about a claim whose value is in the environment holds for that value, and
// one that is not there is an error: it would let nobody in.
func TestPlaceholdersInRules(t *testing.T) {
	t.Setenv("BFF_TEST_CLAIM", "sub")
	t.Setenv("BFF_TEST_USER", "alice")
	b := newBench(t, benchOptions{site: `
	bff_protect {
		require {env.BFF_TEST_CLAIM} bob {env.BFF_TEST_USER}
	}
	respond "let in"
	`})
	if a := b.browser().login().get("/x", script...); a.body != "let in" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for _, rule := range []string{"sub {env.BFF_TEST_NONE}", "{env.BFF_TEST_NONE} alice", "sub {nobody}"} {
		config := adaptTB(t, siteBlock("app", block("", "one")+"bff_protect {\nrequire "+rule+"\n}\n"))
		if err := validate(t, string(config)); err == nil || !strings.Contains(err.Error(), "require") {
			t.Errorf("require %s: error %v", rule, err)
		}
	}
}
