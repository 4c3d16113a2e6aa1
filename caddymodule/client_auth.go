// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// ClientAuthOptions say how the client authenticates at the authorization server.
// In JSON a method without options may be written as a string.
type ClientAuthOptions struct {
	// Method is client_secret_basic, client_secret_post, client_secret_jwt,
	// private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none, as it
	// is registered; no other is ever tried. Default: client_secret_basic with a
	// client secret. Without one, a method has to be given.
	Method string `json:"method,omitempty"`
	// KeyFile is the path of the private key that client assertions of
	// private_key_jwt and request objects are signed with; with another method it
	// needs request_object required. PEM (PKCS#8, SEC 1 or PKCS#1), a JWK or a JWK Set; RSA of 2048 bits or more, EC or Ed25519. It
	// is read again when it changes. Of several keys the first signs. The public
	// keys are served at the endpoint jwks, a new one for two minutes before it
	// signs. Placeholders are replaced once, at load.
	KeyFile string `json:"key_file,omitempty"`
	// KeyID is the key that signs, out of a JWK Set, or the name of a key that has
	// none. Placeholders as in KeyFile. Default: the first key, named by its kid or
	// its thumbprint.
	KeyID string `json:"key_id,omitempty"`
	// Alg is the signature algorithm of the key (RS256, PS256, ES256, EdDSA and their
	// longer kin), or with client_secret_jwt that of the secret (HS256, HS384, HS512);
	// a key beside such a secret has that of its JWK, or the default of its kind.
	// Default: that of the JWK, else RS256 or what the kind of key says; HS256.
	Alg string `json:"alg,omitempty"`
	// Audience of client assertions is issuer, or token_endpoint for servers that
	// insist on its URL. Default: issuer.
	Audience string `json:"audience,omitempty"`
	// Typ of client assertions is client-authentication+jwt, or JWT or none for
	// servers that insist on that. Default: client-authentication+jwt.
	Typ string `json:"typ,omitempty"`
	// Certificate and PrivateKey are paths of PEM files: a client certificate with
	// its chain, and its key. They are read again when they change, and shown at
	// the endpoints where the client authenticates, which are mtls_endpoint_aliases
	// where the metadata has them. tls_client_auth and self_signed_tls_client_auth
	// need them; beside another method the authorization server may bind tokens to
	// the certificate. Placeholders as in KeyFile.
	Certificate string `json:"certificate,omitempty"`
	PrivateKey  string `json:"private_key,omitempty"`
}

// plainClientAuth has the fields and nothing else.
type plainClientAuth ClientAuthOptions

// UnmarshalJSON implements [json.Unmarshaler]. Unknown members are errors.
func (a *ClientAuthOptions) UnmarshalJSON(data []byte) error {
	*a = ClientAuthOptions{}
	if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &a.Method)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode((*plainClientAuth)(a))
}

// MarshalJSON implements [json.Marshaler].
func (a ClientAuthOptions) MarshalJSON() ([]byte, error) {
	if a == (ClientAuthOptions{Method: a.Method}) {
		return json.Marshal(a.Method)
	}
	return json.Marshal(plainClientAuth(a))
}

func (a *ClientAuthOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "key_file":
		return o.text(&a.KeyFile)
	case "key_id":
		return o.text(&a.KeyID)
	case "alg":
		return o.text(&a.Alg)
	case "audience":
		return o.text(&a.Audience)
	case "typ":
		return o.text(&a.Typ)
	case "certificate":
		return o.text(&a.Certificate)
	case "private_key":
		return o.text(&a.PrivateKey)
	}
	return o.unrecognized()
}

// method is the configured one; with the defaults set, the one that a secret implies.
func (a *ClientAuthOptions) method() oauth.AuthMethod { return oauth.AuthMethod(a.Method) }

// paths are the options that name files.
func (a *ClientAuthOptions) paths() []struct{ option, value string } {
	return []struct{ option, value string }{
		{"client_auth key_file", a.KeyFile}, {"client_auth certificate", a.Certificate}, {"client_auth private_key", a.PrivateKey},
	}
}

// checkWritten finds placeholders that stand for what is in a file, where the file
// itself is asked for.
func (a *ClientAuthOptions) checkWritten() error {
	for _, p := range a.paths() {
		if strings.HasPrefix(p.value, "{file.") {
			return wrong(p.option, "%s is %q: it takes the path itself, so that a new file is noticed", p.option, p.value)
		}
	}
	return nil
}

