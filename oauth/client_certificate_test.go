// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// certificateFiles writes a certificate and its key.
func certificateFiles(t testing.TB, c *astest.Certificate) ClientCertificateConfig {
	t.Helper()
	dir := t.TempDir()
	cfg := ClientCertificateConfig{CertificateFile: filepath.Join(dir, "cert.pem"), PrivateKeyFile: filepath.Join(dir, "key.pem")}
	writeCertificate(t, cfg, c)
	return cfg
}

func writeCertificate(t testing.TB, cfg ClientCertificateConfig, c *astest.Certificate) {
	t.Helper()
	certificate, key := c.PEM()
	writeFile(t, cfg.CertificateFile, certificate)
	writeFile(t, cfg.PrivateKeyFile, key)
}

func newCertificate(t testing.TB, cfg ClientCertificateConfig) *ClientCertificate {
	t.Helper()
	c, err := NewClientCertificate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lookAgain has the next use look at the files, as it does a second later.
func (w *watched[T]) lookAgain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookAt = time.Time{}
}

// newCertifiedClient makes a client of a server that was started with TLS.
func newCertifiedClient(t testing.TB, as *astest.Server, roots *x509.CertPool, method AuthMethod, certificate *ClientCertificate, change ...func(*Config)) *Client {
	t.Helper()
	c := newClient(t, as, append([]func(*Config){func(cfg *Config) {
		cfg.AuthMethod, cfg.ClientSecret, cfg.Certificate = method, nil, certificate
		cfg.HTTP = &http.Client{Transport: NewTransport(roots)}
	}}, change...)...)
	t.Cleanup(func() {
		c.http.CloseIdleConnections()
		c.certified.CloseIdleConnections()
	})
	return c
}

// CA-08, MD-09, MT-02, MT-04: the certificate is shown on all authenticated calls,
// which go to the aliases, and on no other, although the server asks.
func TestTLSClientAuthentication(t *testing.T) {
	t.Parallel()
	for name, aliases := range map[string]bool{"own endpoints": false, "aliases": true} {
		for _, method := range []AuthMethod{AuthTLSClient, AuthSelfSignedTLS} {
			t.Run(name+" "+string(method), func(t *testing.T) {
				t.Parallel()
				authority := astest.NewAuthority()
				issued := authority.Issue("app")
				if method == AuthSelfSignedTLS {
					issued = astest.SelfSigned("whoever")
				}
				certificate := newCertificate(t, certificateFiles(t, issued))
				as := astest.New(astest.Options{
					AuthMethod: string(method), MTLSAliases: aliases, BindTokens: true, RequirePAR: true,
					ClientRoots: authority.Pool(), ClientSubject: "CN=app", ClientKeys: func() []byte { return keySetOf(certificate.PublicKeys()) },
				}).StartTLS(t, authority)
				c := newCertifiedClient(t, as, authority.Pool(), method, certificate)
				tokens, _ := login(t, c, as)
				tokens, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken})
				if err != nil {
					t.Fatalf("%v: %s", err, lastAuthError(as))
				}
				// MT-01, RFC 8705 section 3.1.
				if got := confirmation(t, tokens.AccessToken); got != issued.Thumbprint() {
					t.Errorf("the access token is bound to %q", got)
				}
				if _, err := c.CheckAccessToken(t.Context(), tokens.AccessToken, ValidateJWT); err != nil {
					t.Error(err)
				}
				// MD-09
				if _, err := c.CheckAccessToken(t.Context(), tokens.AccessToken, ValidateIntrospection); err != nil {
					t.Errorf("%v: %s", err, lastAuthError(as))
				}
				if _, err := c.UserInfo(t.Context(), tokens.AccessToken, "alice"); err != nil {
					t.Error(err)
				}
				if err := c.Revoke(t.Context(), tokens.RefreshToken, ""); err != nil {
					t.Errorf("%v: %s", err, lastAuthError(as))
				}
				for _, r := range as.Requests("") {
					authenticated := slices.Contains([]string{astest.Token, astest.Revoke, astest.PAR, astest.Introspect, astest.UserInfo}, r.Endpoint)
					if shown := r.Certificate != nil; shown != authenticated {
						t.Errorf("%s %s: certificate shown: %v", r.Host, r.Endpoint, shown)
					}
					if own := strings.HasSuffix(as.Issuer(), r.Host); authenticated && own == aliases {
						t.Errorf("%s was called at %s", r.Endpoint, r.Host)
					}
					if authenticated && r.Endpoint != astest.UserInfo && (r.Form.Get("client_id") != "app" || r.Form.Has("client_secret") || r.Form.Has("client_assertion") || r.Header.Get("Authorization") != "") {
						t.Errorf("%s: %v %v", r.Endpoint, r.Header, r.Form)
					}
				}
				if n := as.Count(astest.Metadata) + as.Count(astest.JWKS); n < 2 {
					t.Errorf("%d requests without a certificate prove nothing", n)
				}
			})
		}
	}
}

