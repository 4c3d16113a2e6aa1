// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// fapi begins the names of the modules of both plans.
const fapi = "fapi2-security-profile-final-client-"

// securityProfilePlan covers PR-01, PR-02, CA-03, CA-08, MT-01, MD-09, TK-02, TK-03,
// JW-02, CB-01 to CB-03, DP-01 to DP-08, DP-10 and ID-01 to ID-08 from outside, as FAPI 2.0 has them.
func securityProfilePlan() plan {
	return plan{
		name: "fapi2-security-profile-final-client-test-plan", title: "FAPI 2.0 Security Profile client",
		needs: "Needs `par required`, and `client_auth` by a key or a certificate, with the `certificate` that tokens are bound to, which the `transport http` of `bff_proxy` shows to the resource server too, or with `dpop on` and `dpop` in `bff_proxy`. " +
			"Client type `oidc`, profile `plain_fapi`: `plain_oauth` is not supported, since the ID token says who signed in. " +
			"Every module is run with an authorization server that takes pushed requests alone, has its token endpoint behind `mtls_endpoint_aliases` where the client shows a certificate, and publishes a decoy key with the same `kid`.",
		variants: fapiVariants(func(*setting) {}),
		modules:  securityProfileModules(),
	}
}

// securityProfileModules are those of both plans.
func securityProfileModules() []module {
	return []module{
		{name: fapi + "test-happy-path", sent: "what a good server sends; with DPoP both servers demand nonces, another one after each proof", run: withNonces},
		{name: fapi + "test-happy-path-no-dpop-nonce", sent: "no DPoP nonces", run: withoutNonces},
		{name: fapi + "test-discovery-issuer-mismatch", sent: "metadata with another `issuer`", run: issuerMismatch, as: otherIssuer},
		{
			name: fapi + "test-invalid-iss", sent: "ID token with another `iss`", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["iss"] = "https://other.example.com" }),
		},
		{
			name: fapi + "test-invalid-missing-iss", sent: "ID token without `iss`", run: refused,
			as: idTokenClaims(func(c map[string]any) { delete(c, "iss") }),
		},
		{
			name: fapi + "test-invalid-aud", sent: "ID token whose `aud` is another client", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["aud"] = "another" }),
		},
		{
			name: fapi + "test-invalid-missing-aud", sent: "ID token without `aud`", run: refused,
			as: idTokenClaims(func(c map[string]any) { delete(c, "aud") }),
		},
		{
			name: fapi + "test-invalid-secondary-aud", sent: "ID token whose `aud` has this client and another, without `azp`", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["aud"] = []any{c["aud"], "another"} }),
		},
		{
			name: fapi + "test-valid-aud-as-array", sent: "ID token whose `aud` is an array with this client alone", run: bound,
			as: idTokenClaims(func(c map[string]any) { c["aud"] = []any{c["aud"]} }),
		},
		{name: fapi + "test-invalid-null-alg", sent: "ID token with `alg` none", run: refused, as: idToken(unsigned)},
		{name: fapi + "test-invalid-alternate-alg", sent: "ID token rightly signed with RS256, by the decoy", run: refused, as: idToken(byTheDecoy)},
		{
			name: fapi + "test-invalid-expired-exp", sent: "ID token that expired more than five minutes ago", run: refused,
			as: idTokenClaims(func(c map[string]any) { c["exp"] = time.Now().Add(-6 * time.Minute).Unix() }),
		},
		{
			name: fapi + "test-invalid-missing-exp", sent: "ID token without `exp`", run: refused,
			as: idTokenClaims(func(c map[string]any) { delete(c, "exp") }),
		},
		{
			name: fapi + "test-invalid-nonce", sent: "ID token with another `nonce`", run: otherNonce,
			as: idTokenClaims(func(c map[string]any) { c["nonce"] = "another" }),
		},
		{
			name: fapi + "test-invalid-missing-nonce", sent: "ID token without `nonce`", run: otherNonce,
			as: idTokenClaims(func(c map[string]any) { delete(c, "nonce") }),
		},
		{
			name: fapi + "test-invalid-authorization-response-iss", sent: "authorization response with another `iss`", run: stopped,
			as: func(o *astestOptions) { o.WrongIss = "https://other.example.com" },
		},
		{
			name: fapi + "test-remove-authorization-response-iss", sent: "authorization response without `iss`", run: stopped,
			as: func(o *astestOptions) { o.OmitIss = true },
		},
		{
			name: fapi + "test-ensure-authorization-response-with-invalid-state-fails", sent: "authorization response with another `state`", run: stopped,
			as: authorizationResponse("state", func(string) string { return "another" }),
		},
		{
			name: fapi + "test-ensure-authorization-response-with-invalid-missing-state-fails", sent: "authorization response without `state`", run: stopped,
			as: authorizationResponse("state", nil),
		},
		{
			name: fapi + "test-token-endpoint-response-without-expires_in", sent: "token response without `expires_in`", run: bound,
			as: func(o *astestOptions) {
				o.TokenResponse = func(_ string, body map[string]any) { delete(body, "expires_in") }
			},
		},
		{
			name: fapi + "test-token-type-case-insensitivity", sent: "token response whose `token_type` is `bEARER`, with DPoP `dPOP`", run: bound,
			as: func(o *astestOptions) {
				typ := "bEARER"
				if o.DPoP {
					typ = "dPOP"
				}
				o.TokenResponse = func(_ string, body map[string]any) { body["token_type"] = typ }
			},
		},
		{name: fapi + "test-rs-dpop-auth-scheme-case-insensitivity", sent: "the resource server demands a nonce by a challenge with the scheme `dpop`", run: otherLetters},
		{
			name: fapi + "refresh-token-test", sent: "the resource server answers 401 `invalid_token` until there have been two refreshes; each gives a new refresh token and no ID token (the suite runs this with the profile of Brazil alone)",
			as: func(o *astestOptions) { o.NoRefreshedIDToken = true }, run: refreshedTwice,
		},
		{name: fapi + "test-invalid-openbanking-intent-id", sent: "another `openbanking_intent_id`", inapplicable: "the suite has it for profiles of open banking in the United Kingdom and Australia alone"},
	}
}

