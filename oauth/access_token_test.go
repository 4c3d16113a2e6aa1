// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestAccessTokenClaims(t *testing.T) { // SPEC.md L
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test", "https://api2.test"} })
	now := time.Now().Unix()
	const (
		good    = "good"
		refused = "refused"
		expired = "expired"
		opaque  = "opaque"
	)
	set := func(name string, v any) func(h, cl map[string]any) {
		return func(_, cl map[string]any) {
			if v == nil {
				delete(cl, name)
			} else {
				cl[name] = v
			}
		}
	}
	typ := func(v any) func(h, cl map[string]any) {
		return func(h, _ map[string]any) {
			if v == nil {
				delete(h, "typ")
			} else {
				h["typ"] = v
			}
		}
	}
	both := func(fs ...func(h, cl map[string]any)) func(h, cl map[string]any) {
		return func(h, cl map[string]any) {
			for _, f := range fs {
				f(h, cl)
			}
		}
	}
	for name, tc := range map[string]struct {
		change    func(h, cl map[string]any)
		jwt, auto string
	}{
		"good":                            {func(_, _ map[string]any) {}, good, good},
		"AT-01 AT+JWT":                    {typ("AT+JWT"), good, good},
		"AT-01 application/at+jwt":        {typ("application/at+jwt"), good, good},
		"AT-01 JWT":                       {typ("JWT"), refused, good},
		"AT-01 absent":                    {typ(nil), refused, good},
		"AT-01 logout+jwt":                {typ("logout+jwt"), refused, opaque},
		"AT-02 iss other":                 {set("iss", "https://evil.test"), refused, refused},
		"AT-02 iss with slash":            {set("iss", as.Issuer()+"/"), refused, refused},
		"AT-02 iss number":                {set("iss", 7), refused, refused},
		"AT-02 aud other":                 {set("aud", "https://other.test"), refused, refused},
		"AT-02 aud among others":          {set("aud", []string{"x", "https://api2.test"}), good, good},
		"AT-02 aud number":                {set("aud", 7), refused, refused},
		"AT-02 exp past":                  {set("exp", now-1), expired, expired},
		"AT-02 exp this second":           {set("exp", now), expired, expired},
		"C1 exp string":                   {set("exp", "9999999999"), refused, refused},
		"C1 exp huge":                     {set("exp", json.RawMessage("1e30")), refused, refused},
		"C1 exp negative":                 {set("exp", -5), refused, refused},
		"JW-13 exp fraction":              {set("exp", float64(now)+60.5), good, good},
		"nbf in 20 s":                     {set("nbf", now+20), good, good},
		"nbf in 5 min":                    {set("nbf", now+300), refused, refused},
		"iat in an hour":                  {set("iat", now+3600), refused, refused},
		"AT-03 iss missing":               {set("iss", nil), refused, good},
		"AT-03 exp missing":               {set("exp", nil), refused, good},
		"AT-03 aud missing":               {set("aud", nil), refused, refused},
		"AT-03 sub missing":               {set("sub", nil), refused, good},
		"AT-03 sub number":                {set("sub", 7), refused, good},
		"AT-03 client_id missing":         {set("client_id", nil), refused, good},
		"AT-03 iat missing":               {set("iat", nil), refused, good},
		"AT-03 jti missing":               {set("jti", nil), refused, good},
		"JW-05 ID token by at_hash":       {both(typ("JWT"), set("at_hash", "x"), set("aud", "app")), refused, refused},
		"JW-05 ID token by nonce and aud": {both(typ("JWT"), set("nonce", "n"), set("aud", "app")), refused, refused},
		"JW-05 logout token":              {both(typ(nil), set("events", map[string]any{})), refused, refused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token := accessToken(as, as.SigningKey(), tc.change)
			for mode, want := range map[ValidateMode]string{ValidateJWT: tc.jwt, ValidateAuto: tc.auto, ValidateExpiry: opaque} {
				v, err := c.CheckAccessToken(t.Context(), token, mode)
				got := good
				switch {
				case errors.Is(err, ErrAccessTokenExpired):
					got = expired
				case errors.Is(err, ErrAccessToken):
					got = refused
				case err != nil:
					got = err.Error()
				case !v.JWT:
					got = opaque
				}
				if got != want || (v == nil) == (err == nil) {
					t.Errorf("mode %s: %s, not %s (%v)", mode, got, want, err)
				}
			}
		})
	}
}

func TestRealIDTokenIsNoAccessToken(t *testing.T) { // C1, JW-05, ID-01
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	tokens, tx := login(t, c, as)
	withAudience := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
	for mode, c := range map[ValidateMode]*Client{ValidateJWT: c, ValidateAuto: withAudience} {
		if _, err := c.CheckAccessToken(t.Context(), tokens.IDToken, mode); !errors.Is(err, ErrAccessToken) {
			t.Errorf("ID token as access token, mode %s: %v", mode, err)
		}
	}
	if _, err := c.VerifyIDToken(t.Context(), tokens.AccessToken, IDTokenCheck{Nonce: tx.nonce}); !errors.Is(err, ErrIDToken) {
		t.Errorf("access token as ID token: %v", err)
	}
	if _, err := c.CheckAccessToken(t.Context(), tokens.RefreshToken, ValidateJWT); !errors.Is(err, ErrAccessToken) {
		t.Errorf("refresh token as access token: %v", err)
	}
	as.Configure(func(o *astest.Options) { o.AccessTokenType = "JWT" })
	again := Secret(as.Issue("alice", "openid", "n").AccessToken)
	if _, err := c.VerifyRefreshedIDToken(t.Context(), again, RefreshedIDTokenCheck{Subject: "alice"}); !errors.Is(err, ErrIDToken) {
		t.Errorf("access token with typ JWT as refreshed ID token: %v", err)
	}
}

