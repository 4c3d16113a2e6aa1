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

func describing(c *session.Config) { c.UserInfo = true }

// ID-14, ID-16: the claims of the UserInfo endpoint are the session's, those of the
// ID token count where both have one; they are renewed on request.
func TestUserInfoClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{UserInfoClaims: func(claims map[string]any) {
			claims["email"], claims["iss"], claims["role"] = "forged@example.com", "https://evil.test", "reader"
		}}, describing)
		br := browser{}
		claims := b.login(br).Claims()
		if claims["nickname"] != "Nick of alice" || claims["email"] != "alice@example.com" || claims["iss"] != b.as.Issuer() || claims["role"] != "reader" {
			t.Fatalf("claims %v", claims)
		}
		refresh := func(want bool) map[string]any {
			t.Helper()
			time.Sleep(10 * time.Second)
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.ForceRefresh(t.Context())
			if err != nil || got.ClaimsChanged != want {
				t.Errorf("%+v, error %v", got, err)
			}
			if s, err = b.open(br); err != nil {
				t.Fatal(err)
			}
			return s.Claims()
		}
		b.as.Configure(func(o *astest.Options) {
			o.UserInfoClaims = func(claims map[string]any) { claims["role"], claims["email"] = "writer", "forged@example.com" }
		})
		if claims := refresh(true); claims["role"] != "writer" || claims["email"] != "alice@example.com" || claims["iss"] != b.as.Issuer() {
			t.Errorf("renewed: %v", claims)
		}
		// What is about somebody else, or does not come, changes nothing.
		b.as.Configure(func(o *astest.Options) {
			o.UserInfoClaims = func(claims map[string]any) { claims["sub"], claims["role"] = "mallory", "admin" }
		})
		if claims := refresh(false); claims["role"] != "writer" || claims["sub"] != "alice" {
			t.Errorf("of another: %v", claims)
		}
		b.as.Script(astest.UserInfo, astest.Answer{Status: http.StatusBadGateway})
		if claims := refresh(false); claims["role"] != "writer" {
			t.Errorf("outage: %v", claims)
		}
		// A claim that it has no more is gone: a right that was taken away. What the ID
		// token of the login had, and later ones have not, stays.
		b.as.Configure(func(o *astest.Options) {
			o.UserInfoClaims = func(claims map[string]any) { delete(claims, "nickname") }
			o.IDTokenClaims = func(_ string, claims map[string]any) { delete(claims, "email") }
		})
		claims = refresh(true)
		if claims["role"] != nil || claims["nickname"] != nil || claims["email"] != "alice@example.com" || claims["sub"] != "alice" {
			t.Errorf("taken away: %v", claims)
		}
		b.refreshes(4)
		b.mustToken(br)
	})
}

// ID-14, ID-16, CB-12: no login without them, and no call before the nonce was right.
func TestUserInfoFailsTheLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		options astest.Options
		answer  *astest.Answer
		want    session.LoginErrorKind
		calls   int
	}{
		"sub other":  {options: astest.Options{UserInfoClaims: func(claims map[string]any) { claims["sub"] = "mallory" }}, want: session.LoginFailed, calls: 1},
		"500":        {answer: &astest.Answer{Status: http.StatusInternalServerError}, want: session.LoginUnavailable, calls: 1},
		"401":        {answer: &astest.Answer{Status: http.StatusUnauthorized}, want: session.LoginFailed, calls: 1},
		"nonce":      {options: astest.Options{IDTokenClaims: func(_ string, claims map[string]any) { claims["nonce"] = "other" }}, want: session.LoginResponseInvalid},
		"no support": {options: astest.Options{MetadataDoc: func(doc map[string]any) { delete(doc, "userinfo_endpoint") }}, want: session.LoginFailed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, tt.options, describing)
				if tt.answer != nil {
					b.as.Script(astest.UserInfo, *tt.answer)
				}
				br := browser{}
				_, err := b.finish(br, b.begin(br))
				failed, ok := errors.AsType[*session.LoginError](err)
				if !ok || failed.Kind != tt.want {
					t.Errorf("error %v", err)
				}
				if n := b.as.Count(astest.UserInfo); n != tt.calls {
					t.Errorf("%d calls", n)
				}
				if _, err := b.open(br); !errors.Is(err, session.ErrNoSession) {
					t.Errorf("a session: %v", err)
				}
				synctest.Wait()
				if b.as.Count(astest.Revoke) == 0 {
					t.Error("the tokens live on")
				}
			})
		})
	}
}
