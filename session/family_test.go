// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// RF-01, RF-03: a hundred refreshes in a row with an authorization server that rotates
// strictly, each by the instance that did not make the one before, while both are
// asked: each token is used once, the next one is stored, and the family lives.
func TestAHundredRotations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		day := func(c *session.Config) { c.Lifetime, c.IdleTimeout = 24*time.Hour, 24*time.Hour }
		a, b := pair(t, astest.Options{Rotation: astest.RotateStrict, AccessTokenLifetime: 5 * time.Minute}, day)
		br := browser{}
		a.login(br)
		last := a.mustToken(br)
		for i := range 100 {
			time.Sleep(5 * time.Minute)
			first, second := a, b
			if i%2 == 1 {
				first, second = b, a
			}
			var tokens [2]string
			together(2, func(n int) {
				tokens[n] = []*bench{first, second}[n].mustToken(br)
			})
			if tokens[0] == last || tokens[0] != tokens[1] {
				t.Fatalf("refresh %d: two tokens, or an old one", i)
			}
			last = tokens[0]
		}
		a.refreshes(100)
		if third := newInstance(t, a.as, a.store, day); third.mustToken(br) != last {
			t.Error("an instance that was not there has another token")
		}
		a.refreshes(100)
	})
}

// CK-12, NS-03: a copied cookie is worth nothing from the moment of the logout, at
// whatever instance, also one that has just served it.
func TestCopiedCookieAfterLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		a.login(br)
		copied := maps.Clone(br)
		b.mustToken(copied) // b knows the session
		s, err := a.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, instance := range []*bench{b, a, newInstance(t, a.as, a.store)} {
			instance.ended(copied, session.ReasonLoggedOut)
		}
		a.refreshes(0)
	})
}
