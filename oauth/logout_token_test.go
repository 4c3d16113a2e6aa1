// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

type m = map[string]any

// logoutEvents is a right events claim.
var logoutEvents = m{astest.LogoutEvent: m{}}

func TestLogoutTokenClaims(t *testing.T) { // LO-10, LO-11, LO-12, C6, A313
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
	now := time.Now().Unix()
	null := json.RawMessage("null")
	for name, tc := range map[string]struct {
		change m
		ok     bool
	}{
		"good":                              {ok: true},
		"sid alone":                         {change: m{"sub": nil}, ok: true},
		"sub alone":                         {change: m{"sid": nil}, ok: true},
		"neither":                           {change: m{"sub": nil, "sid": nil}},
		"both null":                         {change: m{"sub": null, "sid": null}},
		"sub empty":                         {change: m{"sub": ""}},
		"sub a number":                      {change: m{"sub": 7}},
		"sub too long":                      {change: m{"sub": strings.Repeat("a", 256)}},
		"sid empty":                         {change: m{"sid": ""}},
		"sid an array":                      {change: m{"sid": []string{"s"}}},
		"iss other":                         {change: m{"iss": "https://evil.test"}},
		"iss with slash":                    {change: m{"iss": as.Issuer() + "/"}},
		"iss missing":                       {change: m{"iss": nil}},
		"aud other":                         {change: m{"aud": "other"}},
		"aud missing":                       {change: m{"aud": nil}},
		"aud array of one":                  {change: m{"aud": []string{"app"}}, ok: true},
		"aud with a stranger":               {change: m{"aud": []string{"app", "stranger"}}},
		"aud with a trusted one, azp":       {change: m{"aud": []string{"app", "https://api.test"}, "azp": "app"}, ok: true},
		"aud the API alone":                 {change: m{"aud": "https://api.test"}},
		"iat missing":                       {change: m{"iat": nil}},
		"iat in an hour":                    {change: m{"iat": now + 3600, "exp": now + 7200}},
		"iat an hour ago":                   {change: m{"iat": now - 3600, "exp": now + 3600}},
		"iat six minutes ago":               {change: m{"iat": now - 360, "exp": now + 3600}},
		"iat four minutes ago":              {change: m{"iat": now - 240, "exp": now + 3600}, ok: true},
		"iat a string":                      {change: m{"iat": "1"}},
		"exp missing":                       {change: m{"exp": nil}},
		"exp null":                          {change: m{"exp": null}},
		"exp past":                          {change: m{"iat": now - 100, "exp": now - 60}},
		"exp past within leeway":            {change: m{"iat": now - 100, "exp": now - 10}, ok: true},
		"nbf in an hour":                    {change: m{"nbf": now + 3600}},
		"jti missing":                       {change: m{"jti": nil}},
		"jti empty":                         {change: m{"jti": ""}},
		"jti a number":                      {change: m{"jti": 7}},
		"events missing":                    {change: m{"events": nil}},
		"events null":                       {change: m{"events": null}},
		"events empty":                      {change: m{"events": m{}}},
		"events another":                    {change: m{"events": m{"http://schemas.openid.net/event/other": m{}}}},
		"events another case":               {change: m{"events": m{strings.ToUpper(astest.LogoutEvent): m{}}}},
		"events an array":                   {change: m{"events": []any{astest.LogoutEvent}}},
		"events a string":                   {change: m{"events": astest.LogoutEvent}},
		"event null":                        {change: m{"events": m{astest.LogoutEvent: nil}}},
		"event a string":                    {change: m{"events": m{astest.LogoutEvent: ""}}},
		"event an array":                    {change: m{"events": m{astest.LogoutEvent: []any{}}}},
		"event with members":                {change: m{"events": m{astest.LogoutEvent: m{"x": 1}}}, ok: true},
		"a second event":                    {change: m{"events": m{astest.LogoutEvent: m{}, "urn:other": m{}}}, ok: true},
		"nonce":                             {change: m{"nonce": "n"}},
		"nonce empty":                       {change: m{"nonce": ""}},
		"nonce null":                        {change: m{"nonce": null}},
		"claims that are not about logouts": {change: m{"toe": now, "txn": "x"}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lt, err := c.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "s", tc.change)))
			switch {
			case tc.ok && err != nil:
				t.Error(err)
			case !tc.ok && !errors.Is(err, ErrLogoutToken):
				t.Errorf("got %+v, %v", lt, err)
			case !tc.ok && strings.Contains(err.Error(), "evil"):
				t.Errorf("the error quotes the token: %v", err)
			}
		})
	}
	lt, err := c.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "s", m{"jti": "j"})))
	if err != nil || lt.Subject != "alice" || lt.SID != "s" || lt.ID != "j" || lt.IssuedAt.Unix() < now ||
		lt.Until.Sub(lt.IssuedAt) != astest.LogoutTokenLifetime+defaultLeeway {
		t.Errorf("%+v, %v", lt, err)
	}
}

