// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"maps"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// What became of logins.
func TestLoginsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		one := browser{}
		params := b.begin(one)
		kept := maps.Clone(one)
		if _, err := b.finish(one, params); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"ok": 1}
		step := func(outcome session.LoginOutcome, br browser, params url.Values) {
			t.Helper()
			if _, err := b.finish(br, params); err == nil {
				t.Errorf("%s: it succeeded", outcome)
			}
			want[string(outcome)]++
			b.counted("login", want)
		}
		step(session.LoginRepeated, one, params)
		step(session.LoginWasStale, kept, params)
		step(session.LoginWasInvalid, browser{}, params)

		two := browser{}
		params = b.begin(two)
		params.Set("iss", "https://other.test")
		step(session.LoginHadBadResponse, two, params)

		for code, outcome := range map[string]session.LoginOutcome{
			"login_required": session.LoginNeedsInteraction, "consent_required": session.LoginNeedsInteraction, "access_denied": session.LoginWasRefused,
		} {
			b.as.Configure(func(o *astest.Options) { o.AuthorizeError = code })
			br := browser{}
			step(outcome, br, b.begin(br))
		}
		b.as.Configure(func(o *astest.Options) { o.AuthorizeError = "" })

		three := browser{}
		params = b.begin(three)
		b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
		step(session.LoginCameToNothing, three, params)

		four := browser{}
		params = b.begin(four)
		b.store.setFail(session.ErrStoreUnavailable)
		step(session.LoginMetWithAnOutage, four, params)
		b.store.setFail(nil)
	})
}
