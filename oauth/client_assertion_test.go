// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

const longSecret = "a secret of 32 bytes or more, as RFC 7518 section 3.2 wants it for the longest of the three"

// assertionClients are a server that demands client assertions, and its client,
// by what is special about them.
func assertionClients(t testing.TB) map[string]func() (*astest.Server, *Client) {
	t.Helper()
	privateKey := func(alg, asked string, options astest.Options, change ...func(*Config)) func() (*astest.Server, *Client) {
		return func() (*astest.Server, *Client) {
			key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey(alg, "").Files()["PKCS#8"]), Alg: asked})
			options.AuthMethod, options.ClientKeys = "private_key_jwt", func() []byte { return keySetOf(key.PublicKeys()) }
			options.AssertionAlgs = []string{key.algorithm()}
			as := astest.New(options)
			return as, newClient(t, as, append(change, func(cfg *Config) {
				cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey = AuthPrivateKeyJWT, nil, key
			})...)
		}
	}
	secret := func(alg string) func() (*astest.Server, *Client) {
		return func() (*astest.Server, *Client) {
			as := astest.New(astest.Options{AuthMethod: "client_secret_jwt", ClientSecret: longSecret, AssertionAlgs: []string{alg}})
			return as, newClient(t, as, func(cfg *Config) {
				cfg.AuthMethod, cfg.Assertion.Alg = AuthClientSecretJWT, alg
				cfg.ClientSecret = func() (Secret, error) { return longSecret, nil }
			})
		}
	}
	return map[string]func() (*astest.Server, *Client){
		"private_key_jwt RS256": privateKey("RS256", "", astest.Options{}), "private_key_jwt PS256": privateKey("RS256", "PS256", astest.Options{}),
		"private_key_jwt ES256": privateKey("ES256", "", astest.Options{Path: "/tenant"}), "private_key_jwt EdDSA": privateKey("EdDSA", "", astest.Options{}),
		"client_secret_jwt HS256": secret("HS256"), "client_secret_jwt HS384": secret("HS384"), "client_secret_jwt HS512": secret("HS512"),
		"for the token endpoint": privateKey("ES256", "", astest.Options{AssertionAudience: "https://as.test/token"}, func(cfg *Config) {
			cfg.Assertion.Audience = AudienceTokenEndpoint
		}),
		"typ JWT": privateKey("ES256", "", astest.Options{AssertionType: "JWT"}, func(cfg *Config) { cfg.Assertion.Type = AssertionTypeJWT }),
		"no typ":  privateKey("ES256", "", astest.Options{AssertionType: "-"}, func(cfg *Config) { cfg.Assertion.Type = AssertionTypeNone }),
	}
}

// CA-02, CA-03, CA-04, CA-05, CA-07: a strict server takes every assertion of a
// whole session, at every endpoint.
func TestClientAssertions(t *testing.T) {
	t.Parallel()
	for name, make := range assertionClients(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as, c := make()
			tokens, _ := login(t, c, as)
			for range 3 {
				next, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken})
				if err != nil {
					t.Fatalf("%v: %s", err, lastAuthError(as))
				}
				tokens = next
			}
			if _, err := c.ExchangeToken(t.Context(), TokenExchangeRequest{SubjectToken: tokens.AccessToken}); err != nil {
				t.Errorf("%v: %s", err, lastAuthError(as))
			}
			if err := c.Revoke(t.Context(), tokens.RefreshToken, "refresh_token"); err != nil {
				t.Errorf("%v: %s", err, lastAuthError(as))
			}
			seen := map[any]bool{}
			for _, r := range append(as.Requests(astest.Token), as.Requests(astest.Revoke)...) {
				header, claims := r.AssertionParts()
				if r.Header.Get("Authorization") != "" || r.Form.Has("client_secret") || header == nil || r.Form.Get("client_id") != "app" {
					t.Errorf("%s: %v %v", r.Endpoint, r.Header, r.Form)
				}
				if _, there := claims["nbf"]; there || seen[claims["jti"]] {
					t.Errorf("%s: %v", r.Endpoint, claims)
				}
				seen[claims["jti"]] = true
			}
			if len(seen) != 6 {
				t.Errorf("%d assertions for 6 requests", len(seen))
			}
		})
	}
}

func lastAuthError(as *astest.Server) string {
	all := as.Requests("")
	return all[len(all)-1].AuthError
}

// CA-03: whoever repeats a request, after an outage for instance, sends another
// assertion; and an assertion lives for a minute, of which the first seconds are
// past.
func TestClientAssertionTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as, c := assertionClients(t)["client_secret_jwt HS256"]()
		tokens, _ := login(t, c, as)
		as.ForgetRequests()
		as.Script(astest.Token, astest.OAuthError(http.StatusServiceUnavailable, "temporarily_unavailable"))
		now := time.Now()
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken}); ClassOf(err) != ClassOutage {
			t.Fatal(err)
		}
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken}); err != nil {
			t.Fatal(err)
		}
		requests := as.Requests(astest.Token)
		_, first := requests[0].AssertionParts()
		_, second := requests[1].AssertionParts()
		if first["jti"] == second["jti"] || first["iat"] != float64(now.Unix()-5) || first["exp"] != float64(now.Unix()+55) {
			t.Errorf("%v, then %v; now is %d", first, second, now.Unix())
		}
	})
}

// CA-06: metadata that names another server's issuer, or token endpoint, gets no
// assertion that is good there.
func TestAssertionAudienceIsNotForMetadataToSay(t *testing.T) {
	t.Parallel()
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) {
		doc["token_endpoint"] = "https://as.test/token?https://honest.test"
	}})
	c := newClient(t, as, func(cfg *Config) { cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey = AuthPrivateKeyJWT, nil, key })
	_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
	if _, claims := as.Requests(astest.Token)[0].AssertionParts(); claims["aud"] != "https://as.test" {
		t.Errorf("aud is %v", claims["aud"])
	}
}

// RFC 7518 section 3.2: a secret that is shorter than the hash is no key. Nothing
// is sent, and the secret is in no error.
func TestShortSecretSignsNothing(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	for alg, n := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
		for _, short := range []bool{true, false} {
			secret := Secret(strings.Repeat("s", n))
			if short {
				secret = secret[1:]
			}
			c := newClient(t, as, func(cfg *Config) {
				cfg.AuthMethod, cfg.Assertion.Alg = AuthClientSecretJWT, alg
				cfg.ClientSecret = func() (Secret, error) { return secret, nil }
			})
			as.ForgetRequests()
			_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
			if ClassOf(err) != ClassConfiguration || strings.Contains(err.Error(), "needs at least") != short || as.Count(astest.Token) == 0 != short || strings.Contains(err.Error(), "sss") {
				t.Errorf("%s, short %v: %v, %d requests", alg, short, err, as.Count(astest.Token))
			}
			if err := CheckClientSecret(AuthClientSecretJWT, alg, secret); (err != nil) != short {
				t.Errorf("%s, short %v: %v", alg, short, err)
			}
		}
	}
	if CheckClientSecret(AuthClientSecretBasic, "", "x") != nil || CheckClientSecret(AuthClientSecretJWT, "", "x") == nil || CheckClientSecret(AuthClientSecretJWT, "none", longSecret) == nil {
		t.Error("which secrets are checked")
	}
}
