// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

var (
	swapped = &session.Purpose{Exchange: &session.Exchange{Audience: []string{"orders"}}}
	other   = &session.Purpose{Exchange: &session.Exchange{Resource: []string{stockURI}, Scope: []string{"openid"}, RequestedTokenType: oauth.TokenTypeJWT}}
)

// TX-01, TX-03: what is sent, that it is sent once, and that no refresh token is
// used for it.
func TestTokenExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute, Latency: map[string]time.Duration{astest.Token: time.Second}})
		br := browser{}
		b.login(br)
		together(200, func(i int) {
			if _, err := b.tokenFor(br, []*session.Purpose{swapped, other}[i%2]); err != nil {
				t.Error(err)
			}
		})
		b.exchanges(2)
		b.refreshes(0)
		subject := b.mustToken(br)
		for _, r := range b.as.ExchangeRequests() {
			f := r.Form
			if f.Get("subject_token") != subject || f.Get("subject_token_type") != oauth.TokenTypeAccessToken || f.Has("client_secret") || r.ClientAuth != "client_secret_basic" {
				t.Errorf("%v", f)
			}
			if f.Get("audience") == "orders" && (f.Get("requested_token_type") != oauth.TokenTypeAccessToken || f.Has("resource") || f.Has("scope")) ||
				f.Get("audience") == "" && (f.Get("requested_token_type") != oauth.TokenTypeJWT || f.Get("resource") != stockURI || f.Get("scope") != "openid") {
				t.Errorf("%v", f)
			}
		}
		tok := b.mustTokenFor(br, swapped)
		if b.mustTokenFor(br, other) == tok || newInstance(t, b.as, b.store).mustTokenFor(br, swapped) != tok {
			t.Error("not kept in the record, each by its purpose")
		}
		b.exchanges(2)
	})
}

// It runs out, or the token that it was exchanged for is replaced: exchanged
// again, and nobody waits for it while it serves.
func TestExchangedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute}, patient)
		br := browser{}
		b.login(br)
		first := b.mustTokenFor(br, swapped)
		time.Sleep(5 * time.Minute)
		b.exchanges(1)
		s, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Refresh(t.Context(), b.mustToken(br)); err != nil { // of the subject token
			t.Fatal(err)
		}
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = time.Second })
		before := time.Now()
		if b.mustTokenFor(br, swapped) != first || time.Now() != before {
			t.Error("a request waited though there is a token")
		}
		time.Sleep(2 * time.Second)
		second := b.mustTokenFor(br, swapped)
		if second == first {
			t.Error("the token of an earlier subject token serves on")
		}
		b.exchanges(2)
		time.Sleep(10 * time.Minute)
		if b.mustTokenFor(br, swapped) == second {
			t.Error("an expired token")
		}
		b.exchanges(3)
	})
}

// A resource server refuses the exchanged token: exchanged again, once for any
// number of callers, with a pause for one that refuses all; other upstreams and the
// subject token have nothing to do with it.
func TestExchangedTokenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		s := b.login(br)
		tok := b.mustTokenFor(br, swapped)
		together(50, func(int) {
			if fresh, err := s.For(swapped).Refresh(t.Context(), tok); err != nil || fresh == tok {
				t.Errorf("%q, %v", fresh, err)
			}
		})
		b.exchanges(2)
		for range 20 {
			_, _ = s.For(swapped).Refresh(t.Context(), b.mustTokenFor(br, swapped))
		}
		b.exchanges(3)
		if _, err := s.For(swapped).Refresh(t.Context(), b.mustTokenFor(br, swapped)); !errors.Is(err, session.ErrTokenUnavailable) {
			t.Errorf("no pause: %v", err)
		}
		tok = b.mustTokenFor(br, other)
		if fresh, err := s.For(other).Refresh(t.Context(), tok); err != nil || fresh == tok {
			t.Errorf("%q, %v", fresh, err)
		}
		b.refreshes(0)
	})
}

