// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// basicSetting is a client with a secret, whose ID tokens are signed with RS256.
func basicSetting() setting {
	return setting{as: astestOptions{Algorithm: "RS256", AuthMethod: "client_secret_basic"}, bff: "userinfo on"}
}

// basicPlan covers AR-01, ID-01 to ID-03, ID-05, ID-07 to ID-10, ID-14, JW-03 and
// CA-02 from outside.
func basicPlan() plan {
	return plan{
		name: "oidcc-client-basic-certification-test-plan", title: "Basic RP",
		needs:    "Needs `userinfo on`: the suite takes a UserInfo request for the sign that an ID token was accepted, and none for the sign that it was refused.",
		variants: []variant{{setting: basicSetting}}, modules: basicModules(),
	}
}

// basicModules are those of the plans Basic RP and Form Post Basic RP.
func basicModules() []module {
	return []module{
		{name: "oidcc-client-test", sent: "what a good server sends", run: accepted},
		{
			name: "oidcc-client-test-invalid-iss", sent: "ID token with another `iss`", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["iss"] = "https://other.example.com" }),
		},
		{
			name: "oidcc-client-test-missing-sub", sent: "ID token without `sub`", run: refused,
			as: idTokenClaims(func(c map[string]any) { delete(c, "sub") }),
		},
		{
			name: "oidcc-client-test-invalid-aud", sent: "ID token whose `aud` is another client", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["aud"] = "another" }),
		},
		{
			name: "oidcc-client-test-missing-iat", sent: "ID token without `iat`", run: refused,
			as: idTokenClaims(func(c map[string]any) { delete(c, "iat") }),
		},
		{
			name: "oidcc-client-test-kid-absent-single-jwks", sent: "ID token without `kid`, one key in the JWK Set", run: accepted,
			as: idTokenHeader(func(h map[string]any) { delete(h, "kid") }),
		},
		{
			name: "oidcc-client-test-kid-absent-multiple-jwks", sent: "ID token without `kid`, two keys that match in the JWK Set (to try both is right, and so is to refuse)", run: accepted,
			as: func(o *astestOptions) {
				idTokenHeader(func(h map[string]any) { delete(h, "kid") })(o)
				alsoPublished(astest.NewKey("RS256", "key-2"))(o)
			},
		},
		{
			name: "oidcc-client-test-idtoken-sig-rs256", sent: "ID token signed with RS256", run: func(s *scenario) {
				accepted(s)
				s.see("ID token of `alg` %s", s.as.SigningKey().Algorithm)
			},
		},
		unsignedIDToken(),
		{
			name: "oidcc-client-test-invalid-sig-rs256", sent: "ID token whose signature was tampered with", run: refused,
			as: idToken(tampered),
		},
		{
			name: "oidcc-client-test-userinfo-invalid-sub", sent: "UserInfo answer with another `sub`",
			as: func(o *astestOptions) {
				o.UserInfoClaims = func(c map[string]any) { c["sub"] = "mallory" }
			},
			run: func(s *scenario) {
				s.refusal(http.StatusBadGateway, "token_unavailable")
				s.asked(1, 1)
				s.counts(s.questions()...)
			},
		},
		{
			name: "oidcc-client-test-nonce-invalid", sent: "ID token with another `nonce`", run: otherNonce,
			as: idTokenClaims(func(c map[string]any) { c["nonce"] = "another" }),
		},
		{
			name: "oidcc-client-test-scope-userinfo-claims", sent: "claims of the scopes that are asked for, in the UserInfo answer alone", bff: "scope openid profile email",
			as: func(o *astestOptions) {
				o.Claims = map[string]any{"name": nil, "email": nil}
				o.UserInfoClaims = func(c map[string]any) { c["name"], c["email"] = "Alice A.", "alice@example.org" }
			},
			run: func(s *scenario) {
				accepted(s)
				user := s.user()
				if user["email"] != "alice@example.org" || user["name"] != "Alice A." {
					s.t.Errorf("the application sees %v", user)
				}
				scope := s.as.Requests(astest.Authorize)[0].Form.Get("scope")
				if !slices.Contains(strings.Fields(scope), "email") {
					s.t.Errorf("scope is %q", scope)
				}
				s.see("scope `%s`; `GET session` has name %v, email %v", scope, user["name"], user["email"])
			},
		},
		{
			name: "oidcc-client-test-client-secret-basic", sent: "only client_secret_basic is taken", run: func(s *scenario) {
				accepted(s)
				s.see("the client authenticates with %s", s.as.Requests(astest.Token)[0].ClientAuth)
			},
		},
	}
}

// unsignedIDToken is in several plans.
func unsignedIDToken() module {
	return module{
		name: "oidcc-client-test-idtoken-sig-none", sent: "ID token with `alg` none (the suite lets clients take it; this one does not)", run: refused,
		as: idToken(unsigned),
	}
}
