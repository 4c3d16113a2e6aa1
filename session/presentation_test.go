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

// RF-07: since when a refresh token may be spent is counted from the call that got
// no answer, not from one before it that was answered.
func TestDoubtBeginsWithTheLostAnswer(t *testing.T) {
	answered := map[string]astest.Answer{
		"nothing before": {},
		"refused":        astest.OAuthError(400, "invalid_target"),
		"an outage":      {Status: 503},
	}
	for name, answer := range answered {
		for where, instances := range map[string]int{"here": 1, "at another instance": 2} {
			t.Run(name+" "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
					b := a
					if instances == 2 {
						a.store.exclusive = false
						b = newInstance(t, a.as, a.store, patient)
					}
					br := browser{}
					a.login(br)
					b.mustToken(br)
					if answer.Status != 0 {
						a.as.Script(astest.Token, answer)
						if _, err := b.tokenFor(br, orders); err == nil {
							t.Fatal("got a token")
						}
					}
					time.Sleep(6 * time.Minute)
					a.as.ForgetRequests()
					a.as.Script(astest.Token, astest.Answer{CutReply: true})
					for _, at := range []*bench{a, b} {
						if _, err := at.tokenFor(br, stock); err == nil {
							t.Error("got a token")
						}
					}
					a.refreshes(1)
					a.mustToken(br)
				})
			})
		}
	}
	t.Run("grace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 5 * time.Minute, Rotation: astest.RotateGrace}, patient,
				func(c *session.Config) { c.Rotation, c.RotationGrace = session.RotationGrace, 10*time.Second })
			br := browser{}
			b.login(br)
			time.Sleep(4*time.Minute + 14*time.Second)
			b.as.Script(astest.Token, astest.Answer{Status: 503})
			b.mustToken(br)
			synctest.Wait()
			time.Sleep(11 * time.Second)
			b.as.ForgetRequests()
			b.as.Script(astest.Token, astest.Answer{CutReply: true})
			b.mustToken(br)
			synctest.Wait()
			b.refreshes(2)
			time.Sleep(45 * time.Second)
			b.mustToken(br)
		})
	})
}

// RF-07: a configuration that has another default token, as during a change of it,
// does not risk the one that lives.
func TestLostAnswerAndAnotherDefaultToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		a.store.exclusive = false
		b := newInstance(t, a.as, a.store, patient, defaultResource(t, a.as, ordersURI))
		br := browser{}
		s := a.login(br)
		time.Sleep(time.Minute)
		a.as.ForgetRequests()
		a.as.Script(astest.Token, astest.Answer{CutReply: true})
		if _, err := s.ForceRefresh(t.Context()); err == nil {
			t.Fatal("it was answered")
		}
		time.Sleep(time.Second)
		if _, err := b.token(br); err == nil {
			t.Error("got a token")
		}
		a.refreshes(1)
		a.mustToken(br)
	})
}