// The authorization server refuses the subject token: the default one is refreshed
// first, and the exchange made with it.
func TestSubjectTokenRefused(t *testing.T) {
	for _, code := range []string{"invalid_request", "invalid_grant"} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
				br := browser{}
				b.login(br)
				subject := b.mustToken(br)
				b.as.Script(astest.Token, astest.OAuthError(400, code))
				b.mustTokenFor(br, swapped)
				b.exchanges(2)
				b.refreshes(1)
				if b.mustToken(br) == subject {
					t.Error("not refreshed")
				}
			})
		})
	}
	// Where it is the request that is refused, refreshing is of no use: one is tried.
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, TokenResponse: func(grant string, body map[string]any) {
				if strings.HasSuffix(grant, "token-exchange") {
					clear(body)
					body["error"] = "invalid_request"
				}
			}})
			br := browser{}
			b.login(br)
			for range 100 {
				if _, err := b.tokenFor(br, swapped); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatalf("got %v", err)
				}
				b.mustToken(br)
				b.mustTokenFor(br, orders)
				time.Sleep(time.Second)
			}
			b.refreshes(2)
			if n := len(b.as.ExchangeRequests()); n < 3 || n > 6 {
				t.Errorf("%d exchanges", n)
			}
			b.as.Configure(func(o *astest.Options) { o.TokenResponse = nil })
			time.Sleep(31 * time.Second)
			b.mustTokenFor(br, swapped)
		})
	})
}

// TX-02, TX-04: no exchange that fails ends a session, or means anything to others.
func TestExchangeFails(t *testing.T) {
	body := func(change func(map[string]any)) func(*astest.Options) {
		return func(o *astest.Options) {
			o.TokenResponse = func(grant string, body map[string]any) {
				if strings.HasSuffix(grant, "token-exchange") {
					change(body)
				}
			}
		}
	}
	for name, tc := range map[string]struct {
		trouble func(*astest.Options)
		pause   time.Duration
		outage  bool
	}{
		"invalid_target":         {trouble: func(o *astest.Options) { o.Resources = []string{ordersURI} }, pause: 5 * time.Second},
		"not for this client":    {trouble: func(o *astest.Options) { o.NoTokenExchange = true }, pause: 5 * time.Second},
		"a refresh token":        {trouble: body(func(b map[string]any) { b["issued_token_type"] = "urn:ietf:params:oauth:token-type:refresh_token" }), pause: 30 * time.Second},
		"nobody says what it is": {trouble: body(func(b map[string]any) { delete(b, "issued_token_type") }), pause: 30 * time.Second},
		"N_A":                    {trouble: body(func(b map[string]any) { b["token_type"] = "N_A" }), pause: 30 * time.Second},
		"no token":               {trouble: body(func(b map[string]any) { delete(b, "access_token") }), pause: 30 * time.Second},
		"500": {trouble: func(o *astest.Options) {
			o.TokenAnswer = func(r astest.Request) *astest.Answer {
				if strings.HasSuffix(r.GrantType, "token-exchange") {
					return &astest.Answer{Status: 500}
				}
				return nil
			}
		}, pause: 5 * time.Second, outage: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{})
				b.as.Configure(tc.trouble)
				br := browser{}
				b.login(br)
				for range 30 {
					_, err := b.tokenFor(br, swapped)
					var u *session.UnavailableError
					if err == nil || tc.outage != errors.As(err, &u) || !tc.outage && !errors.Is(err, session.ErrTokenUnavailable) {
						t.Fatalf("got %v", err)
					}
					b.mustToken(br)
					time.Sleep(time.Second)
				}
				if n, want := len(b.as.ExchangeRequests()), int(30*time.Second/tc.pause); n < want || n > want+10 {
					t.Errorf("%d exchanges in half a minute", n)
				}
				b.refreshes(0)
				b.as.Configure(func(o *astest.Options) {
					o.TokenResponse, o.TokenAnswer, o.NoTokenExchange, o.Resources = nil, nil, false, nil
				})
				time.Sleep(tc.pause + time.Second)
				b.mustTokenFor(br, swapped)
			})
		})
	}
}

// RF-06 for exchanges: an outage is no logout, what is there serves on.
func TestExchangeDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		b.login(br)
		tok := b.mustTokenFor(br, swapped)
		time.Sleep(8*time.Minute + 59*time.Second)
		b.as.SetDown(true)
		for range 30 {
			if b.mustTokenFor(br, swapped) != tok {
				t.Fatal("another token")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		var u *session.UnavailableError
		if _, err := b.tokenFor(br, swapped); !errors.As(err, &u) || u.RetryAfter < time.Second {
			t.Errorf("got %v", err)
		}
		b.as.SetDown(false)
		time.Sleep(6 * time.Second)
		b.mustTokenFor(br, swapped)
	})
}

