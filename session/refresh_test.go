// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// together calls f n times at once and waits.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// F109, RF-05: parallel 401s for the same token cause one refresh, and one that
// comes late, with a token that is not current any more, causes none.
func TestRefusedTokenRefreshesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		refused := b.mustToken(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 100 * time.Millisecond })
		refresh := func() {
			s, err := b.open(br)
			if err != nil {
				t.Error(err)
				return
			}
			tok, err := s.Refresh(t.Context(), refused)
			if err != nil || tok == refused {
				t.Errorf("got the refused token again, or %v", err)
			}
		}
		together(500, func(int) { refresh() })
		b.refreshes(1)
		time.Sleep(time.Second)
		refresh()
		b.refreshes(1)
	})
}

// B213, PX-06, H205: a resource server that refuses every token cannot drive the
// refreshes; and one whose replay is accepted is healed each time.
func TestForcedRefreshesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		b.login(br)
		force := func() error {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			tok, err := s.Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Refresh(t.Context(), tok)
			return err
		}
		for range 300 {
			if err := force(); err != nil && !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		asked := len(b.as.RefreshRequests())
		if asked < 2 || asked > 4 {
			t.Errorf("%d refreshes in 30 s of refusals", asked)
		}
		b.counted("limit", map[string]int{"forced_refreshes": 300 - asked})
		time.Sleep(time.Minute)
		b.as.ForgetRequests()
		for range 10 {
			if err := force(); err != nil {
				t.Fatal(err)
			}
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			s.Accepted(b.mustToken(br))
			time.Sleep(time.Second)
		}
		b.refreshes(10)

		// A token from before the refusal proves nothing.
		old := b.mustToken(br)
		refused := 0
		for range 10 {
			if err := force(); err != nil {
				refused++
			}
			mustOpen(t, b, br).Accepted(old)
			time.Sleep(time.Second)
		}
		if refused < 7 {
			t.Errorf("%d of 10 forced refreshes were refused", refused)
		}
	})
}

// RF-06, F401: the authorization server is out. While the token lives nobody
// notices; then it is 503 and the session is kept; soon after its return all is
// well, and it was not stormed.
func TestAuthorizationServerOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.as.ForgetRequests()
		b.as.SetDown(true)
		began := time.Now()
		var unavailable *session.UnavailableError
		for time.Since(began) < 10*time.Minute {
			_, err := b.token(br)
			switch alive := time.Since(began) < time.Minute; {
			case alive && err != nil:
				t.Fatalf("after %v: %v", time.Since(began), err)
			case !alive && !errors.As(err, &unavailable):
				t.Fatalf("after %v: %v", time.Since(began), err)
			case !alive && unavailable.RetryAfter < time.Second:
				t.Fatalf("Retry-After %v", unavailable.RetryAfter)
			}
			time.Sleep(50 * time.Millisecond)
		}
		b.as.SetDown(false)
		began = time.Now()
		for {
			if _, err := b.token(br); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("well again %v after the return", d)
		}
		b.refreshes(1)
	})
}

// F402: Retry-After is honoured.
func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		b.as.Script(astest.Token, astest.Answer{Status: 429, Header: map[string][]string{"Retry-After": {"20"}}})
		for range 19 {
			var unavailable *session.UnavailableError
			if _, err := b.token(br); !errors.As(err, &unavailable) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		b.refreshes(1)
		time.Sleep(2 * time.Second)
		b.mustToken(br)
		b.refreshes(2)
	})
}

// RF-08, A115, F404: a refused client is the operator's trouble.
func TestInvalidClientEndsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.ClientSecret = "rotated" })
		for range 59 {
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		for range 60 {
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		b.as.Configure(func(o *astest.Options) { o.ClientSecret = "secret" })
		time.Sleep(6 * time.Second)
		b.mustToken(br)
		if b.as.ReuseDetections() != 0 {
			t.Error("the refresh token was spent meanwhile")
		}
	})
}

// RF-05, BFF-12: invalid_grant ends the session, once, for all who wait.
func TestInvalidGrantEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 100 * time.Millisecond })
		b.as.RevokeGrants("alice")
		time.Sleep(10 * time.Second)
		together(50, func(int) { b.ended(br, session.ReasonRefreshToken) })
		b.refreshes(1)
		b.ended(br, session.ReasonRefreshToken)
		b.refreshes(1)
		if strings.Contains(b.log.String(), "level=ERROR") {
			t.Error("an ordinary end is no error")
		}
	})
}

// DESIGN 6.8: servers that say "invalid_request", or nothing, of a spent
// refresh token. Nobody is wedged, and one hiccup ends nothing.
func TestOddRefusals(t *testing.T) {
	for name, answer := range map[string]astest.Answer{
		"Dex":       astest.OAuthError(400, "invalid_request"),
		"Glewlwyd":  {Status: 400, Body: " "},
		"forbidden": {Status: 403, Body: "<html>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
				wedged, other := browser{}, browser{}
				b.login(wedged)
				b.login(other)
				time.Sleep(10 * time.Second)
				b.as.Script(astest.Token, answer)
				if _, err := b.token(wedged); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatal(err)
				}
				b.mustToken(other)
				time.Sleep(31 * time.Second)
				b.as.Script(astest.Token, answer)
				b.ended(wedged, session.ReasonRefreshToken)
				b.mustToken(other)
			})
		})
	}
	t.Run("alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			bad := astest.Answer{Status: 400, Body: " ", Times: -1}
			b.as.Script(astest.Token, bad)
			for range 2 {
				if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatal(err)
				}
				time.Sleep(31 * time.Second)
			}
			b.ended(br, session.ReasonRefreshToken)
		})
	})
	t.Run("once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
			br := browser{}
			b.login(br)
			time.Sleep(10 * time.Second)
			b.as.Script(astest.Token, astest.OAuthError(400, "invalid_request"))
			if _, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatal(err)
			}
			time.Sleep(31 * time.Second)
			b.mustToken(br)
		})
	})
}

// ID-19 and claims: a refresh brings new claims, or none.
func TestForceRefreshSeesNewClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Claims: map[string]any{"name": "Alice"}})
		br := browser{}
		b.login(br)
		force := func() (*session.Refreshed, error) {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			return s.ForceRefresh(t.Context())
		}
		if got, err := force(); err != nil || got.ClaimsChanged || got.AccessTokenExpiry.IsZero() {
			t.Errorf("got %+v, %v", got, err)
		}
		var limited *session.RateLimitedError
		if _, err := force(); !errors.As(err, &limited) || limited.RetryAfter <= 0 || limited.RetryAfter > 10*time.Second {
			t.Errorf("twice in ten seconds: %v", err)
		}
		b.counted("limit", map[string]int{"refresh_requests": 1})
		b.as.Configure(func(o *astest.Options) { o.Claims = map[string]any{"roles": []string{"admin"}} })
		time.Sleep(10 * time.Second)
		if got, err := force(); err != nil || !got.ClaimsChanged {
			t.Errorf("got %+v, %v", got, err)
		}
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if s.Claims()["name"] == nil || s.Claims()["roles"] == nil {
			t.Errorf("claims %v", s.Claims())
		}
		b.as.Configure(func(o *astest.Options) { o.NoRefreshedIDToken = true })
		time.Sleep(10 * time.Second)
		if got, err := force(); err != nil || got.ClaimsChanged {
			t.Errorf("got %+v, %v", got, err)
		}
		s, err = b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if ended, err := s.Logout(t.Context()); err != nil || ended.IDToken == "" || ended.Subject != "alice" {
			t.Errorf("after a refresh without an ID token: %v, %v", ended, err)
		}
	})
}
