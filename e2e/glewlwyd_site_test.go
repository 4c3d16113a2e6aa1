// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// glewlwydSite is a site of the gateway with a client of its own.
type glewlwydSite struct {
	*bench
	server *glewlwyd
	client string
	proofs *dpopServer // before the resource server, where tokens are bound to a key
}

// login signs the user in. The server's own page for that is a program; all that
// it does for a user who is signed in and has granted everything is to go on.
func (s *glewlwydSite) login(t *testing.T) {
	t.Helper()
	s.server.signIn(t, s.browser, "alice", glewlwydPassword)
	end := s.browser.navigate(t, s.origin+"/bff/login?force=true&return_to=/orders")
	if end.url.Path != "/login.html" {
		t.Fatalf("the login began at %s with %d:\n%s", end.url, end.status, end.body)
	}
	end = s.browser.navigate(t, end.url.Query().Get("callback_url")+"&g_continue")
	if strings.HasPrefix(end.url.String(), s.server.issuer) { // form_post
		end = s.browser.submit(t, end, "", "")
	}
	if end.status != http.StatusOK || end.url.String() != s.origin+"/orders" || end.body != "the application" {
		t.Fatalf("the login ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
	is := s.session(t)
	sub, _ := is.User["sub"].(string)
	if !is.Authenticated || sub == "" || is.User["name"] != "Alice" {
		t.Fatalf("after the login: %+v", is)
	}
	s.subject = sub // which the server has made up
}

// refreshes counts those that succeeded; more must not have been tried.
func (s *glewlwydSite) refreshes(t *testing.T) int {
	t.Helper()
	n := s.server.seen(s.client, "token", "refresh_token")
	for _, e := range n {
		if e.status != http.StatusOK || e.member("refresh_token") == "" || e.member("refresh_token") == e.form.Get("refresh_token") {
			t.Fatalf("a refresh was answered with %d %s", e.status, e.answer)
		}
	}
	return len(n)
}

// revoked waits until none of the refresh tokens is good any more.
func (s *glewlwydSite) revoked(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, enabled := s.server.refreshTokens(t, s.client)
		if enabled == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d refresh tokens are enabled", enabled)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// burst makes calls at once.
func (s *glewlwydSite) burst(t *testing.T, calls int) {
	t.Helper()
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if err := s.call(t.Context(), http.MethodGet, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// run is the life of one session: login, a refresh ahead of the expiry, one after it
// that twenty requests wait for, and the end.
func (s *glewlwydSite) run(t *testing.T, c glewlwydCase, life time.Duration) {
	s.login(t)
	if err := s.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * life); s.resourceServer.generations() < 2; time.Sleep(50 * time.Millisecond) {
		if err := s.call(t.Context(), http.MethodPost, []byte("an order")); err != nil || time.Now().After(deadline) {
			t.Fatal("no refresh: ", err)
		}
	}
	before := s.refreshes(t)
	time.Sleep(life + 100*time.Millisecond)
	s.burst(t, 20)
	if n := s.refreshes(t); n != before+1 {
		t.Errorf("twenty requests with an expired token made %d refreshes", n-before)
	}
	// By the database of the server each refresh made a new token, and none but the
	// last is good.
	if all, enabled := s.server.refreshTokens(t, s.client); all != 1+s.refreshes(t) || enabled != 1 {
		t.Errorf("%d refresh tokens, %d of them enabled, after %d refreshes", all, enabled, s.refreshes(t))
	}
	if codes := s.server.seen(s.client, "token", "authorization_code"); len(codes) != 1 || codes[0].form.Get("code_verifier") == "" {
		t.Errorf("%d codes were exchanged", len(codes))
	}
	if reasons, forbidden := s.resourceServer.seen(); len(reasons)+len(forbidden) != 0 {
		t.Errorf("the resource server answered 401 for %q, and was sent %q", reasons, forbidden)
	}
	c.saw(t, s)
	c.end(s, t)
}

// pushed checks that the browser carried a reference alone.
func (s *glewlwydSite) pushed(t *testing.T, signed bool) {
	t.Helper()
	pushes := s.server.seen(s.client, "par", "")
	if len(pushes) != 1 || pushes[0].status != http.StatusCreated || pushes[0].form.Has("request") != signed || pushes[0].form.Has("code_challenge") == signed {
		t.Errorf("pushed: %+v", pushes)
	}
	for _, e := range s.server.seen(s.client, "auth", "") {
		e.form.Del("g_continue") // of the server's own page
		if len(e.form) != 2 || !e.form.Has("request_uri") {
			t.Errorf("the browser carried %v", e.form)
		}
	}
}

// logout ends the session here; the server is told to revoke the refresh token, and
// its own session ends when the user says so.
func (s *glewlwydSite) logout(t *testing.T) {
	var out struct {
		LogoutURL string `json:"logout_url"`
	}
	s.browser.json(t, http.MethodPost, "/bff/logout?return_to=/goodbye", &out)
	s.revoked(t)
	for _, e := range s.server.seen(s.client, "revoke", "") {
		if e.status != http.StatusOK {
			t.Errorf("a revocation was answered with %d %s", e.status, e.answer)
		}
	}
	end := s.browser.navigate(t, out.LogoutURL)
	if end.url.Path != "/login.html" || end.url.Query().Get("prompt") != "end_session" {
		t.Errorf("the logout led to %s", end.url)
	}
	s.over(t, "")
}

// over checks that there is no session any more.
func (s *glewlwydSite) over(t *testing.T, reason string) {
	t.Helper()
	if is := s.session(t); is.Authenticated || reason != "" && is.Reason != reason {
		t.Errorf("after the end of the session: %+v", is)
	}
	if got, err := s.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil); err != nil || got.status != http.StatusUnauthorized {
		t.Errorf("after the end of the session: %v, %v", got, err)
	}
}

// logoutUnrevoked is a logout of a client that the server does not let revoke.
func (s *glewlwydSite) logoutUnrevoked(t *testing.T) {
	s.browser.json(t, http.MethodPost, "/bff/logout", new(any))
	s.over(t, "")
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if tried := s.server.seen(s.client, "revoke", ""); len(tried) > 0 {
			if tried[0].status != http.StatusUnauthorized {
				t.Errorf("a revocation was answered with %d", tried[0].status)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was to be revoked")
		}
	}
}

// steal uses a refresh token that the gateway has used before: the server ends the
// family. To the gateway's next refresh it answers 400 and not one word, which could
// mean anything: the session is kept, and a new login mends it.
func (s *glewlwydSite) steal(t *testing.T) {
	old := s.server.seen(s.client, "token", "refresh_token")[0].form
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.server.issuer+"/token", strings.NewReader(old.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(s.client, clientSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Fatalf("a refresh token that was used before: %s", res.Status)
	}
	s.revoked(t)
	id := s.session(t).Session.ID
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, err := s.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.status == http.StatusBadGateway && got.header.Get("X-BFF-Error") == "token_unavailable" {
			break
		}
		// The last call with the old token may come to the resource server just too late.
		tooLate := got.status == http.StatusUnauthorized && got.header.Get("X-BFF-Error") == ""
		if got.status != http.StatusOK && !tooLate || time.Now().After(deadline) {
			t.Fatalf("with a grant that was revoked: %s", got)
		}
	}
	if is := s.session(t); !is.Authenticated || is.Session.ID != id {
		t.Errorf("a refresh that was answered with 400 alone ended the session: %+v", is)
	}
	s.login(t)
	if is := s.session(t); is.Session.ID == id {
		t.Error("the login made no new session")
	}
	if err := s.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Error(err)
	}
}