// RF-15: while the store takes no writes, a token is exchanged once for as long as it
// lives, not once for each request, and goes into the record later.
func TestExchangeWhileTheStoreTakesNoWrites(t *testing.T) {
	no := func(_, _ *session.Record) error { return session.ErrStoreUnavailable }
	for name, held := range map[string]bool{"nothing waits": false, "refreshed tokens wait too": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute}, patient)
				br := browser{}
				s := b.login(br)
				b.mustTokenFor(br, swapped)
				if held {
					b.refuseCommits(true)
				}
				if _, err := s.Refresh(t.Context(), b.mustToken(br)); err != nil {
					t.Fatal(err)
				}
				b.store.onReplace(no)
				time.Sleep(time.Second)
				b.mustTokenFor(br, swapped) // for the old subject token: exchanged anew in the background
				time.Sleep(time.Second)
				for range 1000 {
					b.mustTokenFor(br, swapped)
					b.mustTokenFor(br, other)
					time.Sleep(10 * time.Millisecond)
				}
				b.exchanges(3)
				b.refuseCommits(false)
				time.Sleep(10 * time.Second)
				b.mustTokenFor(br, stock)
				exchanged := b.mustTokenFor(br, swapped)
				b.exchanges(3)
				if n := newInstance(t, b.as, b.store); n.mustTokenFor(br, swapped) != exchanged {
					t.Error("not in the record")
				}
				if _, err := s.Logout(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := s.For(swapped).Token(t.Context()); endOf(err) != session.ReasonLoggedOut {
					t.Errorf("after the logout: %v", err)
				}
			})
		})
	}
}

// An exchange beside a refresh: both are stored, and neither loses what the other
// brought for good; a logout between is final.
func TestExchangeBesideRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		b.store.exclusive = false
		br := browser{}
		s := b.login(br)
		for i := range 20 {
			b.as.Script(astest.Token, astest.Answer{DelayReply: time.Duration(i) * 100 * time.Millisecond}, astest.Answer{DelayReply: time.Duration(20-i) * 100 * time.Millisecond})
			tok := b.mustToken(br)
			b.as.RevokeAccessToken(tok)
			together(2, func(i int) {
				if i == 0 {
					if _, err := s.Refresh(t.Context(), tok); err != nil {
						t.Error(err)
					}
					s.Accepted(b.mustToken(br))
				} else if _, err := b.tokenFor(br, swapped); err != nil {
					t.Error(err)
				}
			})
			b.mustTokenFor(br, swapped)
			time.Sleep(5 * time.Second)
			b.as.ClearScript(astest.Token)
		}
		if b.as.ReuseDetections() != 0 {
			t.Error("a refresh token was used twice")
		}
		b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
		failed := make(chan error, 1)
		fresh := &session.Purpose{Exchange: &session.Exchange{Audience: []string{"late"}}}
		go func() { _, err := s.For(fresh).Token(t.Context()); failed <- err }()
		time.Sleep(500 * time.Millisecond)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ended *session.EndedError
		if err := <-failed; !errors.As(err, &ended) {
			t.Errorf("got %v", err)
		}
		b.ended(br, session.ReasonLoggedOut)
	})
}

// TX-06: an exchange that is stored while a refresh for another upstream is under
// way: the refresh token that this brings is not lost for it, nor is what was
// exchanged.
func TestExchangeUnderARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		b.store.exclusive = false
		br := browser{}
		b.login(br)
		for i, p := range []*session.Purpose{orders, stock} {
			b.as.Script(astest.Token, astest.Answer{DelayReply: 3 * time.Second})
			done := make(chan string, 1)
			go func() { tok, _ := b.tokenFor(br, p); done <- tok }()
			time.Sleep(time.Second)
			x := []*session.Purpose{swapped, other}[i]
			exchanged := b.mustTokenFor(br, x)
			byRefresh := <-done
			time.Sleep(5 * time.Second)
			if n := newInstance(t, b.as, b.store); byRefresh == "" || n.mustTokenFor(br, p) != byRefresh || n.mustTokenFor(br, x) != exchanged {
				t.Error("one of them is not in the record")
			}
			b.refreshes(i + 1)
			b.exchanges(i + 1)
		}
		b.mustTokenFor(br, &session.Purpose{Resource: []string{"https://third.test"}}) // the refresh token is good
		b.refreshes(3)
	})
}

// Without a refresh token an exchange works while the subject token does; a token
// by refresh cannot be had, and no session ends for that.
func TestPurposesWithoutRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{Rotation: astest.RotateNone, AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.mustTokenFor(br, swapped)
		if _, err := b.tokenFor(br, orders); !errors.Is(err, session.ErrTokenUnavailable) {
			t.Errorf("got %v", err)
		}
		b.mustToken(br)
		time.Sleep(time.Minute)
		b.ended(br, session.ReasonAccessToken)
	})
}