// confirmation returns cnf x5t#S256 of a JWT.
func confirmation(t testing.TB, token Secret) string {
	t.Helper()
	s, err := parseJWS(token.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Cnf map[string]string `json:"cnf"`
	}
	if err := json.Unmarshal(s.payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Cnf["x5t#S256"]
}

// A certificate beside another method binds tokens (RFC 8705 section 3): the
// client authenticates by its assertion, and the certificate is shown.
func TestCertificateBesideAssertion(t *testing.T) {
	t.Parallel()
	authority := astest.NewAuthority()
	issued := authority.Issue("app")
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	as := astest.New(astest.Options{
		AuthMethod: "private_key_jwt", MTLSAliases: true, BindTokens: true, ClientKeys: func() []byte { return keySetOf(key.PublicKeys()) },
	}).StartTLS(t, authority)
	c := newCertifiedClient(t, as, authority.Pool(), AuthPrivateKeyJWT, newCertificate(t, certificateFiles(t, issued)), func(cfg *Config) { cfg.SigningKey = key })
	tokens, _ := login(t, c, as)
	if got := confirmation(t, tokens.AccessToken); got != issued.Thumbprint() {
		t.Errorf("the access token is bound to %q", got)
	}
}

// MT-03: a new certificate is shown from the next call on, though connections of
// the old one are open; and a pair that does not belong together, as it is while
// it is being replaced, changes nothing.
func TestClientCertificateFileChanges(t *testing.T) {
	t.Parallel()
	authority := astest.NewAuthority()
	first, second := astest.SelfSigned("first"), astest.SelfSigned("second")
	cfg := certificateFiles(t, first)
	var log logged
	cfg.Logger = log.logger()
	certificate := newCertificate(t, cfg)
	as := astest.New(astest.Options{
		AuthMethod: "self_signed_tls_client_auth", BindTokens: true, ClientKeys: func() []byte { return keySetOf(certificate.PublicKeys()) },
	}).StartTLS(t, authority)
	c := newCertifiedClient(t, as, authority.Pool(), AuthSelfSignedTLS, certificate)
	tokens, _ := login(t, c, as)
	refresh := func(want *astest.Certificate) {
		t.Helper()
		certificate.files.lookAgain()
		next, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken})
		if err != nil {
			t.Fatalf("%v: %s", err, lastAuthError(as))
		}
		if got := confirmation(t, next.AccessToken); got != want.Thumbprint() {
			t.Errorf("the access token is bound to %q, want %q", got, want.Thumbprint())
		}
		tokens = next
	}
	refresh(first)
	pem, _ := second.PEM()
	writeFile(t, cfg.CertificateFile, pem)
	refresh(first)
	refresh(first)
	if n := log.count("stays in use"); n != 1 {
		t.Errorf("%d lines: %s", n, log.text.String())
	}
	writeCertificate(t, cfg, second)
	refresh(second)
	refresh(second)
	if n := log.count("has changed\" file"); n != 1 {
		t.Errorf("%d lines: %s", n, log.text.String())
	}
	if n := len(certificate.PublicKeys()); n != 2 {
		t.Errorf("%d certificates are published, want the new one and the old one", n)
	}
	// Renewed with the same key: another certificate all the same.
	renewed := &astest.Certificate{Leaf: astest.Renew(second), Key: second.Key}
	writeCertificate(t, cfg, renewed)
	refresh(renewed)
	if n := len(certificate.PublicKeys()); n != 3 {
		t.Errorf("%d certificates are published", n)
	}
}

