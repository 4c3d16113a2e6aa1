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

// RF-09, TX-01: a server that ignores what was asked for is reported once for each
// purpose, and one that does not is not. Its tokens serve.
func TestTokenIsNotWhatWasAskedFor(t *testing.T) {
	const more, same = "gives more scope", "gives the same access token"
	scope := func(values string) func(string, map[string]any) {
		return func(_ string, body map[string]any) { body["scope"] = values }
	}
	narrow := &session.Purpose{Exchange: &session.Exchange{Audience: []string{"orders"}, Scope: []string{"openid"}}}
	for name, tc := range map[string]struct {
		purpose *session.Purpose
		answer  func(string, map[string]any)
		same    bool
		want    string
	}{
		"as asked":                  {purpose: ordersOnly},
		"less":                      {purpose: &session.Purpose{Scope: []string{"openid", "profile"}}, answer: scope("openid")},
		"more":                      {purpose: ordersOnly, answer: scope("openid profile admin"), want: more},
		"more than an exchange":     {purpose: narrow, answer: scope("admin"), want: more},
		"no scope was asked for":    {purpose: orders, answer: scope("openid profile admin")},
		"same token":                {purpose: orders, same: true, want: same},
		"same token of an exchange": {purpose: swapped, same: true, want: same},
		"more, and the same token":  {purpose: ordersOnly, same: true, answer: scope("openid admin"), want: more},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute, NoRefreshedIDToken: true}, patient)
				br := browser{}
				b.login(br)
				subject := b.mustToken(br)
				b.as.Configure(func(o *astest.Options) {
					o.TokenResponse = func(grant string, body map[string]any) {
						if tc.answer != nil {
							tc.answer(grant, body)
						}
						if tc.same {
							body["access_token"] = subject
						}
					}
				})
				for range 3 {
					if _, err := b.tokenFor(br, tc.purpose); err != nil {
						t.Fatal(err)
					}
					time.Sleep(3 * time.Minute)
				}
				for _, text := range []string{more, same} {
					n, want := strings.Count(b.log.String(), text), 0
					if text == tc.want {
						want = 1
					}
					if n != want {
						t.Errorf("%q is said %d times, want %d", text, n, want)
					}
				}
				if strings.Contains(b.log.String(), subject) {
					t.Error("the token is in the log")
				}
			})
		})
	}
}