func TestLogoutTokenTypeAndSignature(t *testing.T) { // LO-09, LO-13, LO-18, JW-03
	t.Parallel()
	as := astest.New(astest.Options{Algorithm: "RS256", MetadataDoc: func(doc m) { doc["id_token_signing_alg_values_supported"] = []string{"RS256"} }})
	c := newClient(t, as)
	key, unnamed := as.SigningKey(), astest.NewKey("ES256", "key-2")
	as.SetKeys(key, unnamed)
	header := func(typ string, change m) m {
		h := key.Header(typ)
		for name, v := range change {
			h[name] = v
		}
		return h
	}
	claims := func() m { return as.LogoutClaims("alice", "s") }
	stranger := astest.NewKey("RS256", key.ID)
	public := fmt.Sprint(key.JWK()["n"])
	tokens := as.Issue("alice", "openid", "n")
	for name, tc := range map[string]struct {
		token string
		ok    bool
	}{
		"typ logout+jwt":              {key.Sign(header("logout+jwt", nil), claims()), true},
		"typ in full, other case":     {key.Sign(header("application/Logout+JWT", nil), claims()), true},
		"typ JWT":                     {key.Sign(header("JWT", nil), claims()), true},
		"typ absent":                  {key.Sign(header("-", nil), claims()), true},
		"typ at+jwt":                  {key.Sign(header("at+jwt", nil), claims()), false},
		"typ dpop+jwt":                {key.Sign(header("dpop+jwt", nil), claims()), false},
		"typ secevent+jwt":            {key.Sign(header("secevent+jwt", nil), claims()), false},
		"alg none":                    {key.Sign(header("logout+jwt", m{"alg": "none"}), claims()), false},
		"alg none, unsigned":          {strings.Join(strings.Split(key.Sign(header("logout+jwt", m{"alg": "none"}), claims()), ".")[:2], ".") + ".", false},
		"alg NoNe":                    {key.Sign(header("logout+jwt", m{"alg": "NoNe"}), claims()), false},
		"alg HS256 of the secret":     {astest.SignHMAC([]byte("secret"), header("logout+jwt", m{"alg": "HS256"}), claims()), false},
		"alg HS256 of the public key": {astest.SignHMAC([]byte(public), header("logout+jwt", m{"alg": "HS256"}), claims()), false},
		"alg not of the metadata":     {unnamed.Sign(unnamed.Header("logout+jwt"), claims()), false},
		"alg of another key":          {key.Sign(header("logout+jwt", m{"alg": "PS256"}), claims()), false},
		"signed by a stranger":        {stranger.Sign(stranger.Header("logout+jwt"), claims()), false},
		"key in the header":           {stranger.Sign(header("logout+jwt", m{"jwk": stranger.JWK()}), claims()), false},
		"crit":                        {key.Sign(header("logout+jwt", m{"crit": []string{"exp"}}), claims()), false},
		"repeated claim":              {key.SignRaw(must(json.Marshal(header("logout+jwt", nil))), []byte(strings.Replace(string(must(json.Marshal(claims()))), "{", `{"sub":"bob",`, 1))), false},
		"an ID token":                 {tokens.IDToken, false},
		"an access token":             {tokens.AccessToken, false},
		"an ID token with the event":  {string(idToken(as, m{"events": logoutEvents, "jti": "j"})), false},
		"encrypted":                   {"a.b.c.d.e", false},
		"empty":                       {"", false},
		"too long":                    {key.Sign(header("logout+jwt", nil), func() m { c := claims(); c["pad"] = strings.Repeat("a", MaxLogoutToken); return c }()), false},
	} {
		t.Run(name, func(t *testing.T) {
			if lt, err := c.VerifyLogoutToken(t.Context(), Secret(tc.token)); tc.ok != (err == nil) || err != nil && !errors.Is(err, ErrLogoutToken) {
				t.Errorf("got %+v, %v", lt, err)
			}
		})
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// A token of one kind is no token of another: a logout token signs nobody in.
func TestLogoutTokenIsNoOtherToken(t *testing.T) { // ID-12
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	token := Secret(as.LogoutToken("alice", "s", m{"nonce": "n"}))
	if _, err := c.VerifyIDToken(t.Context(), token, IDTokenCheck{Nonce: "n"}); !errors.Is(err, ErrIDToken) {
		t.Errorf("as an ID token: %v", err)
	}
	if _, err := c.CheckAccessToken(t.Context(), token, ValidateJWT); !errors.Is(err, ErrAccessToken) {
		t.Errorf("as an access token: %v", err)
	}
}

// H207, LO-17, A316: whoever makes tokens up gets one fetch of the keys a minute,
// and none at all with what can be seen to be wrong. A login has its own.
func TestLogoutTokenFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		if _, err := c.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "s", nil))); err != nil {
			t.Fatal(err)
		}
		as.ForgetRequests()
		key := as.SigningKey()
		for i := range 1000 {
			stranger := fmt.Sprint("stranger-", i)
			for _, token := range []string{
				key.Sign(m{"alg": "none", "kid": stranger}, as.LogoutClaims("alice", "s")),
				key.Sign(m{"alg": "ES256", "kid": stranger}, m{"iss": as.Issuer()}),
				fmt.Sprint("junk", i),
			} {
				if _, err := c.VerifyLogoutToken(t.Context(), Secret(token)); !errors.Is(err, ErrLogoutToken) {
					t.Fatal(err)
				}
			}
		}
		if n := as.Count(astest.JWKS); n != 0 {
			t.Errorf("%d fetches for what is wrong at first sight", n)
		}
		forged := astest.NewKey("ES256", "")
		for i := range 600 {
			_, err := c.VerifyLogoutToken(t.Context(), Secret(forged.Sign(m{"alg": "ES256", "kid": fmt.Sprint(i)}, as.LogoutClaims("alice", "s"))))
			if i == 0 && !errors.Is(err, ErrLogoutToken) || err == nil {
				t.Fatalf("%d: %v", i, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := as.Count(astest.JWKS); n != 1 {
			t.Errorf("%d fetches in a minute", n)
		}
		// Keys that are new are found by a login at once all the same.
		next := as.RotateKey("key-2", false)
		if _, err := c.VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"}); err != nil {
			t.Errorf("a login after the flood, by %s: %v", next.ID, err)
		}
	})
}

