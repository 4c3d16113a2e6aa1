// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// write writes a file beside the gateway's configuration and returns its path.
func (b *bench) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// CA-03 to CA-08, MD-09, MT-01: an independent authorization server is the judge
// of each method: of every code, refresh and revocation. Access tokens live for
// seconds, so that there are several; a key file is exchanged in between.
func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	key := astest.NewKey("ES256", "")
	authority := astest.NewAuthority()
	issued, selfSigned := authority.Issue("e2e"), astest.SelfSigned("whoever")
	certificateOptions := func(t *testing.T, b *bench, s *authorizationServerSettings, method string, c *astest.Certificate) string {
		certificate, private := authority.Issue("authorization server").PEM()
		s.MutualTLS = &mutualTLS{CA: string(authority.PEM()), Certificate: string(certificate), Key: string(private)}
		certificate, private = c.PEM()
		return fmt.Sprintf("trust_ca %s\nclient_auth %s {\ncertificate %s\nprivate_key %s\n", b.write(t, "ca.pem", authority.PEM()), method,
			b.write(t, "cert.pem", certificate), b.write(t, "cert-key.pem", private))
	}
	for _, tt := range []struct {
		name    string
		options func(*testing.T, *bench, *authorizationServerSettings) string
		bound   *astest.Certificate // access tokens are bound to it
		rotate  bool
	}{
		{name: "client_secret_jwt", options: func(_ *testing.T, b *bench, s *authorizationServerSettings) string {
			return "client_secret {file." + filepath.Join(b.dir, "client_secret") + "}\nclient_auth client_secret_jwt"
		}},
		{name: "private_key_jwt", rotate: true, options: func(t *testing.T, b *bench, s *authorizationServerSettings) string {
			s.JWKSURI = b.origin + "/bff/jwks"
			return "client_auth private_key_jwt {\nkey_file " + b.write(t, "key.pem", key.Files()["PKCS#8"]) + "\n}"
		}},
		{name: "tls_client_auth", bound: issued, options: func(t *testing.T, b *bench, s *authorizationServerSettings) string {
			return certificateOptions(t, b, s, "tls_client_auth", issued) + "}"
		}},
		{name: "self_signed_tls_client_auth", bound: selfSigned, options: func(t *testing.T, b *bench, s *authorizationServerSettings) string {
			s.JWKSURI = b.origin + "/bff/jwks"
			return certificateOptions(t, b, s, "self_signed_tls_client_auth", selfSigned) + "}"
		}},
		{name: "private_key_jwt", bound: issued, options: func(t *testing.T, b *bench, s *authorizationServerSettings) string {
			s.JWKSURI = b.origin + "/bff/jwks"
			return certificateOptions(t, b, s, "private_key_jwt", issued) + "alg PS256\nkey_file " + b.write(t, "key.jwk", astest.NewKey("RS256", "k").Files()["JWK Set"]) + "\n}"
		}},
	} {
		name := tt.name
		if tt.bound != nil {
			name += ", bound tokens"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const life = 3 * time.Second
			b := newBenchWith(t, life, func(b *bench, s *authorizationServerSettings) string {
				s.ClientAuthMethod = tt.name
				return tt.options(t, b, s)
			})
			b.login(t)
			for range 3 {
				if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
					t.Fatal(err)
				}
				if tt.rotate {
					// The server keeps the client's keys for a minute, and would not
					// look for another one.
					b.write(t, "key.pem", astest.NewKey("RS256", "").Files()["PKCS#1"])
				}
				time.Sleep(life)
			}
			if _, stats := b.settled(t); stats.Codes != 1 || stats.Refreshes < 2 || strings.HasSuffix(tt.name, "_jwt") != (stats.Assertions > 0) ||
				stats.Assertions > 0 && stats.Assertions < stats.Codes+stats.Refreshes {
				t.Errorf("the authorization server saw %+v", stats)
			}
			for _, i := range b.authorizationServer.issued(t) {
				if i.Kind == "access_token" {
					checkBinding(t, i.Value, tt.bound)
				}
			}
			var out struct {
				LogoutURL string `json:"logout_url"`
			}
			b.browser.json(t, http.MethodPost, "/bff/logout", &out)
			deadline := time.Now().Add(5 * time.Second)
			for b.authorizationServer.stats(t).Revocations == 0 && time.Now().Before(deadline) {
				time.Sleep(20 * time.Millisecond)
			}
			if stats := b.authorizationServer.stats(t); stats.Revocations == 0 {
				t.Errorf("nothing was revoked: %+v", stats)
			}
			if tt.rotate {
				log, err := os.ReadFile(filepath.Join(outputDirectory(t), "gateway.log"))
				if err != nil || !strings.Contains(string(log), "the signing key of the client has changed") {
					t.Errorf("the key was not exchanged: %v", err)
				}
			}
			b.check(t)
		})
	}
}

// checkBinding checks cnf of an access token (RFC 8705 section 3.1).
func checkBinding(t *testing.T, token string, to *astest.Certificate) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("the access token is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Cnf struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	want := ""
	if to != nil {
		want = to.Thumbprint()
	}
	if claims.Cnf.Thumbprint != want {
		t.Errorf("the access token is bound to %q, want %q", claims.Cnf.Thumbprint, want)
	}
}
