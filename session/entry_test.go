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

// RF-02: a request that runs for long keeps what was remembered of its session
// when it began. Forgetting that must not make room for a second refresh.
func TestForgottenSessionRefreshesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Latency: map[string]time.Duration{astest.Token: time.Second}})
		br := browser{}
		long := b.login(br)
		if _, err := long.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.backend.Forget(long)
		time.Sleep(time.Minute)
		later, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		together(20, func(i int) {
			if _, err := []*session.Session{long, later}[i%2].Token(t.Context()); err != nil {
				t.Error(err)
			}
		})
		b.refreshes(1)
	})
}

// Tokens of users who are away do not stay unsealed in memory, and
// sessions that are over are not remembered at all. Neither is any use lost.
func TestMemoryOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.IdleTimeout = time.Hour })
		busy := browser{}
		b.login(busy)
		away := make([]browser, 20)
		for i := range away {
			away[i] = browser{}
			b.login(away[i])
		}
		for range 10 {
			time.Sleep(time.Minute)
			b.mustToken(busy)
		}
		if all, unsealed := b.backend.Remembered(); all != 21 || unsealed != 1 {
			t.Errorf("after ten minutes: %d sessions, %d of them unsealed", all, unsealed)
		}
		for _, br := range away {
			b.mustToken(br)
		}
		if _, unsealed := b.backend.Remembered(); unsealed != 21 {
			t.Errorf("%d unsealed of 21 in use", unsealed)
		}
		time.Sleep(3 * time.Hour)
		if all, _ := b.backend.Remembered(); all != 0 {
			t.Errorf("%d sessions are remembered after their end", all)
		}
	})
}
