// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// An upstream that refuses everything pauses itself, and nobody else. PX-06.
func TestUpstreamThatRefusesEverythingPausesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		br := browser{}
		s := b.login(br)
		for range 20 {
			tok, err := s.For(orders).Token(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.For(orders).Refresh(t.Context(), tok)
		}
		b.refreshes(1 + 2)
		if _, err := s.For(orders).Refresh(t.Context(), b.mustTokenFor(br, orders)); !errors.Is(err, session.ErrTokenUnavailable) {
			t.Errorf("no pause: %v", err)
		}
		// The others heal as ever.
		for _, p := range []*session.Purpose{nil, stock} {
			tok := b.mustTokenFor(br, p)
			if fresh, err := s.For(p).Refresh(t.Context(), tok); err != nil || fresh == tok {
				t.Errorf("for %s: %v", p, err)
			} else {
				s.For(p).Accepted(fresh)
			}
		}
		b.refreshes(1 + 2 + 1 + 2)
		time.Sleep(31 * time.Second)
		tok := b.mustTokenFor(br, orders)
		if fresh, err := s.For(orders).Refresh(t.Context(), tok); err != nil || fresh == tok {
			t.Errorf("after the pause: %v", err)
		}
	})
}

// TX-04, TX-05: invalid_target, invalid_scope and their kin for one upstream end
// nothing and mean nothing for others.
func TestNoTokenForOneUpstream(t *testing.T) {
	for name, tc := range map[string]struct {
		purpose *session.Purpose
		answer  *astest.Answer
	}{
		"invalid_target":   {purpose: &session.Purpose{Resource: []string{"https://nobody.test"}}},
		"invalid_scope":    {purpose: &session.Purpose{Scope: []string{"admin"}}},
		"consent_required": {orders, &astest.Answer{Status: 400, Body: `{"error":"consent_required"}`, Times: -1}},
		"invalid_request":  {orders, &astest.Answer{Status: 400, Body: `{"error":"invalid_request"}`, Times: -1}},
		"empty 400":        {orders, &astest.Answer{Status: 400, Body: " ", Times: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 5 * time.Minute, Resources: []string{ordersURI, stockURI}})
				br := browser{}
				b.login(br)
				if tc.answer != nil {
					b.as.Script(astest.Token, *tc.answer)
				}
				for range 60 {
					if _, err := b.tokenFor(br, tc.purpose); !errors.Is(err, session.ErrTokenUnavailable) {
						t.Fatalf("got %v", err)
					}
					b.mustToken(br)
					if tc.answer == nil {
						b.mustTokenFor(br, stock)
					}
					time.Sleep(time.Second)
				}
				if n := len(b.as.RefreshRequests()); n < 2 || n > 14 {
					t.Errorf("%d refresh requests in a minute", n)
				}
				b.as.ClearScript(astest.Token)
				time.Sleep(30 * time.Second)
				b.mustTokenFor(br, stock)
				time.Sleep(5 * time.Minute)
				b.mustToken(br)
				if b.as.ReuseDetections() != 0 {
					t.Error("a refresh token was used twice")
				}
			})
		})
	}
}

// answerFor answers token requests for one resource.
func answerFor(resource string, a astest.Answer) func(*astest.Options) {
	return func(o *astest.Options) {
		o.TokenAnswer = func(r astest.Request) *astest.Answer {
			if r.Form.Get("resource") == resource {
				return &a
			}
			return nil
		}
	}
}

// TX-04, RF-05: invalid_grant for one upstream, as some servers have it for a consent
// that is missing, ends nothing when the refresh token is good: that is asked for,
// once, and the others go on.
func TestInvalidGrantForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		br := browser{}
		b.login(br)
		b.as.Configure(answerFor(stockURI, astest.OAuthError(400, "invalid_grant")))
		first, forOrders := b.mustToken(br), b.mustTokenFor(br, orders)
		b.refreshes(1)
		together(20, func(int) {
			if _, err := b.tokenFor(br, stock); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Errorf("got %v", err)
			}
		})
		second := b.mustToken(br)
		if second == first || b.mustTokenFor(br, orders) != forOrders {
			t.Error("the default token was not asked for, or that of another upstream was")
		}
		for range 120 {
			if _, err := b.tokenFor(br, stock); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(time.Second)
		}
		if b.mustToken(br) != second || b.as.Refreshes() != 2 {
			t.Errorf("asked for more than once: %d refreshes", b.as.Refreshes())
		}
		if n := len(b.as.RefreshRequests()); n < 5 || n > 8 {
			t.Errorf("%d refresh requests", n)
		}
		// It is given: from then on a refusal is in question again.
		b.as.Configure(func(o *astest.Options) { o.TokenAnswer = nil })
		time.Sleep(30 * time.Second)
		b.mustTokenFor(br, stock)
		b.as.RevokeGrants("alice")
		time.Sleep(time.Hour)
		if _, err := b.tokenFor(br, stock); endOf(err) != session.ReasonRefreshToken {
			t.Errorf("got %v", err)
		}
	})
}

