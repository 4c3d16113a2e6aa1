// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// tokenSlots are the places where a JWT of the issuer may be shown, each told whether
// it was taken for what belongs there.
var tokenSlots = map[string]func(t *testing.T, as *astest.Server, c *Client, token Secret) bool{
	"ID token": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		_, err := c.VerifyIDToken(t.Context(), token, IDTokenCheck{Nonce: "n"})
		return err == nil
	},
	"refreshed ID token": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		_, err := c.VerifyRefreshedIDToken(t.Context(), token, RefreshedIDTokenCheck{Subject: "alice"})
		return err == nil
	},
	"access token": func(_ *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		return accepts(c, token) == nil
	},
	"access token, mode auto": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		v, err := c.CheckAccessToken(t.Context(), token, ValidateAuto)
		return err == nil && v.JWT
	},
	"bearer": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		_, err := c.CheckBearer(t.Context(), token, ValidateJWT)
		return err == nil
	},
	"logout token": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		_, err := c.VerifyLogoutToken(t.Context(), token)
		return err == nil
	},
	"authorization response": func(t *testing.T, _ *astest.Server, c *Client, token Secret) bool {
		code, err := c.ValidateAuthorizationResponse(t.Context(), url.Values{"response": {token.Reveal()}}, AuthorizationResponseCheck{State: "st", ResponseMode: ResponseModeJWT})
		return err == nil && code != ""
	},
	"UserInfo": func(t *testing.T, as *astest.Server, c *Client, token Secret) bool {
		as.Script(astest.UserInfo, astest.Answer{Header: http.Header{"Content-Type": {"application/jwt"}}, Body: token.Reveal()})
		_, err := c.UserInfo(t.Context(), "at", "alice")
		return err == nil
	},
	"introspection": func(t *testing.T, as *astest.Server, c *Client, token Secret) bool {
		as.Script(astest.Introspect, astest.Answer{Header: http.Header{"Content-Type": {astest.IntrospectionType}}, Body: token.Reveal()})
		_, err := c.CheckAccessToken(t.Context(), NewState(), ValidateIntrospection)
		return err == nil
	},
}

// JW-05, C1: whatever the issuer signs, and were it our own client assertion, is good
// in its own place and in no other, also of servers that say "JWT" of all of them, or
// nothing.
func TestKindsOfTokensAreExclusive(t *testing.T) {
	t.Parallel()
	now := time.Now()
	soon := now.Add(time.Minute).Unix()
	type claims = map[string]any
	key := astest.NewKey("ES256", "key-1")
	const issuer = "https://as.test"
	for kind, tc := range map[string]struct {
		typ    string // "-": none
		claims claims
		slots  []string // where it belongs
		untyp  []string // and where without its typ
	}{
		"ID token": {
			"JWT", claims{"iss": issuer, "aud": "app", "sub": "alice", "nonce": "n", "sid": "s", "iat": now.Unix(), "exp": soon, "auth_time": now.Unix()},
			[]string{"ID token", "refreshed ID token"}, []string{"ID token", "refreshed ID token"},
		},
		"access token": {
			"at+jwt", claims{"iss": issuer, "aud": "https://api.test", "sub": "alice", "client_id": "app", "scope": "openid", "jti": "1", "iat": now.Unix(), "exp": soon},
			[]string{"access token", "access token, mode auto", "bearer"}, []string{"access token, mode auto"},
		},
		"access token for the client": {
			"at+jwt", claims{"iss": issuer, "aud": []string{"app", "https://api.test"}, "sub": "alice", "client_id": "app", "scope": "openid", "jti": "1", "iat": now.Unix(), "exp": soon},
			[]string{"access token", "access token, mode auto", "bearer"}, nil, // nothing tells without the typ
		},
		"logout token": {
			"logout+jwt", claims{"iss": issuer, "aud": "app", "sub": "alice", "sid": "s", "jti": "1", "iat": now.Unix(), "exp": soon, "events": logoutEvents},
			[]string{"logout token"}, []string{"logout token"},
		},
		"authorization response": {
			"JWT", claims{"iss": issuer, "aud": "app", "exp": soon, "code": "c", "state": "st"},
			[]string{"authorization response"}, []string{"authorization response"},
		},
		"UserInfo": {
			"JWT", claims{"iss": issuer, "aud": "app", "sub": "alice", "nickname": "Al"},
			[]string{"UserInfo"}, []string{"UserInfo"},
		},
		"introspection": {
			"token-introspection+jwt", claims{"iss": issuer, "aud": "app", "iat": now.Unix(), "token_introspection": claims{"active": true, "sub": "alice", "aud": "https://api.test", "token_type": "Bearer"}},
			[]string{"introspection"}, []string{},
		},
		"client assertion": {
			"client-authentication+jwt", claims{"iss": "app", "sub": "app", "aud": issuer, "jti": "1", "iat": now.Unix(), "exp": soon},
			[]string{}, []string{},
		},
		"request object": {
			"oauth-authz-req+jwt", claims{"iss": "app", "aud": issuer, "client_id": "app", "state": "st", "nonce": "n", "iat": now.Unix(), "exp": soon},
			[]string{}, []string{},
		},
		"DPoP proof": {
			"dpop+jwt", claims{"jti": "1", "htm": "POST", "htu": issuer + "/token", "iat": now.Unix()},
			[]string{}, []string{},
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			as := astest.New(astest.Options{JARM: true, SignedIntrospection: true, SignedUserInfo: true})
			as.SetKeys(key)
			c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
			for _, typ := range []string{tc.typ, "JWT", "-"} {
				belongs := tc.slots
				if typ != tc.typ {
					if belongs = tc.untyp; belongs == nil {
						continue
					}
				}
				want := map[string]bool{}
				for _, slot := range belongs {
					want[slot] = true
				}
				got := map[string]bool{}
				for slot, takes := range tokenSlots {
					if takes(t, as, c, Secret(key.Sign(key.Header(typ), tc.claims))) {
						got[slot] = true
					}
				}
				if !maps.Equal(got, want) {
					t.Errorf("typ %s: taken as %v, want %v", typ, got, want)
				}
			}
		})
	}
}

