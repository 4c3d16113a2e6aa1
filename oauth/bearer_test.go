// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestBearerJWT(t *testing.T) { // AT-01, AT-02, AT-03, AT-10, JW-05, C1
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
	set := func(name string, v any) func(h, cl map[string]any) {
		return func(_, cl map[string]any) {
			if v == nil {
				delete(cl, name)
			} else {
				cl[name] = v
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(h, cl map[string]any)
		good   bool
	}{
		"good":                      {func(_, _ map[string]any) {}, true},
		"of another client":         {set("client_id", "cli"), true},
		"typ JWT":                   {func(h, _ map[string]any) { h["typ"] = "JWT" }, false},
		"iss other":                 {set("iss", "https://evil.test"), false},
		"aud other":                 {set("aud", "https://other.test"), false},
		"exp past":                  {set("exp", time.Now().Unix()-1), false},
		"client_id missing":         {set("client_id", nil), false},
		"jti missing":               {set("jti", nil), false},
		"sub missing":               {set("sub", nil), false},
		"bound to a DPoP key":       {set("cnf", map[string]any{"jkt": "x"}), false},
		"bound to a certificate":    {set("cnf", map[string]any{"x5t#S256": "x"}), false},
		"scope that is no text":     {set("scope", []string{"a"}), false},
		"iat that is no number":     {set("iat", "now"), false},
		"subject with a line break": {set("sub", "alice\nroot"), false},
	} {
		as.Configure(func(o *astest.Options) { o.AccessTokenClaims = tc.change })
		b, err := c.CheckBearer(t.Context(), Secret(as.Issue("alice", "openid read", "").AccessToken), ValidateJWT)
		if (err == nil) != tc.good || !tc.good && !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s: error %v", name, err)
		}
		if err == nil && (b.Subject != "alice" || fmt.Sprint(b.Scope) != "[openid read]") {
			t.Errorf("%s: %+v", name, b)
		}
	}
	as.Configure(func(o *astest.Options) { o.AccessTokenClaims = nil })
	tokens := as.Issue("alice", "openid", "")
	for name, raw := range map[string]string{
		"ID token":      tokens.IDToken,
		"refresh token": tokens.RefreshToken,
		"logout token":  as.LogoutToken("alice", "", nil),
		"empty":         "",
	} {
		if _, err := c.CheckBearer(t.Context(), Secret(raw), ValidateJWT); !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, mode := range []ValidateMode{ValidateAuto, ValidateExpiry} {
		if _, err := c.CheckBearer(t.Context(), Secret(tokens.AccessToken), mode); err == nil {
			t.Errorf("mode %s takes the tokens of others", mode)
		}
	}
	if _, err := newClient(t, as).CheckBearer(t.Context(), Secret(tokens.AccessToken), ValidateJWT); err == nil {
		t.Error("mode jwt without an audience takes the tokens of others")
	}
	for range 2 {
		if _, err := c.CheckBearer(t.Context(), Secret(tokens.AccessToken), ValidateJWT); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.CheckBearer(t.Context(), Secret(tokens.AccessToken), ValidateJWT, "https://other.test"); !errors.Is(err, ErrAccessToken) {
		t.Errorf("a known token for an audience of an upstream's own: %v", err)
	}
}

func TestBearerIsJudgedEveryTime(t *testing.T) { // AT-02, JW-10
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
		token := Secret(as.Issue("alice", "openid", "").AccessToken)
		first, err := c.CheckBearer(t.Context(), token, ValidateJWT)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.CheckBearer(t.Context(), token, ValidateJWT); err != nil || again != first {
			t.Errorf("a signature is verified again: %v", err)
		}
		// Those that verify with keys that were fetched for their sake are remembered too.
		as.RotateKey("key-next", true)
		token = Secret(as.Issue("alice", "openid", "").AccessToken)
		if first, err = c.CheckBearer(t.Context(), token, ValidateJWT); err != nil {
			t.Fatal(err)
		}
		if again, err := c.CheckBearer(t.Context(), token, ValidateJWT); err != nil || again != first {
			t.Errorf("a signature is verified again: %v", err)
		}
		time.Sleep(refetchEvery)
		// Made-up tokens have keys fetched once a minute, and are refused.
		fetched := as.Count(astest.JWKS)
		stranger := astest.NewKey("ES256", "key-x")
		for i := range 100 {
			raw := stranger.Sign(stranger.Header("at+jwt"), map[string]any{
				"iss": as.Issuer(), "sub": "root", "aud": "https://api.test", "client_id": "x", "jti": fmt.Sprint(i),
				"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			})
			if _, err := c.CheckBearer(t.Context(), Secret(raw), ValidateJWT); err == nil {
				t.Fatal("a stranger's token passes")
			}
		}
		if n := as.Count(astest.JWKS) - fetched; n > 1 {
			t.Errorf("%d fetches of keys", n)
		}
		time.Sleep(5 * time.Minute)
		if _, err := c.CheckBearer(t.Context(), token, ValidateJWT); !errors.Is(err, ErrAccessTokenExpired) {
			t.Errorf("expired: %v", err)
		}
	})
}

func TestBearerIntrospected(t *testing.T) { // AT-07, AT-10, C1
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*astest.Options)
		good   bool
	}{
		"good":                  {func(*astest.Options) {}, true},
		"of another client":     {introspected("client_id", "cli"), true},
		"token_type bearer":     {introspected("token_type", "bearer"), true},
		"token_type missing":    {introspected("token_type", nil), false},
		"token_type DPoP":       {introspected("token_type", "DPoP"), false},
		"token_use refresh":     {introspected("token_use", "refresh_token"), false},
		"token_use id":          {introspected("token_use", "id"), false},
		"typ ID":                {introspected("typ", "ID"), false},
		"typ Refresh":           {introspected("typ", "Refresh"), false},
		"typ Offline":           {introspected("typ", "Offline"), false},
		"bound":                 {introspected("cnf", map[string]any{"jkt": "x"}), false},
		"aud other":             {introspected("aud", "other"), false},
		"without sub":           {introspected("sub", nil), true},
		"sub with a line break": {introspected("sub", "a\nb"), false},
		"inactive":              {introspected("active", false), false},
	} {
		as := opaqueServer(tc.change)
		c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
		_, err := c.CheckBearer(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), ValidateIntrospection)
		if (err == nil) != tc.good || !tc.good && !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	as := opaqueServer()
	tokens := as.Issue("alice", "openid", "")
	for name, raw := range map[string]string{"refresh token": tokens.RefreshToken, "ID token": tokens.IDToken} {
		if _, err := newClient(t, as).CheckBearer(t.Context(), Secret(raw), ValidateIntrospection); !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
