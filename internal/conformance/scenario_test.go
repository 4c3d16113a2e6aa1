// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// astestOptions shortens the modules.
type astestOptions = astest.Options

// scenario is a gateway, a browser, and what was seen of both.
type scenario struct {
	*gateway
	*browser
	t    *testing.T
	set  setting
	seen []string
}

func begin(t *testing.T, set setting) *scenario {
	t.Helper()
	g := start(t, set)
	return &scenario{gateway: g, browser: &browser{t: t, home: g.origin}, t: t, set: set}
}

// see notes something for the document.
func (s *scenario) see(format string, args ...any) {
	s.seen = append(s.seen, fmt.Sprintf(format, args...))
}

// because notes the reason that operators find in the log, under a message, for what
// was refused just now: after so many bytes of it.
func (s *scenario) because(since int, message string) {
	s.t.Helper()
	for range 500 {
		if list := s.reasons(since, message); len(list) > 0 {
			s.see("log: %s", list[0])
			return
		}
		time.Sleep(10 * time.Millisecond) // the answer may be here before the line is
	}
	s.t.Error("nothing in the log says why")
}

// login signs in as a user would, from the link of the application to the page that
// is shown at the end.
func (s *scenario) login() []*page {
	s.t.Helper()
	return s.clickAt(s.home, s.home+"/bff/login?return_to=/after")
}

// user is whom GET session names; "" for nobody.
func (s *scenario) user() map[string]any {
	s.t.Helper()
	user, _ := s.call(http.MethodGet, "/bff/session").json(s.t)["user"].(map[string]any)
	return user
}

// counts notes how often the authorization server was asked for what matters, and
// how often the resource server.
func (s *scenario) counts(endpoints ...string) {
	s.t.Helper()
	names := map[string]string{
		astest.Metadata: "metadata", astest.JWKS: "keys", astest.PAR: "pushed request", astest.Authorize: "authorization", astest.Token: "token",
		astest.UserInfo: "UserInfo", astest.EndSession: "end session",
	}
	var list []string
	for _, e := range endpoints {
		list = append(list, fmt.Sprintf("%s %d", names[e], s.as.Count(e)))
	}
	s.see("requests: %s, resource %d", strings.Join(list, ", "), len(s.rs.Requests()))
}

// questions are the endpoints that counts names for this scenario.
func (s *scenario) questions() []string {
	var list []string
	if s.set.as.PAR || s.set.as.RequirePAR {
		list = append(list, astest.PAR)
	}
	list = append(list, astest.Authorize, astest.Token)
	if s.callsUserInfo() {
		list = append(list, astest.UserInfo)
	}
	return list
}

// callback is the answer of the redirection endpoint, the last if there were more.
func (s *scenario) callback(way []*page) *page {
	s.t.Helper()
	for _, p := range slices.Backward(way) {
		if p.url.Path == "/bff/callback" {
			return p
		}
	}
	s.t.Fatalf("the browser never came to the callback, but to %s: %v", way[len(way)-1].url.Path, s.reasons(0, answered))
	return nil
}

// signIn: the user is signed in and comes to where he wanted, what is behind the
// gateway can be used, and the authorization server was asked as often as it should.
func (s *scenario) signIn() {
	s.t.Helper()
	way := s.login()
	last := way[len(way)-1]
	user, _ := s.user()["sub"].(string)
	if user != "alice" || last.StatusCode != http.StatusOK || last.url.Path != "/after" {
		s.t.Errorf("not signed in: %d %s at %s: %v", last.StatusCode, last.code(), last.url.Path, s.reasons(0, answered))
	}
	s.see("callback %d, signed in as %s", s.callback(way).StatusCode, user)
	s.useAPI(http.StatusOK)
	s.asked(1, 1)
}

// accepted is signIn as the question of a module.
func accepted(s *scenario) {
	s.t.Helper()
	s.signIn()
	s.counts(s.questions()...)
}

// useAPI calls what is behind the gateway.
func (s *scenario) useAPI(status int) {
	s.t.Helper()
	before := len(s.rs.Requests())
	p := s.call(http.MethodGet, "/api/orders")
	if p.StatusCode != status {
		s.t.Errorf("the resource server's answer: %d %s, want %d", p.StatusCode, p.code(), status)
	}
	if reached := len(s.rs.Requests()) > before; reached != (status == http.StatusOK) {
		s.t.Errorf("answered %d %s, and the resource server was reached: %v", p.StatusCode, p.code(), reached)
	}
}

// callsUserInfo says whether the gateway is configured to.
func (s *scenario) callsUserInfo() bool { return strings.Contains(s.set.bff, "userinfo on") }

// asked checks the number of token and of UserInfo requests; the latter only where
// the gateway is to make any.
func (s *scenario) asked(token, userInfo int) {
	s.t.Helper()
	if !s.callsUserInfo() {
		userInfo = 0
	}
	if n := s.as.Count(astest.Token); n != token {
		s.t.Errorf("%d token requests, want %d", n, token)
	}
	if n := s.as.Count(astest.UserInfo); n != userInfo {
		s.t.Errorf("%d UserInfo requests, want %d", n, userInfo)
	}
}

// refused: the ID token is not taken. Nobody is signed in, nothing more is asked of
// the authorization server, and nothing reaches the resource server.
func refused(s *scenario) {
	s.t.Helper()
	s.refusal(http.StatusBadGateway, "token_unavailable")
	s.asked(1, 0)
	s.counts(s.questions()...)
}

// stopped: the authorization response is not taken, and its code is never sent.
func stopped(s *scenario) {
	s.t.Helper()
	s.refusal(http.StatusBadRequest, "login_state_invalid")
	s.asked(0, 0)
	s.counts(s.questions()...)
}

// refusal is a login that ends with an error page.
func (s *scenario) refusal(status int, code string) {
	s.t.Helper()
	since := len(s.log())
	way := s.login()
	last := way[len(way)-1]
	if last.StatusCode != status || last.code() != code {
		s.t.Errorf("answered %d %s, want %d %s: %v", last.StatusCode, last.code(), status, code, s.reasons(since, answered))
	}
	signedIn := "nobody is signed in"
	if user := s.user(); user != nil {
		signedIn = fmt.Sprintf("signed in as %v", user["sub"])
		s.t.Error(signedIn)
	}
	s.see("%s %d `%s`, %s", strings.TrimPrefix(last.url.Path, "/bff/"), last.StatusCode, last.code(), signedIn)
	s.because(since, answered)
	s.useAPI(http.StatusUnauthorized)
	if n := len(s.rs.Requests()); n != 0 {
		s.t.Errorf("%d requests reached the resource server", n)
	}
}