// FuzzToken: whatever the issuer, or somebody else, signs, as an ID token, as a session's
// access token and as a bearer's. What passes says what it has to say, once.
func FuzzToken(f *testing.F) {
	as := astest.New(astest.Options{Algorithm: "EdDSA"})
	c := newClient(f, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
	ctx, key, stranger := settled(f, c), as.SigningKey(), astest.NewKey("EdDSA", "key-1")
	for _, payload := range []string{
		`{"iss":"https://as.test","aud":"app","sub":"alice","nonce":"n","iat":IAT,"exp":9999999999}`,
		`{"iss":"https://as.test","aud":"https://api.test","sub":"alice","client_id":"app","jti":"1","iat":IAT,"exp":9999999999.5}`,
		`{"iss":"https://as.test","iss":"x"}`, `{"aud":["app",7],"exp":-1,"nbf":1e400}`, `[]`,
	} {
		payload = strings.ReplaceAll(payload, "IAT", strconv.FormatInt(time.Now().Unix(), 10))
		for _, header := range []string{`{"alg":"EdDSA","kid":"key-1","typ":"at+jwt"}`, `{"alg":"EdDSA"}`, `{"alg":"none"}`, `{"alg":"EdDSA","crit":["x"]}`} {
			f.Add([]byte(header), []byte(payload), true)
			f.Add([]byte(header), []byte(payload), false)
		}
	}
	f.Fuzz(func(t *testing.T, header, payload []byte, ours bool) {
		token := Secret(stranger.SignRaw(header, payload))
		if ours {
			token = Secret(key.SignRaw(header, payload))
		}
		taken := func(as, aud string, auto bool) map[string]any {
			told, err := readPlainly(t, payload)
			audience, _ := claims{&object{members: told}}.audience()
			if err != nil || !ours || told["iss"] != "https://as.test" && (told["iss"] != nil || !auto) || !slices.Contains(audience, aud) {
				t.Fatalf("taken as %s: %s.%s", as, header, payload)
			}
			return told
		}
		bounded(t, len(token), func() {
			if id, err := c.VerifyIDToken(ctx, token, IDTokenCheck{Nonce: "n"}); err == nil {
				if told := taken("ID token", "app", false); told["nonce"] != "n" || told["sub"] != id.Subject || id.Subject == "" || !id.Expiry.After(time.Now().Add(-defaultLeeway-time.Second)) {
					t.Fatalf("%+v of %s", id, payload)
				}
			}
			if v, err := c.CheckAccessToken(ctx, token, ValidateJWT); err == nil {
				if told := taken("access token", "https://api.test", false); told["jti"] == nil || !v.JWT || !v.Expiry.After(time.Now().Add(-time.Second)) {
					t.Fatalf("%+v of %s", v, payload)
				}
			}
			if b, err := c.CheckBearer(ctx, token, ValidateJWT); err == nil {
				if told := taken("bearer", "https://api.test", false); told["sub"] != b.Subject || told["cnf"] != nil {
					t.Fatalf("%+v of %s", b, payload)
				}
			}
			if v, err := c.CheckAccessToken(ctx, token, ValidateAuto); err == nil && v.JWT {
				taken("access token in mode auto", "https://api.test", true)
			}
		})
	})
}
