// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// revoked gives the requests to revoke a type of token.
func (b *bench) revoked(tokenType string) (list []astest.Request) {
	for _, r := range b.as.Requests(astest.Revoke) {
		if r.Form.Get("token_type_hint") == tokenType {
			list = append(list, r)
		}
	}
	return list
}

// LO-05: the end of a session revokes its refresh token, and then the access tokens
// that have not expired, those for one upstream too.
func TestEndRevokesAllTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		s := b.login(browser{})
		narrow, err := s.For(orders).Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		byDefault, err := s.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		all := b.as.Requests(astest.Revoke)
		if len(all) != 3 || all[0].Form.Get("token_type_hint") != "refresh_token" || all[1].Token != byDefault || all[2].Token != narrow {
			t.Errorf("%d revocations: %+v", len(all), all)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		s := b.login(browser{})
		time.Sleep(time.Minute)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := len(b.revoked("access_token")); n != 0 {
			t.Errorf("%d access tokens were revoked that had expired", n)
		}
	})
}

// LO-06, LO-07: who cannot revoke now is asked again, when it says so; a kind of
// token that is not revoked is no error; and no logout waits for any of it.
func TestRevocationIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		s := b.login(browser{})
		b.as.Script(astest.Revoke,
			astest.Answer{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"20"}}},
			astest.OAuthError(http.StatusBadRequest, "unsupported_token_type"),
		)
		began := time.Now()
		if _, err := s.Logout(t.Context()); err != nil || time.Since(began) > 0 {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		time.Sleep(19 * time.Second)
		if n := b.as.Count(astest.Revoke); n != 1 {
			t.Errorf("%d requests before the moment that the server named", n)
		}
		time.Sleep(2 * time.Second)
		if refresh, access := b.revoked("refresh_token"), b.revoked("access_token"); len(refresh) != 2 || len(access) != 1 {
			t.Errorf("%d and %d requests", len(refresh), len(access))
		}
	})
}

// CONTRACT `revoke off`: nothing is revoked.
func TestKeepTokensAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{}, func(c *session.Config) { c.KeepTokensAtEnd = true })
		if _, err := b.login(browser{}).Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := b.as.Count(astest.Revoke); n != 0 {
			t.Errorf("%d revocations", n)
		}
	})
}
