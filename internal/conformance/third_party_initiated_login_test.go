// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"net/url"
)

// thirdPartyInitiatedLoginPlan covers AR-12 from outside.
func thirdPartyInitiatedLoginPlan() plan {
	return plan{
		name: "oidcc-client-test-3rd-party-init-login-test-plan", title: "Third-Party Initiated Login RP",
		needs:    "Needs `<site>/bff/login/initiate` registered as `initiate_login_uri`.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{{
			name: "oidcc-client-test-3rd-party-init-login", sent: "a page of the authorization server sends the browser to `initiate_login_uri` with `iss`", run: func(s *scenario) {
				way := s.clickAt(s.as.Issuer(), s.home+"/bff/login/initiate?"+url.Values{"iss": {s.as.Issuer()}, "target_link_uri": {s.home + "/after"}}.Encode())
				last := way[len(way)-1]
				user, _ := s.user()["sub"].(string)
				if user != "alice" || last.url.Path != "/after" || last.StatusCode != http.StatusOK {
					s.t.Errorf("session of %q, %d at %s", user, last.StatusCode, last.url.Path)
				}
				s.asked(1, 1)
				s.see("initiate %d; callback %d, signed in as %s at `%s`", way[0].StatusCode, s.callback(way).StatusCode, user, last.url.Path)
				s.counts(s.questions()...)
			},
		}},
	}
}
