// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "github.com/caddy-bff/caddy-bff/internal/astest"

// dynamicPlan is not for this gateway, but for one of its modules: ID-15 from outside.
func dynamicPlan() plan {
	const (
		registration = "needs dynamic registration; a gateway is registered once, by its operator. Config RP asks the same of a client that is"
		webFinger    = "the issuer is configured; it is never looked up from what a user types"
		requestURI   = "the gateway pushes its requests instead of having them fetched from an address of its own"
	)
	return plan{
		name: "oidcc-client-dynamic-certification-test-plan", title: "Dynamic RP",
		needs:    "Not supported: it demands dynamic registration and `request_uri`. One of its modules makes sense without, and is run with a registered client and `userinfo on`.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{
			{name: "oidcc-client-test-discovery-webfinger-acct", sent: "WebFinger for `acct:`", inapplicable: webFinger},
			{name: "oidcc-client-test-discovery-webfinger-url", sent: "WebFinger for a URL", inapplicable: webFinger},
			{name: "oidcc-client-test-discovery-openid-config", sent: "metadata", inapplicable: registration},
			{name: "oidcc-client-test-discovery-jwks-uri-keys", sent: "`jwks_uri`", inapplicable: registration},
			{name: "oidcc-client-test-discovery-issuer-mismatch", sent: "metadata with another `issuer`", inapplicable: registration},
			{name: "oidcc-client-test-dynamic-registration", sent: "a registration endpoint", inapplicable: "needs dynamic registration; a gateway is registered once, by its operator"},
			{name: "oidcc-client-test-request-uri-signed-rs256", sent: "a request for the request object", inapplicable: requestURI},
			{name: "oidcc-client-test-request-uri-signed-none", sent: "a request for the request object", inapplicable: requestURI},
			{name: "oidcc-client-test-idtoken-sig-none", sent: "ID token with `alg` none", inapplicable: registration},
			{name: "oidcc-client-test-signing-key-rotation-just-before-signing", sent: "a new signing key", inapplicable: registration},
			{name: "oidcc-client-test-signing-key-rotation", sent: "a new signing key", inapplicable: registration},
			{
				name: "oidcc-client-test-userinfo-signed", sent: "a signed UserInfo answer", as: func(o *astestOptions) { o.SignedUserInfo = true },
				run: func(s *scenario) {
					accepted(s)
					if s.user()["nickname"] != "Nick of alice" {
						s.t.Errorf("the application sees %v", s.user())
					}
					s.see("`GET session` has nickname %v, of %d signed UserInfo answer", s.user()["nickname"], s.as.Count(astest.UserInfo))
				},
			},
		},
	}
}
