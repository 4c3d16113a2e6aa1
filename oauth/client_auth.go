// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// AuthMethod is a client authentication method, named as in the metadata
// member token_endpoint_auth_methods_supported (RFC 8414 section 2).
type AuthMethod string

// The client authentication methods.
const (
	AuthClientSecretBasic AuthMethod = "client_secret_basic"
	AuthClientSecretPost  AuthMethod = "client_secret_post"
	AuthNone              AuthMethod = "none"
)

func (cfg *Config) checkAuthMethod() error {
	switch cfg.AuthMethod {
	case AuthClientSecretBasic, AuthClientSecretPost:
		if cfg.ClientSecret == nil {
			return fmt.Errorf("oauth: client authentication %s needs a client secret", cfg.AuthMethod)
		}
	case AuthNone:
		if cfg.ClientSecret != nil {
			return errors.New("oauth: a client secret is given, but client authentication is none")
		}
	case "":
		return errors.New("oauth: client authentication method is missing")
	default:
		return fmt.Errorf("oauth: unknown client authentication method %q", cfg.AuthMethod)
	}
	return nil
}

// authenticate adds the client's credentials to a request's header or form, by
// exactly one method (RFC 6749 section 2.3). A secret that cannot be had is our
// configuration's fault and nothing is sent.
func (c *Client) authenticate(header http.Header, form url.Values) error {
	if c.cfg.AuthMethod == AuthNone {
		form.Set("client_id", c.cfg.ClientID)
		return nil
	}
	secret, err := c.cfg.ClientSecret()
	if err == nil && secret == "" {
		err = errors.New("client secret is empty")
	}
	if err != nil {
		return &Error{Class: ClassConfiguration, cause: fmt.Errorf("reading the client secret: %w", err)}
	}
	if c.cfg.AuthMethod == AuthClientSecretPost {
		form.Set("client_id", c.cfg.ClientID)
		form.Set("client_secret", secret.Reveal())
		return nil
	}
	// RFC 6749 section 2.3.1: both are form-urlencoded before they become the
	// user-id and password of RFC 7617.
	r := http.Request{Header: header}
	r.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(secret.Reveal()))
	return nil
}