func TestOpaqueTokens(t *testing.T) { // AT-05
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	foreign := astest.NewKey("ES256", "foreign")
	for name, token := range map[string]Secret{
		"opaque":            "at-0123456789",
		"with dots":         "a.b.c",
		"looks like a JWT":  "eyJhbGciOiJub25lIn0.e30.",
		"JWE":               "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAA.AAAA.AAAA",
		"of foreign keys":   accessToken(as, foreign),
		"expired, foreign":  accessToken(as, foreign, func(_, cl map[string]any) { cl["exp"] = 1 }),
		"alg not ours":      Secret(astest.SignHMAC([]byte("x"), map[string]any{"alg": "HS256"}, map[string]any{"exp": 1})),
		"not even a header": "!!!!",
	} {
		v, err := c.CheckAccessToken(t.Context(), token, ValidateAuto)
		if err != nil || v.JWT || !v.Expiry.IsZero() || !c.VerdictCurrent(v, time.Now()) {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		if _, err := c.CheckAccessToken(t.Context(), token, ValidateJWT); !errors.Is(err, ErrAccessToken) {
			t.Errorf("%s, mode jwt: %v", name, err)
		}
	}
	for _, mode := range []ValidateMode{ValidateAuto, ValidateJWT, ValidateExpiry, "x", ""} {
		if _, err := c.CheckAccessToken(t.Context(), "", mode); err == nil {
			t.Errorf("mode %q: an empty token was accepted", mode)
		}
	}
	if _, err := c.CheckAccessToken(t.Context(), "x", "none"); err == nil {
		t.Error("an unknown mode was accepted")
	}
}

func TestVerdictFollowsTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		now := time.Now()
		token := accessToken(as, as.SigningKey(), func(_, cl map[string]any) {
			cl["nbf"], cl["exp"] = now.Unix()+20, now.Add(time.Minute).Unix()
		})
		v, err := c.CheckAccessToken(t.Context(), token, ValidateJWT)
		if err != nil {
			t.Fatal(err)
		}
		for after, want := range map[time.Duration]bool{
			-11 * time.Second: false, -9 * time.Second: true, 0: true, 59 * time.Second: true,
			time.Minute: false, time.Minute + 10*time.Second: false, // leeway does not extend exp
		} {
			if c.VerdictCurrent(v, now.Add(after)) != want {
				t.Errorf("%v: not %v", after, want)
			}
		}
		if c.VerdictCurrent(nil, now) {
			t.Error("no verdict holds")
		}
	})
}

func TestAutoModeDoesNotHangOnKeys(t *testing.T) { // F401
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		token := accessToken(as, as.SigningKey())
		as.Script(astest.JWKS, astest.Answer{Hang: true})
		start := time.Now()
		v, err := c.CheckAccessToken(t.Context(), token, ValidateAuto)
		if err != nil || v.JWT || time.Since(start) > autoWait {
			t.Fatalf("%+v %v after %v", v, err, time.Since(start))
		}
		if !c.VerdictCurrent(v, time.Now()) {
			t.Error("a provisional verdict does not hold at all")
		}
		time.Sleep(provisionalFor)
		if c.VerdictCurrent(v, time.Now()) {
			t.Error("a provisional verdict holds for ever")
		}
		if v, err = c.CheckAccessToken(t.Context(), token, ValidateAuto); err != nil || !v.JWT {
			t.Errorf("with keys again: %+v %v", v, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newClient(t, as).CheckAccessToken(ctx, token, ValidateAuto); !errors.Is(err, context.Canceled) {
			t.Errorf("caller left: %v", err)
		}
	})
}

func BenchmarkVerdictCurrent(b *testing.B) {
	as := astest.New(astest.Options{})
	c := newClient(b, as)
	v, err := c.CheckAccessToken(b.Context(), accessToken(as, as.SigningKey()), ValidateJWT)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	for b.Loop() {
		if !c.VerdictCurrent(v, now) {
			b.Fatal("not current")
		}
	}
}

// Dex, authentik: the access token is an ID token in all but name, with the nonce of
// the login, the client as its audience, and at Dex an at_hash of nothing. It is what
// the server calls an access token. What it says is checked all the same.
func TestAccessTokensOfDexAndAuthentik(t *testing.T) { // AT-02
	t.Parallel()
	for name, change := range map[string]func(header, claims map[string]any){
		"Dex": func(header, claims map[string]any) {
			delete(header, "typ")
			claims["at_hash"] = "bi96gOXZShvlWYtal9Eqiw"
		},
		"authentik": func(header, claims map[string]any) {
			header["typ"] = "JWT"
			claims["azp"], claims["uid"] = "app", "Zf0vK2"
		},
	} {
		as := astest.New(astest.Options{AccessTokenClaims: func(header, claims map[string]any) {
			claims["aud"], claims["nonce"] = "app", "n"
			delete(claims, "scope")
			delete(claims, "client_id")
			change(header, claims)
		}})
		c := newClient(t, as)
		tokens, _ := login(t, c, as)
		if v, err := c.CheckAccessToken(t.Context(), tokens.AccessToken, ValidateAuto); err != nil || !v.JWT || v.Expiry.IsZero() {
			t.Errorf("%s: %+v %v", name, v, err)
		}
		as.Configure(func(o *astest.Options) { o.AccessTokenLifetime = -1 })
		old := Secret(as.Issue("alice", "openid", "n").AccessToken)
		if _, err := c.CheckAccessToken(t.Context(), old, ValidateAuto); !errors.Is(err, ErrAccessTokenExpired) {
			t.Errorf("%s, expired: %v", name, err)
		}
	}
}
