// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// AuthMethod is a client authentication method, named as in the metadata
// member token_endpoint_auth_methods_supported (RFC 8414 section 2).
type AuthMethod string

// The client authentication methods.
const (
	AuthClientSecretBasic AuthMethod = "client_secret_basic" // RFC 6749 section 2.3.1
	AuthClientSecretPost  AuthMethod = "client_secret_post"
	AuthClientSecretJWT   AuthMethod = "client_secret_jwt" // RFC 7523 section 2.2, OpenID Connect Core section 9
	AuthPrivateKeyJWT     AuthMethod = "private_key_jwt"
	AuthTLSClient         AuthMethod = "tls_client_auth"             // RFC 8705 section 2.1
	AuthSelfSignedTLS     AuthMethod = "self_signed_tls_client_auth" // RFC 8705 section 2.2
	AuthNone              AuthMethod = "none"
)

// AuthMethods lists the methods, as they are best shown to somebody who has to
// choose.
func AuthMethods() []AuthMethod {
	return []AuthMethod{
		AuthClientSecretBasic, AuthClientSecretPost, AuthClientSecretJWT, AuthPrivateKeyJWT, AuthTLSClient, AuthSelfSignedTLS, AuthNone,
	}
}

// UsesSecret says whether the method needs a client secret; the others take none.
func (m AuthMethod) UsesSecret() bool {
	return m == AuthClientSecretBasic || m == AuthClientSecretPost || m == AuthClientSecretJWT
}

// UsesAssertion says whether the method sends client assertions.
func (m AuthMethod) UsesAssertion() bool { return m == AuthClientSecretJWT || m == AuthPrivateKeyJWT }

// UsesCertificate says whether the method is the showing of a certificate. Any
// other may have one too, which binds tokens and does not authenticate.
func (m AuthMethod) UsesCertificate() bool { return m == AuthTLSClient || m == AuthSelfSignedTLS }

func (cfg *Config) checkAuthMethod() error {
	m := cfg.AuthMethod
	switch {
	case m == "":
		return errors.New("oauth: client authentication method is missing")
	case !slices.Contains(AuthMethods(), m):
		return fmt.Errorf("oauth: unknown client authentication method %q", m)
	case m.UsesSecret() && cfg.ClientSecret == nil:
		return fmt.Errorf("oauth: client authentication %s needs a client secret", m)
	case !m.UsesSecret() && cfg.ClientSecret != nil:
		return fmt.Errorf("oauth: a client secret is given, but client authentication is %s", m)
	case m == AuthPrivateKeyJWT && cfg.SigningKey == nil:
		return fmt.Errorf("oauth: client authentication %s needs a signing key", m)
	case m.UsesCertificate() && cfg.Certificate == nil:
		return fmt.Errorf("oauth: client authentication %s needs a certificate", m)
	}
	return cfg.Assertion.withDefaults()
}

// CheckClientSecret says whether a secret is fit for a method: that of
// client_secret_jwt is the key of its algorithm ("": HS256), and has the length of
// its hash at least (RFC 7518 section 3.2). An error does not repeat it.
func CheckClientSecret(method AuthMethod, alg string, secret Secret) error {
	if method != AuthClientSecretJWT {
		return nil
	}
	if alg == "" {
		alg = "HS256"
	}
	return checkMACKey(alg, secret)
}

// clientSecret returns the secret as it is now.
func (c *Client) clientSecret() (Secret, error) {
	secret, err := c.cfg.ClientSecret()
	if err == nil && secret == "" {
		err = errors.New("client secret is empty")
	}
	if err != nil {
		return "", fmt.Errorf("reading the client secret: %w", err)
	}
	return secret, nil
}

// authenticate adds the client's credentials to a request's header or form, by
// exactly one method (RFC 6749 section 2.3). Credentials that cannot be had are
// our configuration's fault and nothing is sent.
func (c *Client) authenticate(ctx context.Context, header http.Header, form url.Values) error {
	err := c.addCredentials(ctx, header, form)
	if _, ok := errors.AsType[*Error](err); err == nil || ok {
		return err
	}
	return &Error{Class: ClassConfiguration, cause: err}
}

func (c *Client) addCredentials(ctx context.Context, header http.Header, form url.Values) error {
	switch c.cfg.AuthMethod {
	case AuthClientSecretBasic:
		secret, err := c.clientSecret()
		if err != nil {
			return err
		}
		// RFC 6749 section 2.3.1: both are form-urlencoded before they become the
		// user-id and password of RFC 7617.
		r := http.Request{Header: header}
		r.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(secret.Reveal()))
		return nil
	case AuthClientSecretPost:
		secret, err := c.clientSecret()
		if err != nil {
			return err
		}
		form.Set("client_secret", secret.Reveal())
	case AuthClientSecretJWT, AuthPrivateKeyJWT:
		assertion, err := c.assertion(ctx)
		if err != nil {
			return fmt.Errorf("making a client assertion: %w", err)
		}
		form.Set("client_assertion_type", clientAssertionType)
		form.Set("client_assertion", assertion.Reveal())
	case AuthTLSClient, AuthSelfSignedTLS, AuthNone:
		// The certificate is shown below, by the transport.
	}
	// Not needed beside an assertion (RFC 7523 section 3), but some servers look
	// for the client before they look at its assertion.
	form.Set("client_id", c.cfg.ClientID)
	return nil
}

// refused is told that an endpoint has answered invalid_client: what we
// authenticate with may be out of date, or may not have arrived.
func (c *Client) refused(endpoint string) {
	if c.cfg.AuthMethod == AuthPrivateKeyJWT {
		c.cfg.SigningKey.rollover.hurry()
	}
	if c.certified == nil {
		return
	}
	c.cfg.Certificate.rollover.hurry()
	if c.cfg.AuthMethod.UsesCertificate() && !c.certified.asked.Load() {
		c.certified.unasked.Do(func() {
			c.log.Warn("the authorization server refuses the client and has never asked for its certificate; is there an endpoint that does (mtls_endpoint_aliases)?",
				"issuer", c.cfg.Issuer, "endpoint", endpoint)
		})
	}
}
