// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// rpInitiatedLogoutPlan covers LO-01 and LO-03 from outside.
func rpInitiatedLogoutPlan() plan {
	return plan{
		name: "oidcc-client-rp-initiated-logout-rp-basic", title: "RP-Initiated Logout RP",
		needs: "Needs `logout { id_token_hint on }` (`auto` sends one too, unless the server is known to take `logout_hint`), and `<site>/bff/logout/callback` registered as post-logout redirect URI.",
		variants: []variant{{setting: func() setting {
			set := basicSetting()
			set.bff += "\nlogout {\nid_token_hint on\nfrontchannel on\n}"
			return set
		}}},
		modules: []module{
			{name: "oidcc-client-test-rp-init-logout", sent: "what a good server sends; while the browser is there, logout by back-channel and by front-channel too", run: func(s *scenario) {
				s.signIn()
				var back astest.LogoutAnswer
				var front *page
				way := s.logout(func() {
					back = s.logoutToken(s.as.LogoutToken("alice", s.sid(), nil))
					front = s.frame(s.frontchannel())
				}, "")
				if back.Status != http.StatusOK || front.StatusCode != http.StatusOK {
					s.t.Errorf("back-channel %d, front-channel %d", back.Status, front.StatusCode)
				}
				s.landed(way)
				s.see("back-channel %d, front-channel %d", back.Status, front.StatusCode)
			}},
			{name: "oidcc-client-test-rp-init-logout-other-state", sent: "the browser comes back with another `state`", run: func(s *scenario) {
				s.signIn()
				s.landed(s.logout(nil, s.home+"/bff/logout/callback?state=another"))
			}},
			{name: "oidcc-client-test-rp-init-logout-no-state", sent: "the browser comes back without `state`", run: func(s *scenario) {
				s.signIn()
				s.landed(s.logout(nil, s.home+"/bff/logout/callback"))
			}},
		},
	}
}

// landed looks at a logout with an ID token as hint.
func (s *scenario) landed(way []*page) {
	s.t.Helper()
	q := s.endSession()
	hint := "none"
	if raw := q.Get("id_token_hint"); raw != "" {
		if _, claims := parts(raw); claims["sid"] == s.sid() && claims["sub"] == "alice" {
			hint = "that of the login"
		}
	}
	if hint != "that of the login" {
		s.t.Errorf("id_token_hint: %s", hint)
	}
	s.see("`id_token_hint` is %s, `state` is sent; `%s` %d to `%s`, the session is over", hint, way[1].url.Path, way[1].StatusCode, way[2].url.Path)
	s.counts(astest.Token, astest.UserInfo, astest.EndSession)
}
