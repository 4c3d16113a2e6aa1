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
	b := newBench(t, benchOptions{bff: `
		scope openid {env.BFF_TEST_SCOPE}
		authorization_param audience {env.BFF_TEST_AUDIENCE}
		authorization_param resource {env.BFF_TEST_AUDIENCE}/a
		base_path {env.BFF_TEST_BASE}
		return_origins {env.BFF_TEST_AUDIENCE}
		logout {
			return_to {env.BFF_TEST_HOME}
		}`})
	a := b.browser().get("/gateway/login?return_to=https://api.test/x", navigate...)
	if a.StatusCode != http.StatusFound {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	q := mustParse(t, a.location()).Query()
	if q.Get("scope") != "openid orders" || q.Get("audience") != "https://api.test" || q.Get("resource") != "https://api.test/a" ||
		!strings.HasSuffix(q.Get("redirect_uri"), "/gateway/callback") {
		t.Errorf("%v", q)
	}
	const start = `{"issuer":"https://as.example.com","client_id":"shop","client_auth":"none",`
	for option, want := range map[string]string{
		`"scope":["openid","{env.BFF_TEST_NONE}"]`:                 "scope",
		`"scope":["openid","{nobody}"]`:                            "scope",
		`"authorization_param":{"audience":["{nobody}"]}`:          "authorization_param audience",
		`"access_token":{"audience":["{nobody}"]}`:                 "access_token audience",
		`"base_path":"/{nobody}"`:                                  "base_path",
		`"return_origins":["{nobody}"]`:                            "return_origins",
		`"logout":{"return_to":"/{nobody}"}`:                       "logout return_to",
		`"trusted_origins":["https://{env.BFF_TEST_NONE}.test/x"]`: "trusted_origins",
	} {
		if err := provisionAt(t, "app.example.com", start+option+"}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", option, err)
		}
	}
}
