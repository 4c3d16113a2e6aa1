// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// CA-03, CA-04, CA-06: wherever this client authenticates, the assertion is for the
// issuer, as one string, whatever the metadata says its endpoints are called: were the
// token endpoint that of somebody else, nobody could use the assertion there.
func TestAudienceOfAssertionsAtEveryEndpoint(t *testing.T) {
	t.Parallel()
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	as := astest.New(astest.Options{
		AuthMethod: "private_key_jwt", ClientKeys: func() []byte { return keySetOf(key.PublicKeys()) }, PAR: true, AccessTokenType: "opaque",
	})
	c := newClient(t, as, func(cfg *Config) { cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey = AuthPrivateKeyJWT, nil, key })
	tokens, _ := login(t, c, as)
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken}); err != nil {
		t.Errorf("%v: %s", err, lastAuthError(as))
	}
	if _, err := c.CheckAccessToken(t.Context(), tokens.AccessToken, ValidateIntrospection); err != nil {
		t.Errorf("%v: %s", err, lastAuthError(as))
	}
	if err := c.Revoke(t.Context(), tokens.RefreshToken, "refresh_token"); err != nil {
		t.Errorf("%v: %s", err, lastAuthError(as))
	}
	seen := map[any]bool{}
	for _, endpoint := range []string{astest.PAR, astest.Token, astest.Introspect, astest.Revoke} {
		requests := as.Requests(endpoint)
		if len(requests) == 0 {
			t.Errorf("%s was not asked", endpoint)
		}
		for _, r := range requests {
			_, claims := r.AssertionParts()
			if aud, ok := claims["aud"].(string); !ok || aud != as.Issuer() || claims["iss"] != "app" || claims["sub"] != "app" || seen[claims["jti"]] {
				t.Errorf("%s: %v", endpoint, claims)
			}
			seen[claims["jti"]] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d assertions for 5 requests", len(seen))
	}
}

// CA-06: a server that publishes another one's issuer as its token endpoint gets an
// assertion for itself alone.
func TestAudienceInjection(t *testing.T) {
	t.Parallel()
	const honest = "https://honest.test"
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	as := astest.New(astest.Options{Host: "evil.test", MetadataDoc: func(doc map[string]any) { doc["token_endpoint"] = honest }})
	shown := &shownAssertions{RoundTripper: as.HTTPClient().Transport}
	c := newClient(t, as, func(cfg *Config) {
		cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey = AuthPrivateKeyJWT, nil, key
		cfg.HTTP = &http.Client{Transport: shown}
	})
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); err == nil {
		t.Error("tokens of a server that is not there")
	}
	if len(shown.assertions) != 1 {
		t.Fatalf("%d assertions were shown", len(shown.assertions))
	}
	s, err := parseJWS(shown.assertions[0])
	if err != nil {
		t.Fatal(err)
	}
	if cl, err := parseClaims(s.payload); err != nil || cl.members["aud"] != "https://evil.test" {
		t.Errorf("an assertion for %v, %v", cl.members["aud"], err)
	}
}

// shownAssertions keeps the client assertions that are posted.
type shownAssertions struct {
	http.RoundTripper
	assertions []string
}

func (s *shownAssertions) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		return s.RoundTripper.RoundTrip(r)
	}
	err := r.ParseForm()
	s.assertions = append(s.assertions, r.PostForm.Get("client_assertion"))
	return nil, errors.Join(errors.New("nobody is there"), err)
}