// endOf is why a session has ended, if that is what an error says.
func endOf(err error) session.Reason {
	var e *session.EndedError
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// DESIGN 6.8: where all upstreams have tokens of their own, a refresh token that is dead
// ends the session too, whatever the server says of it.
func TestDeadRefreshTokenWithoutDefaultRequests(t *testing.T) {
	for name, a := range map[string]astest.Answer{
		"invalid_grant": astest.OAuthError(400, "invalid_grant"), "invalid_request": astest.OAuthError(400, "invalid_request"), "empty 400": {Status: 400},
		"consent_required": astest.OAuthError(400, "consent_required"),
	} {
		for opaque, edit := range map[string]func(string, map[string]any){
			"": nil, ", expiry unknown": func(_ string, body map[string]any) { delete(body, "expires_in") },
		} {
			t.Run(name+opaque, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o := astest.Options{AccessTokenLifetime: 5 * time.Minute, TokenResponse: edit}
					if edit != nil {
						o.AccessTokenType = "opaque"
					}
					b := newBench(t, o, patient)
					br := browser{}
					s := b.login(br)
					tok := b.mustTokenFor(br, orders)
					a.Times = -1
					b.as.Script(astest.Token, a)
					limit := 5*time.Minute + 3*30*time.Second
					if edit != nil {
						limit = time.Hour + 3*30*time.Second
					}
					for began := time.Now(); ; time.Sleep(time.Second) {
						if time.Since(began) > limit {
							t.Fatal("the session goes on with a dead refresh token")
						}
						_, err := s.For(orders).Refresh(t.Context(), tok)
						if edit == nil {
							_, err = b.tokenFor(br, orders)
						}
						if reason := endOf(err); reason == session.ReasonRefreshToken {
							break
						} else if reason != "" {
							t.Fatal(err)
						}
					}
				})
			})
		}
	}
}

// RF-06: what became of the refresh token stays open while the default token is not to
// be had for an outage.
func TestInvalidGrantForOneUpstreamInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) {
			o.TokenAnswer = func(r astest.Request) *astest.Answer {
				a := astest.OAuthError(503, "temporarily_unavailable")
				if r.Form.Has("resource") {
					a = astest.OAuthError(400, "invalid_grant")
				}
				return &a
			}
		})
		for range 35 {
			if _, err := b.tokenFor(br, stock); !errors.Is(err, session.ErrTokenUnavailable) {
				t.Fatalf("got %v", err)
			}
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		if n := len(b.as.RefreshRequests()); n != 4 {
			t.Errorf("%d refresh requests, want two for each", n)
		}
		b.as.Configure(func(o *astest.Options) { o.TokenAnswer = nil })
		b.as.RevokeGrants("alice")
		time.Sleep(30 * time.Second)
		if _, err := b.tokenFor(br, stock); endOf(err) != session.ReasonRefreshToken {
			t.Errorf("got %v", err)
		}
	})
}

// RF-06: a server that works, but not for one resource, or that has for it what cannot
// be used: the upstreams with other tokens notice nothing, also when theirs have run out.
func TestServerErrorForOneUpstream(t *testing.T) {
	for name, a := range map[string]astest.Answer{
		"500": astest.OAuthError(500, "server_error"), "429": {Status: 429, Header: http.Header{"Retry-After": {"20"}}},
		"HTML": {Status: 200, Body: "<html>"}, "invalid_client": astest.OAuthError(401, "invalid_client"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, patient)
				br := browser{}
				b.login(br)
				b.as.Configure(answerFor(stockURI, a))
				for range 1200 {
					if _, err := b.tokenFor(br, stock); err == nil || endOf(err) != "" {
						t.Fatalf("got %v", err)
					}
					b.mustToken(br)
					b.mustTokenFor(br, orders)
					time.Sleep(500 * time.Millisecond)
				}
				if n := len(b.as.RefreshRequests()) - b.as.Refreshes(); n < 20 || n > 350 {
					t.Errorf("%d refresh requests in vain in ten minutes", n)
				}
				b.as.Configure(func(o *astest.Options) { o.TokenAnswer = nil })
				time.Sleep(30 * time.Second)
				b.mustTokenFor(br, stock)
			})
		})
	}
}

// The refresh token's end is the session's, whoever finds it out.
func TestRefreshTokenEndsForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		b.as.RevokeGrants("alice")
		var ended *session.EndedError
		if _, err := b.tokenFor(br, orders); !errors.As(err, &ended) || ended.Reason != session.ReasonRefreshToken {
			t.Errorf("got %v", err)
		}
		b.ended(br, session.ReasonRefreshToken)
	})
}