// Nothing is sent to an endpoint where no certificate can be shown.
func TestCertificateNeedsTLS(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{}).Start(t)
	c := newCertifiedClient(t, as, nil, AuthTLSClient, newCertificate(t, certificateFiles(t, astest.SelfSigned("app"))))
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); ClassOf(err) != ClassConfiguration || !strings.Contains(err.Error(), "plain http") {
		t.Errorf("%v", err)
	}
	if n := as.Count(astest.Token); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// A server that refuses the client and has not asked for its certificate: one
// line says what may be the matter. A server that did ask knows what it does.
func TestUnaskedCertificateIsSaid(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]bool{"asks": true, "does not ask": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authority := astest.NewAuthority()
			as := astest.New(astest.Options{AuthMethod: "tls_client_auth", NoCertificateRequest: !asks, ClientRoots: authority.Pool()}).StartTLS(t, authority)
			var log logged
			c := newCertifiedClient(t, as, authority.Pool(), AuthTLSClient, newCertificate(t, certificateFiles(t, astest.SelfSigned("x"))), func(cfg *Config) { cfg.Logger = log.logger() })
			for range 2 {
				if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); ClassOf(err) != ClassConfiguration {
					t.Error(err)
				}
			}
			if n := log.count("never asked for its certificate"); asks && n != 0 || !asks && n != 1 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

func TestUnusableClientCertificates(t *testing.T) {
	t.Parallel()
	c, other := astest.SelfSigned("app"), astest.SelfSigned("other")
	certificate, key := c.PEM()
	_, foreign := other.PEM()
	for name, tt := range map[string]struct {
		certificate, key []byte
		want             string
	}{
		"key of another":   {certificate, foreign, "does not match"},
		"no certificate":   {key, key, "certificate"},
		"no key":           {certificate, certificate, "key"},
		"empty":            {nil, key, "empty"},
		"text in both":     {[]byte("canary"), []byte("canary"), "PEM"},
		"key is not there": {certificate, nil, "empty"},
	} {
		cfg := certificateFiles(t, c)
		writeFile(t, cfg.CertificateFile, tt.certificate)
		writeFile(t, cfg.PrivateKeyFile, tt.key)
		if _, err := NewClientCertificate(cfg); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// Both in one file.
	path := keyFile(t, append(certificate, key...))
	if _, err := NewClientCertificate(ClientCertificateConfig{CertificateFile: path, PrivateKeyFile: path}); err != nil {
		t.Error(err)
	}
	// A transport that cannot show it.
	as := astest.New(astest.Options{})
	cfg := Config{Issuer: as.Issuer(), ClientID: "app", AuthMethod: AuthTLSClient, HTTP: as.HTTPClient(), Certificate: newCertificate(t, certificateFiles(t, c))}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "transport") {
		t.Errorf("%v", err)
	}
	// One that has expired is used, and the log says so.
	var log logged
	expired := certificateFiles(t, &astest.Certificate{Leaf: astest.Expired(c), Key: c.Key})
	expired.Logger = log.logger()
	newCertificate(t, expired)
	if log.count("has expired") != 1 {
		t.Error(log.text.String())
	}
}

// A self-signed certificate that the server fetches from us is shown there before
// it is used, and one that an authority has signed is used at once.
func TestPublishedCertificateWaits(t *testing.T) {
	t.Parallel()
	for _, published := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			first, second := astest.SelfSigned("first"), astest.SelfSigned("second")
			cfg := certificateFiles(t, first)
			cfg.Published = published
			c := newCertificate(t, cfg)
			shown := func() string { return c.current().pair.Leaf.Subject.CommonName }
			writeCertificate(t, cfg, second)
			time.Sleep(watchInterval)
			if got := shown(); got == "first" != published || len(c.PublicKeys()) != 2 {
				t.Errorf("published %v: shown is %s, of %d", published, got, len(c.PublicKeys()))
			}
			time.Sleep(2 * time.Minute)
			if got := shown(); got != "second" {
				t.Errorf("published %v: shown is %s", published, got)
			}
		})
	}
}
