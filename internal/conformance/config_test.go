// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// configPlan covers MD-01, MD-03 and JW-10 from outside.
func configPlan() plan {
	return plan{
		name: "oidcc-client-config-certification-test-plan", title: "Config RP",
		needs:    "Needs `userinfo on`, as Basic RP does. Metadata and keys are found from `issuer` alone.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{
			{name: "oidcc-client-test-discovery-openid-config", sent: "what a good server sends", run: func(s *scenario) {
				accepted(s)
				requests := s.as.Requests(astest.Metadata)
				if len(requests) != 1 || requests[0].URL != "/.well-known/openid-configuration" || requests[0].Status != http.StatusOK {
					s.t.Errorf("%d requests for metadata", len(requests))
				}
				s.see("metadata from `%s`", requests[0].URL)
			}},
			{name: "oidcc-client-test-discovery-jwks-uri-keys", sent: "a `jwks_uri` that is in the metadata alone", as: func(o *astestOptions) {
				o.MetadataDoc = func(doc map[string]any) { doc["jwks_uri"] = doc["jwks_uri"].(string) + "?set=of-this-run" }
			}, run: func(s *scenario) {
				accepted(s)
				requests := s.as.Requests(astest.JWKS)
				if len(requests) != 1 || requests[0].URL != "/jwks?set=of-this-run" {
					s.t.Errorf("%d requests for keys, the first to %s", len(requests), requests[0].URL)
				}
				s.see("keys from `%s`", requests[0].URL)
			}},
			{name: "oidcc-client-test-discovery-issuer-mismatch", sent: "metadata with another `issuer`", run: issuerMismatch, as: otherIssuer},
			unsignedIDToken(),
			{name: "oidcc-client-test-signing-key-rotation-just-before-signing", sent: "a good login; in a second one the signing key changes between token request and signature", run: func(s *scenario) {
				s.loginAfterRotation(func() {
					s.as.Script(astest.Token, astest.Answer{OnRequest: func(astest.Request) { s.as.RotateKey("key-2", false) }})
				})
			}},
			{name: "oidcc-client-test-signing-key-rotation", sent: "a good login; then the signing key changes, and a second login", run: func(s *scenario) {
				s.loginAfterRotation(func() { s.as.RotateKey("key-2", false) })
			}},
		},
	}
}

func otherIssuer(o *astestOptions) {
	o.MetadataDoc = func(doc map[string]any) { doc["issuer"] = "https://other.example.com" }
}

// issuerMismatch: nothing is asked of such a server.
func issuerMismatch(s *scenario) {
	s.t.Helper()
	s.refusal(http.StatusBadGateway, "token_unavailable")
	s.asked(0, 0)
	for _, e := range []string{astest.PAR, astest.Authorize, astest.JWKS} {
		if n := s.as.Count(e); n != 0 {
			s.t.Errorf("%s: %d requests", e, n)
		}
	}
	s.counts(append([]string{astest.Metadata}, s.questions()...)...)
}

// loginAfterRotation signs in, and has another user sign in after the key changed.
func (s *scenario) loginAfterRotation(rotate func()) {
	s.t.Helper()
	s.signIn()
	before := s.as.Count(astest.JWKS)
	s.as.ForgetRequests()
	rotate()
	second := &browser{t: s.t, home: s.home}
	*s.browser, second = *second, s.browser
	way := s.login()
	user, _ := s.user()["sub"].(string)
	if user != "alice" || s.as.SigningKey().ID != "key-2" || before != 1 || s.as.Count(astest.JWKS) != 1 {
		s.t.Errorf("after the change: user %q, key %s, keys fetched %d and %d times: %v", user, s.as.SigningKey().ID, before, s.as.Count(astest.JWKS), s.reasons(0, answered))
	}
	if second.call(http.MethodGet, "/bff/session").json(s.t)["authenticated"] != true {
		s.t.Error("the first session is gone")
	}
	s.see("after the change: callback %d, signed in as %s", s.callback(way).StatusCode, user)
	s.counts(astest.JWKS, astest.Token, astest.UserInfo)
}