// Keys rotated without overlap: the first logout token finds the new one, and while
// newer keys cannot be asked for, nothing is said about a token that may be right.
func TestLogoutTokenOfANewKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		verify := func() error {
			_, err := c.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "s", nil)))
			return err
		}
		if err := verify(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		as.RotateKey("key-2", false)
		if err := verify(); err != nil {
			t.Errorf("after a rotation: %v", err)
		}
		time.Sleep(10 * time.Second)
		as.RotateKey("key-3", false)
		if err := verify(); !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("too soon after another: %v", err)
		}
		time.Sleep(time.Minute)
		if err := verify(); err != nil {
			t.Errorf("a minute later: %v", err)
		}
		time.Sleep(time.Minute)
		as.RotateKey("key-4", false)
		as.Script(astest.JWKS, astest.Answer{Status: http.StatusServiceUnavailable})
		if err := verify(); !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("while the keys cannot be had: %v", err)
		}
		as.SetDown(true)
		cold := newClient(t, as)
		if _, err := cold.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "s", nil))); !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("without metadata: %v", err)
		}
	})
}

// FuzzLogoutToken: whatever is in it, signed or not: no panic, and what passes has
// all that a logout token has to have.
func FuzzLogoutToken(f *testing.F) {
	as := astest.New(astest.Options{})
	c := newClient(f, as)
	key := as.SigningKey()
	good := as.LogoutClaims("alice", "s") // for the next minutes
	for _, seed := range []string{
		string(must(json.Marshal(good))), `{}`, `{"events":{"` + astest.LogoutEvent + `":{}}}`, `[]`, `{"nonce":null}`, `{"aud":["app","app"],"azp":"app"}`,
	} {
		f.Add([]byte(`{"alg":"ES256","kid":"key-1","typ":"logout+jwt"}`), []byte(seed), true)
		f.Add([]byte(`{"alg":"none"}`), []byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, header, payload []byte, signed bool) {
		token := key.SignRaw(header, payload)
		if !signed {
			token = string(header) + "." + string(payload) + ".AAAA"
		}
		lt, err := c.VerifyLogoutToken(t.Context(), Secret(token))
		if err != nil {
			if !errors.Is(err, ErrLogoutToken) && !errors.Is(err, ErrKeysUnavailable) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		var claims, events map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(payload, &claims), json.Unmarshal(claims["events"], &events)); err != nil ||
			!strings.HasPrefix(string(events[astest.LogoutEvent]), "{") || claims["nonce"] != nil || lt.ID == "" || lt.Subject == "" && lt.SID == "" || !signed || time.Until(lt.Until) > maxLogoutTokenAge+time.Minute {
			t.Errorf("passed: %s %s: %+v, %v", header, payload, lt, err)
		}
	})
}
