// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// C311, ID-18: a refresh that brings somebody else's ID token.
func TestSubjectChangedAtRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, IDTokenClaims: func(grant string, c map[string]any) {
			if grant == "refresh_token" {
				c["sub"] = "mallory"
			}
		}})
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		b.ended(br, session.ReasonRefreshToken)
		time.Sleep(time.Second)
		if b.as.Count(astest.Revoke) == 0 {
			t.Error("the tokens of somebody else were kept alive")
		}
	})
}

// F401, F407, C310: an ID token that came with a refresh and cannot be used is
// left out; nobody is logged out for a key set that lags behind, or for a clock.
func TestRefreshedIDTokenOfNoUse(t *testing.T) {
	odd := func(change func(c map[string]any)) func(*bench) {
		return func(b *bench) {
			b.as.Configure(func(o *astest.Options) {
				o.IDTokenClaims = func(grant string, c map[string]any) { c["name"] = "new"; change(c) }
			})
		}
	}
	for name, trouble := range map[string]func(*bench){
		"key set lags behind": func(b *bench) {
			published := b.as.SigningKey().JWK()
			b.as.RotateKey("next", false)
			b.as.Configure(func(o *astest.Options) {
				o.JWKSDoc = func(doc map[string]any) { doc["keys"] = []any{published} }
			})
		},
		"key set is out": func(b *bench) {
			b.as.RotateKey("next", false)
			b.as.Script(astest.JWKS, astest.Answer{Status: 503, Times: -1})
		},
		"clock is ahead":  odd(func(c map[string]any) { c["iat"] = time.Now().Add(40 * time.Second).Unix() }),
		"clock is behind": odd(func(c map[string]any) { c["exp"] = time.Now().Add(-400 * time.Second).Unix() }),
		"is not one at all": func(b *bench) {
			b.as.Configure(func(o *astest.Options) {
				o.TokenResponse = func(_ string, body map[string]any) { body["id_token"] = "x.y.z" }
			})
		},
	} {
		for _, mode := range []oauth.ValidateMode{oauth.ValidateAuto, oauth.ValidateExpiry} {
			t.Run(name+", "+string(mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second}, func(c *session.Config) { c.Validate = mode })
					br := browser{}
					b.login(br)
					b.mustToken(br)
					trouble(b)
					for range 6 { // the next refreshes meet what the first has left behind
						time.Sleep(10 * time.Second)
						b.mustToken(br)
					}
					s, err := b.open(br)
					if err != nil || s.Claims()["sub"] != "alice" || s.Claims()["name"] == "new" {
						t.Errorf("claims %v, %v", s.Claims(), err)
					}
					b.refreshes(6)
					if b.as.Count(astest.Revoke) != 0 || !strings.Contains(b.log.String(), "the old one stays") {
						t.Errorf("%d revocations, or nothing in the log", b.as.Count(astest.Revoke))
					}
				})
			})
		}
	}
}

// ID-18: one that is intact, and for another login, ends the session.
func TestRefreshedIDTokenOfAnotherLogin(t *testing.T) {
	for claim, value := range map[string]any{"aud": "other", "nonce": "other", "at_hash": "x", "azp": "other"} {
		t.Run(claim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, IDTokenClaims: func(grant string, c map[string]any) {
					if grant == "refresh_token" {
						c[claim] = value
					}
				}})
				br := browser{}
				b.login(br)
				time.Sleep(10 * time.Second)
				b.ended(br, session.ReasonRefreshToken)
			})
		})
	}
}
