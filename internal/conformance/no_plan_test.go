// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// noPlan has the modules that are in no plan above: in plans for the hybrid and the
// implicit flow, or in none that leads to a certification.
func noPlan() plan {
	const (
		frontChannel = "there is no ID token in an authorization response of the code flow"
		distributed  = "claims of claims providers are not resolved"
	)
	return plan{
		title:    "Modules of no plan above",
		needs:    "They belong to the plans for the hybrid and the implicit flow, which RFC 9700 advises against and the gateway does not have, or to no certification at all. Those that say something about the code flow are run, with `userinfo on`.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{
			{
				name: "oidcc-client-test-missing-aud", sent: "ID token without `aud`", run: refused,
				as: idTokenClaims(func(c map[string]any) { delete(c, "aud") }),
			},
			{
				name: "oidcc-client-test-invalid-sig-hs256", sent: "ID token signed with HS256, by another secret", run: refused,
				as: idToken(func(raw string) string {
					_, claims := parts(raw)
					return astest.SignHMAC([]byte("another secret"), map[string]any{"alg": "HS256", "typ": "JWT"}, claims)
				}),
			},
			{
				name: "oidcc-client-test-invalid-sig-es256", sent: "ID token of ES256 whose signature was tampered with", run: refused,
				as: func(o *astestOptions) { o.Algorithm = "ES256"; idToken(tampered)(o) },
			},
			{
				name: "oidcc-client-test-invalid-athash", sent: "ID token with another `at_hash`", run: refused,
				as: idTokenClaims(func(c map[string]any) { c["at_hash"] = strings.Repeat("A", 22) }),
			},
			{
				name: "oidcc-client-test-missing-athash", sent: "ID token without `at_hash`, which the code flow leaves to the server", run: accepted,
				as: idTokenClaims(func(c map[string]any) { delete(c, "at_hash") }),
			},
			{name: "oidcc-client-test-invalid-chash", sent: "ID token with another `c_hash`", inapplicable: frontChannel},
			{name: "oidcc-client-test-missing-chash", sent: "ID token without `c_hash`", inapplicable: frontChannel},
			{name: "oidcc-client-test-nonce-unless-code-flow", sent: "what a good server sends", inapplicable: "it is about other flows than the code flow; a nonce is always sent"},
			{name: "oidcc-client-test-userinfo-bearer-header", sent: "UserInfo for a token in the header", run: func(s *scenario) {
				accepted(s)
				scheme, _, _ := strings.Cut(s.as.Requests(astest.UserInfo)[0].Header.Get("Authorization"), " ")
				if scheme != "Bearer" {
					s.t.Errorf("the scheme is %q", scheme)
				}
				s.see("UserInfo is called with the header `Authorization: %s`", scheme)
			}},
			{name: "oidcc-client-test-userinfo-bearer-body", sent: "UserInfo for a token in the body", inapplicable: "the token is sent in the header, as RFC 6750 section 2 recommends"},
			{name: "oidcc-client-test-aggregated-claims", sent: "aggregated claims", inapplicable: distributed},
			{name: "oidcc-client-test-distributed-claims", sent: "distributed claims", inapplicable: distributed},
			{
				name: "oidcc-client-test-mtls-endpoint-aliases", sent: "`mtls_endpoint_aliases`, where alone the token endpoint works", run: func(s *scenario) {
					accepted(s)
					used := s.as.Requests(astest.Token)[0]
					if used.Certificate == nil || used.Status != http.StatusOK || "https://"+used.Host == s.as.Issuer() {
						s.t.Errorf("%s: %d", used.Host, used.Status)
					}
					s.see("token request at the alias, with the client certificate")
				},
				setting: func() setting {
					set := strictSetting(authentications[1].apply, bindings[0].apply)
					set.bff += "\nuserinfo on"
					return set
				},
			},
			begunByTheServer(),
		},
	}
}
