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

// Learned: a refresh for one upstream is seen to kill the tokens of others. One
// warning that says what to do, and nothing else.
func TestRefreshKillsOlderTokens(t *testing.T) {
	run := func(t *testing.T, kills bool) string {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, RevokeOnRefresh: kills})
		rs := b.as.ResourceServer()
		br := browser{}
		s := b.login(br)
		for range 30 {
			for _, p := range []*session.Purpose{nil, orders} {
				tok := b.mustTokenFor(br, p)
				if rs.Accepts(tok) {
					s.For(p).Accepted(tok)
				} else if fresh, err := s.For(p).Refresh(t.Context(), tok); err == nil && rs.Accepts(fresh) {
					s.For(p).Accepted(fresh)
				}
			}
			time.Sleep(time.Second)
		}
		return b.log.String()
	}
	synctest.Test(t, func(t *testing.T) {
		if n := strings.Count(run(t, true), "exchange block"); n != 1 {
			t.Errorf("warned %d times", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if strings.Contains(run(t, false), "exchange block") {
			t.Error("a false warning")
		}
	})
	synctest.Test(t, func(t *testing.T) { // refused for other reasons
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		s := b.login(br)
		for i := range 30 {
			time.Sleep(2 * time.Minute)
			p := []*session.Purpose{stock, orders}[i%2]
			tok := b.mustTokenFor(br, p)
			time.Sleep(2 * time.Minute)
			if fresh, err := s.For(p).Refresh(t.Context(), tok); err == nil {
				s.For(p).Accepted(fresh)
			}
			s.Touch(t.Context())
		}
		b.refreshes(2 + 30)
		if strings.Contains(b.log.String(), "exchange block") {
			t.Error("a false warning")
		}
	})
}
