// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// protocolSite is a site of the gateway with a client of its own.
type protocolSite struct {
	*bench
	server *protocolServer
	client string
	proofs *dpopServer // before the resource server, where tokens are bound to a key
}

// login signs the user in: by redirects, or by a form that the server's page posts.
func (s *protocolSite) login(t *testing.T, mode string) {
	t.Helper()
	s.arrive(t, s.navigate(t, "/bff/login?return_to="+url.QueryEscape("/orders?page=2"), mode))
}

// navigate goes to a page of the site, over the authorization server if need be.
func (s *protocolSite) navigate(t *testing.T, path, mode string) page {
	t.Helper()
	end := s.browser.navigate(t, s.origin+path)
	if strings.HasPrefix(mode, "form_post") && strings.HasPrefix(end.url.String(), s.server.Issuer) {
		end = s.browser.submit(t, end, "", "")
	}
	return end
}

func (s *protocolSite) arrive(t *testing.T, end page) {
	t.Helper()
	if end.status != http.StatusOK || end.url.String() != s.origin+"/orders?page=2" || end.body != "the application" {
		t.Fatalf("ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
}

// seen is what the server has seen of this client.
func (s *protocolSite) seen(t *testing.T) journal {
	t.Helper()
	return s.server.journal(t, s.client)
}

// waitFor waits until the server has seen something.
func (s *protocolSite) waitFor(t *testing.T, what string, is func(journal) bool) journal {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		seen := s.seen(t)
		if is(seen) {
			return seen
		}
		if time.Now().After(deadline) {
			t.Fatalf("the authorization server saw no %s: %s", what, seen)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// refresh makes calls until the gateway has refreshed by itself, and once more by
// POST refresh. Every call has to succeed, with every token.
func (s *protocolSite) refresh(t *testing.T) {
	t.Helper()
	s.callUntil(t, 2)
	before := len(s.seen(t).refreshes())
	var got struct {
		ExpiresIn *int `json:"access_token_expires_in"`
	}
	s.browser.json(t, http.MethodPost, "/bff/refresh", &got)
	if got.ExpiresIn == nil || *got.ExpiresIn < 1 {
		t.Errorf("refresh answered that the access token expires in %v", got.ExpiresIn)
	}
	s.callUntil(t, 3)
	refreshes := s.seen(t).refreshes()
	if len(refreshes) <= before {
		t.Errorf("%d refreshes, and no more by POST refresh", len(refreshes))
	}
	for _, v := range refreshes {
		if !v.Rotated {
			t.Error("a refresh token was not exchanged for another one")
		}
	}
	if reasons, _ := s.resourceServer.seen(); len(reasons) != 0 {
		t.Errorf("the resource server answered 401 %d times, first for %q", len(reasons), reasons[0])
	}
}

// callUntil makes calls until the resource server has seen so many access tokens.
func (s *protocolSite) callUntil(t *testing.T, generations int) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for s.resourceServer.generations() < generations {
		if time.Now().After(deadline) {
			t.Fatalf("the resource server saw %d access tokens, want %d: %s", s.resourceServer.generations(), generations, s.seen(t))
		}
		if err := s.call(t.Context(), http.MethodPost, []byte("an order")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// logout ends the session here, and then at the authorization server, which is to
// have seen the revocation of the refresh token and its own logout.
func (s *protocolSite) logout(t *testing.T) {
	t.Helper()
	var out struct {
		LogoutURL string `json:"logout_url"`
	}
	s.browser.json(t, http.MethodPost, "/bff/logout?return_to="+url.QueryEscape("/goodbye"), &out)
	end := s.browser.submit(t, s.browser.navigate(t, out.LogoutURL), "logout", "yes")
	if end.status != http.StatusOK || end.url.String() != s.origin+"/goodbye" {
		t.Fatalf("the logout ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
	s.waitFor(t, "revocation and logout", func(j journal) bool {
		return len(j.where(func(v visit) bool { return v.Route == "revocation" && v.Status == 200 && v.Hint == "refresh_token" })) > 0 &&
			len(j.route("end_session")) == 1
	})
	s.over(t, "")
}

// logoutAtServer signs the user out at the authorization server, which tells the
// gateway by back-channel.
func (s *protocolSite) logoutAtServer(t *testing.T) {
	t.Helper()
	end := s.browser.submit(t, s.browser.navigate(t, s.server.Issuer+"/session/end"), "logout", "yes")
	if end.status != http.StatusOK || !strings.HasPrefix(end.url.String(), s.server.Issuer+"/session/end/success") {
		t.Fatalf("the logout ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
	if told := s.seen(t).route("backchannel"); len(told) != 1 || told[0].Status != 200 {
		t.Errorf("by back-channel: %s", told)
	}
	s.over(t, "revoked")
}

// over checks that there is no session any more.
func (s *protocolSite) over(t *testing.T, reason string) {
	t.Helper()
	if is := s.session(t); is.Authenticated || reason != "" && is.Reason != reason {
		t.Errorf("after the end of the session: %+v", is)
	}
	if got, err := s.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil); err != nil || got.status != http.StatusUnauthorized {
		t.Errorf("after the end of the session: %v, %v", got, err)
	}
}

// String is for messages.
func (j journal) String() string {
	var b strings.Builder
	for _, v := range j {
		line, err := json.Marshal(v)
		fmt.Fprintf(&b, "\n%s%.0v", line, err)
	}
	return b.String()
}
