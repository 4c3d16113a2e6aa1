// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

func introspecting(c *session.Config) { c.Validate = oauth.ValidateIntrospection }

// AT-07: an endpoint that is out of order costs nobody a session, and nobody gets by.
func TestIntrospectionThatFailsKeepsTheSession(t *testing.T) {
	for name, answer := range map[string]astest.Answer{
		"500":     {Status: http.StatusInternalServerError, Times: -1},
		"refused": {Status: http.StatusUnauthorized, Body: `{"error":"invalid_client"}`, Times: -1},
		"hangs":   {Hang: true, Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenType: "opaque"}, introspecting)
				br := browser{}
				b.login(br)
				first := b.mustToken(br)
				time.Sleep(31 * time.Second)
				b.as.Script(astest.Introspect, answer)
				_, err := b.token(br)
				if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
					t.Fatalf("error %v", err)
				}
				b.as.ClearScript(astest.Introspect)
				time.Sleep(2 * time.Second)
				if got := b.mustToken(br); got != first {
					t.Error("another token")
				}
				b.refreshes(0)
			})
		})
	}
}

// AT-06, AT-07, AT-08: a revoked token is found out within half a minute, and
// replaced by one refresh.
func TestRevokedTokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenType: "opaque"}, introspecting)
		br := browser{}
		b.login(br)
		first := b.mustToken(br)
		b.as.RevokeAccessToken(first)
		time.Sleep(30 * time.Second)
		got := make([]string, 20)
		together(20, func(i int) { got[i] = b.mustToken(br) })
		for _, token := range got {
			if token == first || token != got[0] {
				t.Fatal("not everybody got the new token")
			}
		}
		b.refreshes(1)
		if n := b.as.Count(astest.Introspect); n != 3 {
			t.Errorf("%d introspections", n)
		}
		if strings.Contains(b.log.String(), "judged by their expiry") {
			t.Error("the log says that nobody looks into the tokens")
		}
	})
}

// AT-06: a server of whose tokens none is active is not asked over and over.
func TestTokensThatAreNeverActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{
			AccessTokenType: "opaque", IntrospectionClaims: func(_ string, claims map[string]any) { claims["active"] = false },
		}, introspecting)
		br := browser{}
		b.login(br)
		for range 5 {
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatalf("error %v", err)
			}
		}
		b.refreshes(1)
	})
}

// A token is not judged while it is being refreshed: the server revokes it in that
// moment, before the new one has arrived.
func TestNoIntrospectionDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenType: "opaque", RevokeOnRefresh: true, AccessTokenLifetime: 5 * time.Minute}, introspecting)
		br := browser{}
		b.login(br)
		first := b.mustToken(br)
		time.Sleep(31 * time.Second)
		asked := b.as.Count(astest.Introspect)
		b.as.Script(astest.Token, astest.Answer{DelayReply: 3 * time.Second})
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		forced := make(chan error, 1)
		go func() { _, err := s.ForceRefresh(t.Context()); forced <- err }()
		time.Sleep(time.Second) // revoked, and nobody here knows
		began := time.Now()
		for range 3 {
			if got := b.mustToken(br); got == first {
				t.Error("the revoked token was given out")
			}
		}
		if waited := time.Since(began); waited != 2*time.Second {
			t.Errorf("waited %v", waited)
		}
		if err := <-forced; err != nil {
			t.Error(err)
		}
		b.refreshes(1)
		for _, r := range b.as.Requests(astest.Introspect)[asked:] {
			if r.Token == first {
				t.Error("the old token was asked about")
			}
		}
		// One whose refresh fails is judged by itself again.
		time.Sleep(31 * time.Second)
		b.as.Script(astest.Token, astest.Answer{Status: http.StatusServiceUnavailable, DelayReply: 0, Delay: 2 * time.Second})
		go func() { _, err := s.ForceRefresh(t.Context()); forced <- err }()
		time.Sleep(time.Second)
		b.mustToken(br)
		<-forced
	})
}

func TestBearer(t *testing.T) { // AT-07: the token of a client without a session
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenType: "opaque"}, introspecting)
		raw := b.as.Issue("bob", "openid read", "").AccessToken
		bearer, err := b.m.Bearer(t.Context(), oauth.Secret(raw), nil)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := bearer.Token(t.Context()); token != raw || err != nil {
			t.Errorf("token %q, error %v", token, err)
		}
		if _, err := bearer.Refresh(t.Context(), raw); !errors.Is(err, session.ErrTokenUnavailable) {
			t.Errorf("refresh: %v", err)
		}
		if bearer.Subject() != "bob" || fmt.Sprint(bearer.Claims()["scope"], bearer.Scope()) != "[openid read] [openid read]" {
			t.Errorf("%s, %v", bearer.Subject(), bearer.Claims())
		}
		text, err := bearer.MarshalJSON()
		if printed := fmt.Sprintf("%v %+v %#v %s", bearer, *bearer, bearer, text); strings.Contains(printed, raw) || err != nil {
			t.Errorf("printed: %s", printed)
		}
		if _, err := b.m.Bearer(t.Context(), "made-up", nil); !errors.Is(err, oauth.ErrAccessToken) {
			t.Errorf("made up: %v", err)
		}
		b.as.Script(astest.Introspect, astest.Answer{Status: http.StatusServiceUnavailable})
		_, err = b.m.Bearer(t.Context(), "another", nil)
		if _, ok := errors.AsType[*session.UnavailableError](err); !ok {
			t.Errorf("outage: %v", err)
		}
		if _, err := b.m.Bearer(t.Context(), oauth.Secret(raw), &session.Purpose{Resource: []string{"https://other.test"}}); !errors.Is(err, oauth.ErrAccessToken) {
			t.Errorf("for another upstream: %v", err)
		}
	})
}
