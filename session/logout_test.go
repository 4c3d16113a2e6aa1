// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// LO-01, LO-03.
func TestLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		ended, err := s.Logout(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.ended(br, session.ReasonLoggedOut)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Errorf("twice: %v", err)
		}
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 1 {
			t.Errorf("%d revocations", n)
		}
		start, err := b.m.StartLogout(t.Context(), b.site, session.StartLogoutRequest{Ended: ended, RedirectURI: origin + "/bff/logout/callback", ReturnTo: "/bye"})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(start.URL)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if q.Get("client_id") != "app" || q.Get("post_logout_redirect_uri") != origin+"/bff/logout/callback" || q.Get("id_token_hint") == "" {
			t.Errorf("end-session request %v", q)
		}
		br.take(start.Cookies)
		if _, _, ok := b.m.FinishLogout(t.Context(), b.site, br.request(), "other"); ok {
			t.Error("another state was taken")
		}
		if _, _, ok := b.m.FinishLogout(t.Context(), b.site, browser{}.request(), q.Get("state")); ok {
			t.Error("another browser was taken")
		}
		to, cookies, ok := b.m.FinishLogout(t.Context(), b.site, br.request(), q.Get("state"))
		br.take(cookies)
		if !ok || to != "/bye" || br.logins() != 0 {
			t.Errorf("back: %q, %v, %v", to, ok, br)
		}
	})
}

// LO-01, LO-02, CONTRACT section 5: the ID token is in the URL only where the
// server may insist on it, or the configuration does.
func TestLogoutHint(t *testing.T) {
	filler := strings.Repeat("x", 3000)
	const auth0, entra = "shop.eu.auth0.com", "login.microsoftonline.com"
	for name, tc := range map[string]struct {
		host   string
		hint   session.IDTokenHint
		claims map[string]any
		want   string // logout_hint; empty: the ID token
	}{
		"auto":                        {want: ""},
		"auto, large":                 {claims: map[string]any{"filler": filler}, want: "alice"},
		"auto, hint is the sid":       {host: auth0, claims: map[string]any{"sid": "s-1"}, want: "s-1"},
		"auto, no sid":                {host: auth0, claims: map[string]any{"sid": nil}, want: ""},
		"auto, no sid, large":         {host: auth0, claims: map[string]any{"sid": nil, "filler": filler}, want: "alice"},
		"auto, hint is login_hint":    {host: entra, claims: map[string]any{"login_hint": "O.CiQ"}, want: "O.CiQ"},
		"auto, login_hint not a text": {host: entra, claims: map[string]any{"login_hint": 7}, want: ""},
		"auto, no login_hint":         {host: entra, want: ""},
		"on, large":                   {hint: session.IDTokenHintOn, claims: map[string]any{"filler": filler}, want: ""},
		"on, hint is known":           {host: auth0, hint: session.IDTokenHintOn, claims: map[string]any{"sid": "s-1"}, want: ""},
		"off":                         {hint: session.IDTokenHintOff, want: "alice"},
		"off, hint is known":          {host: auth0, hint: session.IDTokenHintOff, claims: map[string]any{"sid": "s-1"}, want: "s-1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, astest.Options{Host: tc.host, Claims: tc.claims}, func(c *session.Config) { c.IDTokenHint = tc.hint })
			ended, err := b.login(browser{}).Logout(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			start, err := b.m.StartLogout(t.Context(), b.site, session.StartLogoutRequest{Ended: ended})
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(start.URL)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			if q.Get("client_id") != "app" || q.Get("logout_hint") != tc.want || q.Has("id_token_hint") != (tc.want == "") {
				t.Errorf("%v", q)
			}
		})
	}
}

func TestLogoutProof(t *testing.T) {
	b := newBench(t, astest.Options{})
	one, two := b.login(browser{}), b.login(browser{})
	if !one.CheckLogoutProof(one.LogoutProof()) || one.CheckLogoutProof(two.LogoutProof()) || one.CheckLogoutProof("") || one.CheckLogoutProof(one.ID()) {
		t.Error("the proof proves nothing")
	}
}
