// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import "net/http"

// frontChannelSetting has what is off by default.
func frontChannelSetting() setting {
	set := basicSetting()
	set.bff += "\nlogout {\nfrontchannel on\n}"
	return set
}

// frontChannelLogoutPlan covers LO-19 and LO-20 from outside.
func frontChannelLogoutPlan() plan {
	return plan{
		name: "oidcc-client-front-channel-logout-rp-basic", title: "Front-Channel Logout RP",
		needs:    "Needs `logout { frontchannel on }`, and `<site>/bff/frontchannel` registered as `frontchannel_logout_uri` with `frontchannel_logout_session_required`. There is no cookie in a frame of another site: the session is found by `iss` and `sid`.",
		variants: []variant{{setting: frontChannelSetting}},
		modules: []module{{
			name: "oidcc-client-test-rp-frontchannel-rpinitlogout", sent: "while the browser is at the end-session endpoint, a frame loads the logout URI with `iss` and `sid`", run: func(s *scenario) {
				s.signIn()
				var front *page
				way := s.logout(func() { front = s.frame(s.frontchannel()) }, "")
				if front.StatusCode != http.StatusOK {
					s.t.Errorf("the frame shows %d", front.StatusCode)
				}
				s.see("frame %d; `%s` %d to `%s`, the session is over", front.StatusCode, way[1].url.Path, way[1].StatusCode, way[2].url.Path)
			},
		}},
	}
}

// begunByTheServer is the module that no plan has.
func begunByTheServer() module {
	return module{
		name: "oidcc-client-test-rp-frontchannel-opinitlogout", sent: "the user signs out at the authorization server, whose page loads the logout URI with `iss` and `sid` in a frame",
		bff: "logout {\nfrontchannel on\n}", run: func(s *scenario) {
			s.signIn()
			front := s.frame(s.frontchannel())
			if front.StatusCode != http.StatusOK || s.user() != nil {
				s.t.Errorf("the frame shows %d, session of %v", front.StatusCode, s.user())
			}
			s.useAPI(http.StatusUnauthorized)
			s.see("frame %d, the session is over, reason `%v`", front.StatusCode, s.call(http.MethodGet, "/bff/session").json(s.t)["reason"])
		},
	}
}
