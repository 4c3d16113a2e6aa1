// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestClientAuthentication(t *testing.T) { // CA-01, CA-02
	t.Parallel()
	const id, secret = "app:1 ü", "p%:+ ü&=\"ß"
	for _, method := range []AuthMethod{AuthClientSecretBasic, AuthClientSecretPost, AuthNone} {
		as := astest.New(astest.Options{})
		c := newClient(t, as, func(cfg *Config) {
			cfg.AuthMethod = method
			cfg.ClientSecret = func() (Secret, error) { return secret, nil }
			if method == AuthNone {
				cfg.ClientSecret = nil
			}
		})
		c.cfg.ClientID = id // New accepts no such ID; the encoding has to be right anyway
		_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"})
		r := as.Requests(astest.Token)[0]
		want := secret
		if method == AuthNone {
			want = ""
		}
		if r.ClientAuth != string(method) || r.ClientID != id || r.ClientSecret != want {
			t.Errorf("%s: %s %q %q", method, r.ClientAuth, r.ClientID, r.ClientSecret)
		}
		if method == AuthClientSecretBasic && (r.Form.Has("client_id") || r.Form.Has("client_secret")) {
			t.Error("Basic, and credentials in the body too")
		}
		if method != AuthClientSecretBasic && r.Header.Get("Authorization") != "" {
			t.Errorf("%s with an Authorization header", method)
		}
	}
}

func TestClientSecretIsAskedAtEachCall(t *testing.T) { // CA-10, RF-08, A503, discovery 7
	t.Parallel()
	as := astest.New(astest.Options{ClientSecret: "new"})
	token := Secret(as.Issue("alice", "openid", "").RefreshToken)
	secret := Secret("old")
	c := newClient(t, as, func(cfg *Config) { cfg.ClientSecret = func() (Secret, error) { return secret, nil } })
	_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != "invalid_client" || e.Class != ClassConfiguration || e.Status != 401 {
		t.Fatalf("%v", err)
	}
	if n := as.Count(astest.Token); n != 1 {
		t.Fatalf("%d requests for one refresh: other methods were probed", n)
	}
	secret = "new"
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token}); err != nil {
		t.Fatal(err)
	}
}

func TestMissingSecretSendsNothing(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	broken := errors.New("no such file")
	for _, f := range []func() (Secret, error){
		func() (Secret, error) { return "", broken },
		func() (Secret, error) { return "", nil },
	} {
		c := newClient(t, as, func(cfg *Config) { cfg.ClientSecret = f })
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); ClassOf(err) != ClassConfiguration {
			t.Errorf("%v", err)
		}
	}
	if n := as.Count(astest.Token); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAuthMethodConfig(t *testing.T) {
	t.Parallel()
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["JWK"])})
	secret := func() (Secret, error) { return "secret", nil }
	for want, cfg := range map[string]Config{
		"method is missing":                         {ClientSecret: secret},
		`unknown client authentication method "x"`:  {AuthMethod: "x"},
		"client_secret_basic needs a client secret": {AuthMethod: AuthClientSecretBasic},
		"client_secret_post needs a client secret":  {AuthMethod: AuthClientSecretPost},
		"client_secret_jwt needs a client secret":   {AuthMethod: AuthClientSecretJWT},
		"private_key_jwt needs a signing key":       {AuthMethod: AuthPrivateKeyJWT},
		"but client authentication is none":         {AuthMethod: AuthNone, ClientSecret: secret},
		"but client authentication is private_key":  {AuthMethod: AuthPrivateKeyJWT, SigningKey: key, ClientSecret: secret},
		"tls_client_auth needs a certificate":       {AuthMethod: AuthTLSClient},
		"self_signed_tls_client_auth needs":         {AuthMethod: AuthSelfSignedTLS},
		`unknown algorithm "RS256"`:                 {AuthMethod: AuthNone, Assertion: AssertionConfig{Alg: "RS256"}},
		`unknown audience "x"`:                      {AuthMethod: AuthNone, Assertion: AssertionConfig{Audience: "x"}},
		`unknown type "x"`:                          {AuthMethod: AuthNone, Assertion: AssertionConfig{Type: "x"}},
	} {
		cfg.Issuer, cfg.ClientID = "https://as.test", "app"
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Where the metadata lists methods or algorithms and ours is not among them, one
// line says so, and ours is used all the same: nothing is probed.
func TestUnlistedMethodIsSaidOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		methods, algs any
		want          int
	}{
		{nil, nil, 1}, // the default is client_secret_basic
		{[]string{"private_key_jwt"}, nil, 0},
		{[]string{"private_key_jwt"}, []string{"PS256", "ES256"}, 0},
		{[]string{"private_key_jwt"}, []string{"PS256"}, 1},
		{[]string{"client_secret_basic", "tls_client_auth"}, []string{"RS256"}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["SEC 1"])})
			as := astest.New(astest.Options{
				AuthMethod: "private_key_jwt", ClientKeys: func() []byte { return keySetOf(key.PublicKeys()) },
				MetadataDoc: func(doc map[string]any) {
					doc["token_endpoint_auth_methods_supported"], doc["token_endpoint_auth_signing_alg_values_supported"] = tt.methods, tt.algs
				},
			})
			var log logged
			c := newClient(t, as, func(cfg *Config) {
				cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey, cfg.Logger = AuthPrivateKeyJWT, nil, key, log.logger()
			})
			tokens, _ := login(t, c, as)
			for range 3 { // each with metadata that was fetched anew
				time.Sleep(2 * metadataAge)
				if _, err := c.Metadata(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				var err error
				if tokens, err = c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken}); err != nil {
					t.Fatal(err)
				}
			}
			if got := log.count("is not among those of the authorization server"); got != tt.want || as.Count(astest.Token) != 4 {
				t.Errorf("%v %v: %d lines, %d requests", tt.methods, tt.algs, got, as.Count(astest.Token))
			}
		})
	}
}
