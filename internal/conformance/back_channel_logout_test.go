// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// backChannelLogoutPlan covers LO-08 to LO-11, LO-14 and LO-15 from outside.
func backChannelLogoutPlan() plan {
	const name = "oidcc-client-test-rp-backchannel-rpinitlogout"
	claims := func(change map[string]any) func(*scenario) string {
		return func(s *scenario) string { return s.as.LogoutToken("alice", s.sid(), change) }
	}
	otherAlgorithm := func(s *scenario) string {
		key := *s.as.SigningKey() // the same key pair
		key.Algorithm = "RS512"
		return key.Sign(key.Header("logout+jwt"), s.as.LogoutClaims("alice", s.sid()))
	}
	return plan{
		name: "oidcc-client-back-channel-logout-rp-basic", title: "Back-Channel Logout RP",
		needs: "Needs `<site>/bff/backchannel` registered as `backchannel_logout_uri`. As in the suite, each logout token comes while the browser is at the end-session endpoint, " +
			"so that the session is over already; then once more, another one alike, while a session lives.",
		variants: []variant{{setting: basicSetting}},
		modules: []module{
			{name: name, sent: "a good logout token", run: loggedOutBy(claims(nil), http.StatusOK)},
			{name: name + "-alg-none", sent: "logout token with `alg` none", run: loggedOutBy(func(s *scenario) string { return unsigned(s.as.LogoutToken("alice", s.sid(), nil)) }, http.StatusBadRequest)},
			{name: name + "-wrong-alg", sent: "logout token signed with RS512 where RS256 is registered", run: loggedOutBy(otherAlgorithm, http.StatusBadRequest)},
			{name: name + "-no-event", sent: "logout token without `events`", run: loggedOutBy(claims(map[string]any{"events": nil}), http.StatusBadRequest)},
			{name: name + "-wrong-event", sent: "logout token whose `events` has another member", run: loggedOutBy(claims(map[string]any{
				"events": map[string]any{"http://schemas.openid.net/event/other": map[string]any{}},
			}), http.StatusBadRequest)},
			{name: name + "-with-nonce", sent: "logout token with `nonce`", run: loggedOutBy(claims(map[string]any{"nonce": "n"}), http.StatusBadRequest)},
			{name: name + "-wrong-aud", sent: "logout token whose `aud` is another client", run: loggedOutBy(claims(map[string]any{"aud": "another"}), http.StatusBadRequest)},
			{name: name + "-wrong-iss", sent: "logout token with another `iss`", run: loggedOutBy(claims(map[string]any{"iss": "https://other.example.com"}), http.StatusBadRequest)},
		},
	}
}

// loggedOutBy delivers a logout token after a logout, and one during a session.
func loggedOutBy(token func(*scenario) string, status int) func(*scenario) {
	return func(s *scenario) {
		s.t.Helper()
		s.signIn()
		var over astest.LogoutAnswer
		s.logout(func() { over = s.logoutToken(token(s)) }, "")
		s.login()
		since := len(s.log())
		live := s.logoutToken(token(s))
		if over.Status != status || live.Status != status {
			s.t.Errorf("answered %d and %d, want %d: %s", over.Status, live.Status, status, live.Body)
		}
		ends := "the session ends"
		if s.user() != nil {
			ends = "the session lives on"
			s.useAPI(http.StatusOK)
		} else {
			s.useAPI(http.StatusUnauthorized)
		}
		if (ends == "the session ends") != (status == http.StatusOK) {
			s.t.Error(ends)
		}
		s.see("after the logout %d; during a session %d, %s", over.Status, live.Status, ends)
		if status != http.StatusOK {
			s.because(since, answered)
		}
	}
}
