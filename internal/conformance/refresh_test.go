// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// refreshPlan covers RF-01, RF-09 and ID-18 from outside.
func refreshPlan() plan {
	return plan{
		name: "oidcc-client-refreshtoken-test-plan", title: "Refresh tokens",
		needs:    "Needs `userinfo on`. The plan leads to no certification. The refresh is one that a script asks for by `POST refresh`.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{
			{name: "oidcc-client-test-refresh-token", sent: "a refresh is answered with a new refresh token and a new ID token", run: func(s *scenario) {
				s.signIn()
				s.as.ForgetRequests()
				p := s.call(http.MethodPost, "/bff/refresh")
				s.useAPI(http.StatusOK)
				requests := s.as.RefreshRequests()
				if p.StatusCode != http.StatusOK || len(requests) != 1 || s.as.Count(astest.UserInfo) != 1 || s.as.RefreshTokenLive(requests[0].Token) {
					s.t.Fatalf("%d %s, %d refreshes, %d UserInfo requests", p.StatusCode, p.body, len(requests), s.as.Count(astest.UserInfo))
				}
				fresh := strings.TrimPrefix(s.as.Requests(astest.UserInfo)[0].Header.Get("Authorization"), "Bearer ")
				resource := s.rs.Requests()
				if resource[0].Token == fresh || resource[1].Token != fresh {
					s.t.Error("the new access token is not the one in use")
				}
				granted := strings.Fields(s.as.Scope(resource[0].Token))
				for _, scope := range strings.Fields(requests[0].Form.Get("scope")) {
					if !slices.Contains(granted, scope) {
						s.t.Errorf("scope %s was never granted", scope)
					}
				}
				s.see("`POST refresh` %d; UserInfo and the resource server are called with the new access token", p.StatusCode)
				s.counts(astest.Token, astest.UserInfo)
			}},
			{
				name: "oidcc-client-test-refresh-token-invalid-issuer", sent: "the refreshed ID token has another `iss`", run: refreshRefused,
				as: refreshedIDTokenClaims(func(c map[string]any) { c["iss"] = "https://other.example.com" }),
			},
			{
				name: "oidcc-client-test-refresh-token-invalid-sub", sent: "the refreshed ID token has another `sub`", run: refreshRefused,
				as: refreshedIDTokenClaims(func(c map[string]any) { c["sub"] = "mallory" }),
			},
		},
	}
}

// refreshRefused: the new tokens are used for nothing.
func refreshRefused(s *scenario) {
	s.t.Helper()
	s.signIn()
	s.as.ForgetRequests()
	since := len(s.log())
	p := s.call(http.MethodPost, "/bff/refresh")
	s.useAPI(http.StatusUnauthorized)
	if p.StatusCode != http.StatusUnauthorized || s.user() != nil || len(s.as.RefreshRequests()) != 1 || s.as.Count(astest.UserInfo) != 0 || len(s.rs.Requests()) != 1 {
		s.t.Errorf("%d %s, session of %v, %d UserInfo requests, %d calls", p.StatusCode, p.body, s.user(), s.as.Count(astest.UserInfo), len(s.rs.Requests()))
	}
	s.see("`POST refresh` %d `%s`, the session is over, reason `%v`", p.StatusCode, p.code(), s.call(http.MethodGet, "/bff/session").json(s.t)["reason"])
	s.because(since, "refreshed tokens are of no use; the session ends")
	s.counts(astest.Token, astest.UserInfo)
}