// checkClientAuth checks every option of client_auth, and that there are those
// that the method needs and no others.
func (h *Handler) checkClientAuth() error {
	const option = "client_auth"
	a := h.ClientAuth
	var methods []string
	for _, m := range oauth.AuthMethods() {
		methods = append(methods, string(m))
	}
	if err := oneOf(option, a.Method, methods...); err != nil {
		return err
	}
	m := a.method()
	switch {
	case m.UsesSecret() && h.ClientSecret == "":
		return wrong(option, "client_auth %s needs a client_secret", m)
	case !m.UsesSecret() && h.ClientSecret != "":
		return wrong(option, "client_auth %s takes no client_secret", m)
	case m == oauth.AuthPrivateKeyJWT && a.KeyFile == "":
		return wrong(option, "client_auth %s needs a key_file", m)
	case m.UsesCertificate() && a.Certificate == "" && a.PrivateKey == "":
		return wrong(option, "client_auth %s needs a certificate and its private_key", m)
	case a.Certificate != "" && a.PrivateKey == "":
		return wrong("client_auth certificate", "client_auth certificate needs its private_key")
	case a.Certificate == "" && a.PrivateKey != "":
		return wrong("client_auth private_key", "client_auth private_key needs its certificate")
	}
	for _, p := range a.paths() {
		if strings.ContainsAny(p.value, "\n\r\x00") || strings.HasPrefix(p.value, "{") {
			return wrong(p.option, "%s is not the path of a file", p.option) // it may be the key
		}
	}
	if err := h.checkJWT(); err != nil || strings.Contains(h.ClientSecret, "{") {
		return err
	}
	return checkSecretLength(a, oauth.Secret(h.ClientSecret))
}

// checkJWT checks the options that are for client assertions and request objects.
func (h *Handler) checkJWT() error {
	a := h.ClientAuth
	m := a.method()
	signs := m == oauth.AuthPrivateKeyJWT || h.RequestObject == string(oauth.RequestObjectRequired)
	if signs && a.KeyFile == "" {
		return wrong("request_object", "request_object required needs a key_file in client_auth")
	}
	algs := oauth.SigningAlgorithms()
	if m == oauth.AuthClientSecretJWT {
		algs = []string{"HS256", "HS384", "HS512"}
	}
	for _, o := range []struct {
		option, value string
		fits          bool
		words         []string
	}{
		{"client_auth key_file", a.KeyFile, signs, nil},
		{"client_auth key_id", a.KeyID, signs, nil},
		{"client_auth alg", a.Alg, signs || m.UsesAssertion(), algs},
		{"client_auth audience", a.Audience, m.UsesAssertion(), []string{string(oauth.AudienceIssuer), string(oauth.AudienceTokenEndpoint)}},
		{"client_auth typ", a.Typ, m.UsesAssertion(), []string{
			string(oauth.AssertionTypeClientAuthentication), string(oauth.AssertionTypeJWT), string(oauth.AssertionTypeNone),
		}},
	} {
		switch {
		case o.value == "":
		case !o.fits && o.option == "client_auth key_file":
			return wrong(o.option, "%s means nothing with client_auth %s, unless request_object is required", o.option, m)
		case !o.fits:
			return wrong(o.option, "%s means nothing with client_auth %s", o.option, m)
		case o.words != nil && !slices.Contains(o.words, o.value):
			return oneOf(o.option, o.value, o.words...)
		}
	}
	if err := oauth.CheckKeyID(a.KeyID); err != nil {
		return wrong("client_auth key_id", "client_auth key_id: %w", err)
	}
	return nil
}

// checkSecretLength is for client_secret_jwt, where the secret is a key.
func checkSecretLength(a *ClientAuthOptions, secret oauth.Secret) error {
	if err := oauth.CheckClientSecret(a.method(), a.Alg, secret); err != nil {
		return wrong("client_secret", "client_secret: %w", err)
	}
	return nil
}

// clientCredentials are the files that a client proves itself with. Their public
// keys go on being served for a while when the files change, so they outlive the
// configuration.
type clientCredentials struct {
	signingKey  *oauth.SigningKey        // nil: none
	certificate *oauth.ClientCertificate // nil: none
}

// newCredentials reads the files.
func (a *ClientAuthOptions) newCredentials() (*clientCredentials, error) {
	c := new(clientCredentials)
	var err error
	if a.KeyFile != "" {
		alg := a.Alg
		if a.method() == oauth.AuthClientSecretJWT {
			alg = "" // it is that of the secret
		}
		c.signingKey, err = oauth.NewSigningKey(oauth.SigningKeyConfig{File: a.KeyFile, KeyID: a.KeyID, Alg: alg, Logger: processLog})
		if err != nil {
			return nil, fmt.Errorf("client_auth key_file: %w", err)
		}
	}
	if a.Certificate != "" {
		c.certificate, err = oauth.NewClientCertificate(oauth.ClientCertificateConfig{
			CertificateFile: a.Certificate, PrivateKeyFile: a.PrivateKey, Published: a.method() == oauth.AuthSelfSignedTLS, Logger: processLog,
		})
		if err != nil {
			return nil, fmt.Errorf("client_auth certificate: %w", err)
		}
	}
	return c, nil
}

// Interface guards.
var (
	_ json.Unmarshaler = (*ClientAuthOptions)(nil)
	_ json.Marshaler   = ClientAuthOptions{}
)
