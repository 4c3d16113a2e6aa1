// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Config describes a client and its authorization server.
type Config struct {
	// Issuer is the issuer identifier, compared character by character with
	// what metadata and tokens say. https; http on loopback only. Required.
	Issuer string
	// ClientID is the client identifier. Required.
	ClientID string
	// AuthMethod is how the client authenticates at the authorization server.
	// Chosen here, never found out by trial. Required.
	AuthMethod AuthMethod
	// ClientSecret returns the client secret. It is asked at each call, so that
	// a secret that changed in a file is used from then on; it must be fast and
	// safe for concurrent use. Nil with AuthMethod "none", required otherwise.
	ClientSecret func() (Secret, error)
	// Scope is the scope of the authorization request. Default: "openid profile",
	// and "offline_access" where the metadata lists it.
	Scope []string
	// Params are further parameters of every authorization request. They cannot
	// replace the ones this package sets. Default: none.
	Params url.Values
	// HTTP is the client for calls to the authorization server. It is copied;
	// redirects are never followed and cookies never kept. Default: one over
	// [NewTransport].
	HTTP *http.Client
	// Timeout bounds one call. Default: 10 s.
	Timeout time.Duration
	// RefreshTimeout bounds a refresh call; giving up early only makes its
	// outcome unknown. Default: 30 s.
	RefreshTimeout time.Duration
	// Leeway is the clock difference tolerated for nbf and iat, and for exp of
	// an ID token; it never extends an access token. At most 5 min. Default: 30 s.
	Leeway time.Duration
	// Audience lists the acceptable audiences of a JWT access token; one of them
	// has to be there. Default: none, the audience is not checked.
	Audience []string
	// Logger receives what an operator should know; never a token. Default:
	// nothing is logged.
	Logger *slog.Logger
}

// Client is a client of one authorization server. Safe for concurrent use.
type Client struct {
}

// New checks cfg and returns a Client. It makes no network call.
func New(cfg Config) (*Client, error) { return nil, ErrUnsupported }

// TokenLatency returns the recent worst latency of the token endpoint, which
// decays by half a minute; 0 while it is unknown.
func (c *Client) TokenLatency() time.Duration { return 0 }
