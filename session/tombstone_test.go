// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// Who keeps the cookie of a session that is over cannot make the gateway revoke,
// and complain, again and again.
func TestDeadCookieMakesNoWork(t *testing.T) {
	for name, refusal := range map[string]astest.Answer{
		"the client is refused": {Status: 401, Body: `{"error":"invalid_client"}`, Times: -1},
		"an outage":             {Status: 503, Times: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
				br := browser{}
				s := b.login(br)
				b.as.Script(astest.Revoke, refusal)
				if _, err := s.Logout(t.Context()); err != nil {
					t.Fatal(err)
				}
				for range 4 * 60 * 10 {
					b.ended(br, session.ReasonLoggedOut)
					time.Sleep(100 * time.Millisecond)
				}
				calls, warnings := len(b.revoked("refresh_token")), strings.Count(b.log.String(), "could not be revoked")
				if calls == 0 || calls > 4 || warnings != 1 {
					t.Errorf("%d calls and %d warnings in four minutes", calls, warnings)
				}
				// When the server is well again, the next sight of the cookie will do.
				b.as.ClearScript(astest.Revoke)
				time.Sleep(6 * time.Minute)
				b.ended(br, session.ReasonLoggedOut)
				time.Sleep(time.Second)
				if len(b.revoked("refresh_token")) != calls+1 {
					t.Error("it was not revoked")
				}
				time.Sleep(6 * time.Minute)
				b.ended(br, session.ReasonLoggedOut)
				time.Sleep(time.Second)
				if len(b.revoked("refresh_token")) != calls+1 {
					t.Error("it was revoked again")
				}
			})
		})
	}
}

// F208: a session that was ended without its cookie, and that a store which went
// back in time shows again, is revoked all the same.
func TestRollbackOfAnUnseenEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.MaxPerUser = 1 })
		br := browser{}
		alive := b.stored(b.login(br))
		time.Sleep(time.Minute)
		b.login(browser{}) // ends the first
		b.restore(alive)
		b.ended(br, session.ReasonLimit)
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 1 {
			t.Errorf("%d revocations", n)
		}
	})
}

// F302: a revocation that waits for the authorization server to come back does
// not hold up the end of the process; the tombstone keeps the tokens.
func TestShutdownDoesNotWaitForRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		b.as.Script(astest.Revoke, astest.Answer{Status: 503, Times: 3})
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second) // in the longest pause
		began := time.Now()
		if err := b.backend.Shutdown(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
		next := newInstance(t, b.as, b.store)
		next.ended(br, session.ReasonLoggedOut)
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 4 {
			t.Errorf("%d revocations: the next process did not try again", n)
		}
	})
}