// authorizationResponse changes a parameter of what the browser is sent back with; nil
// removes it.
func authorizationResponse(name string, change func(string) string) func(*astestOptions) {
	return func(o *astestOptions) {
		o.AuthorizationResponse = func(params url.Values) {
			if change == nil {
				params.Del(name)
			} else {
				params.Set(name, change(params.Get(name)))
			}
		}
	}
}

// bound is accepted, with an access token that is worth nothing to a thief.
func bound(s *scenario) {
	s.t.Helper()
	accepted(s)
	s.stolen()
}

// otherNonce: such an ID token is another login's.
func otherNonce(s *scenario) {
	s.t.Helper()
	s.refusal(http.StatusBadRequest, "login_state_invalid")
	s.asked(1, 0)
	s.counts(s.questions()...)
}

// refreshedTwice: the answer to one request of the browser is worth one refresh, and
// the next request may have another one.
func refreshedTwice(s *scenario) {
	s.t.Helper()
	s.signIn()
	s.rs.Refuse(3)
	var answers []string
	for _, want := range []int{http.StatusUnauthorized, http.StatusOK} {
		p := s.call(http.MethodGet, "/api/orders")
		if p.StatusCode != want {
			s.t.Errorf("the browser is answered %d %s, want %d", p.StatusCode, p.code(), want)
		}
		answers = append(answers, http.StatusText(p.StatusCode))
	}
	requests := s.as.RefreshRequests()
	if len(requests) != 2 || s.as.Refreshes() != 2 || requests[0].Token == requests[1].Token || s.as.ReuseDetections() != 0 {
		s.t.Errorf("%d refreshes, %d granted", len(requests), s.as.Refreshes())
	}
	s.see("two requests of the browser: %s; refreshes %d, each with the token that the last one gave", strings.Join(answers, ", "), len(requests))
	s.counts(astest.Token)
	s.stolen()
}
