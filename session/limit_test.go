// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// H104, D110: one user's logins end that user's idlest sessions, and nobody
// else's; what those held is revoked when their cookies are seen again.
func TestSessionsOfAUserAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.MaxPerUser = 5 })
		b.as.Configure(func(o *astest.Options) { o.User = "bob" })
		bob := browser{}
		b.login(bob)
		b.as.Configure(func(o *astest.Options) { o.User = "alice" })
		var all []browser
		for range 5 {
			br := browser{}
			b.login(br)
			all = append(all, br)
			time.Sleep(2 * time.Minute)
		}
		// The first is used again, so it is not the idlest any more.
		if err := mustOpen(t, b, all[0]).Extend(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.login(browser{})
		for i, br := range all {
			if i == 1 {
				b.ended(br, session.ReasonLimit)
			} else {
				b.mustToken(br)
			}
		}
		for range 20 {
			last := browser{}
			b.login(last)
			b.mustToken(last)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 1 {
			t.Errorf("%d revocations; one cookie was seen", n)
		}
		for range 2 {
			for _, br := range all {
				b.ended(br, session.ReasonLimit)
			}
			time.Sleep(time.Second)
		}
		revoked := b.revoked("refresh_token")
		for _, r := range revoked {
			if b.as.RefreshTokenLive(r.Token) {
				t.Error("a refresh token is alive")
			}
		}
		if len(revoked) != len(all) {
			t.Errorf("%d revocations, want one for each cookie that was seen", len(revoked))
		}
		b.mustToken(bob)
	})
}

// H104: a thousand logins of one user leave fifty sessions; each end is counted.
func TestAThousandLoginsOfAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		all := make([]browser, 1000)
		for i := range all {
			all[i] = browser{}
			b.login(all[i])
			time.Sleep(time.Second)
		}
		live := 0
		for _, br := range all {
			if _, err := b.open(br); err == nil {
				live++
			}
		}
		if live != session.DefaultMaxPerUser {
			t.Errorf("%d live", live)
		}
		b.counted("limit", map[string]int{"user_sessions": 950})
		b.counted("end", map[string]int{"limit": 950})
	})
}

// Another application's sessions of the same user, on the same store, do not count.
func TestSessionsOfAnotherApplicationDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.MaxPerUser = 1 })
		br := browser{}
		b.login(br)
		time.Sleep(time.Second)
		b.site = b.m.Site("https://other.test")
		b.login(browser{})
		b.site = b.m.Site(origin)
		b.mustToken(br)
	})
}

// A session that was ended without its cookie is over for every instance, and
// another one revokes what it held.
func TestTombstoneIsSeenByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.MaxPerUser = 1 })
		a.store.exclusive = false
		b := newInstance(t, a.as, a.store)
		first := browser{}
		a.login(first)
		b.mustToken(first) // it is in its memory
		time.Sleep(time.Second)
		a.login(browser{})
		b.ended(first, session.ReasonLimit)
		time.Sleep(time.Second)
		if revoked := a.revoked("refresh_token"); len(revoked) != 1 || a.as.RefreshTokenLive(revoked[0].Token) {
			t.Errorf("%d revocations", len(revoked))
		}
	})
}
