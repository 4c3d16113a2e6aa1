// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
	"net/url"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// logout is one that the user begins in the application: the session here is over,
// and the browser goes to the end-session endpoint and back. meanwhile is called when
// it is there; landing is where the authorization server sends it back to, "" for
// where it should.
func (s *scenario) logout(meanwhile func(), landing string) []*page {
	s.t.Helper()
	target, _ := s.call(http.MethodPost, "/bff/logout").json(s.t)["logout_url"].(string)
	if target == "" || s.user() != nil {
		s.t.Fatalf("logout_url %q, session of %v", target, s.user())
	}
	answer := astest.Answer{OnRequest: func(astest.Request) {
		if meanwhile != nil {
			meanwhile()
		}
	}}
	if landing != "" {
		answer.Header = http.Header{"Location": {landing}}
	}
	s.as.Script(astest.EndSession, answer)
	way := s.clickAt(s.home, target)
	last := way[len(way)-1]
	if last.StatusCode != http.StatusOK || last.url.Path != "/" || s.user() != nil {
		s.t.Errorf("the browser ends at %d %s, session of %v", last.StatusCode, last.url.Path, s.user())
	}
	q := s.endSession()
	if q.Get("client_id") != "app" || q.Get("post_logout_redirect_uri") != s.home+"/bff/logout/callback" || q.Get("state") == "" {
		s.t.Errorf("end session: %v", q)
	}
	return way
}

// endSession is the one request to the end-session endpoint.
func (s *scenario) endSession() url.Values {
	s.t.Helper()
	requests := s.as.Requests(astest.EndSession)
	if len(requests) != 1 {
		s.t.Fatalf("%d end-session requests", len(requests))
	}
	if requests[0].Status != http.StatusFound {
		s.t.Errorf("the end-session endpoint answered %d", requests[0].Status)
	}
	return requests[0].Form
}

// sid is that of the latest login.
func (s *scenario) sid() string {
	all := s.as.SIDs("alice")
	return all[len(all)-1]
}

// logoutToken delivers one to the back-channel logout URI.
func (s *scenario) logoutToken(token string) astest.LogoutAnswer {
	s.t.Helper()
	a, err := astest.SendLogoutToken(s.t.Context(), overTLS, s.home+"/bff/backchannel", token)
	if err != nil {
		s.t.Fatal(err)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		s.t.Errorf("Cache-Control of the answer to a logout token is %q", a.Header.Get("Cache-Control"))
	}
	return a
}

// frontchannel is the front-channel logout URI as the authorization server's page has it.
func (s *scenario) frontchannel() string {
	return s.home + "/bff/frontchannel?" + url.Values{"iss": {s.as.Issuer()}, "sid": {s.sid()}}.Encode()
}
