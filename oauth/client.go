// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Config describes a client and its authorization server.
type Config struct {
	// Issuer is the issuer identifier, compared character by character with
	// what metadata and tokens say. https; http on loopback only. Required.
	Issuer string
	// Tenants makes Issuer one for the users of several tenants, whose metadata has
	// "{tenantid}" in place of the first segment of its path, and whose tokens name
	// the issuer of their own tenant: tenant IDs (UUIDs in lower case), or [AnyTenant].
	// Tokens of any other tenant are refused. Default: none, Issuer is the one issuer.
	Tenants []string
	// Metadata is that of an authorization server without discovery: none is fetched.
	// Endpoints where the client authenticates are used as they are, with a certificate
	// as well. Its Issuer is not looked at. Not beside Tenants. Default: nil, it is
	// fetched.
	Metadata *Metadata
	// ClientID is the client identifier. Required.
	ClientID string
	// AuthMethod is how the client authenticates at the authorization server.
	// Chosen here, never found out by trial. Required.
	AuthMethod AuthMethod
	// ClientSecret returns the client secret. It is asked at each call, so that
	// a secret that changed in a file is used from then on; it must be fast and
	// safe for concurrent use. Required where AuthMethod uses a secret, nil
	// otherwise.
	ClientSecret func() (Secret, error)
	// SigningKey signs client assertions and request objects. Required with
	// private_key_jwt and with RequestObjectRequired.
	SigningKey *SigningKey
	// Assertion says how client assertions are made.
	Assertion AssertionConfig
	// Certificate is shown where the client authenticates, and nowhere else; calls
	// go to mtls_endpoint_aliases where the metadata has them (RFC 8705 section 5).
	// HTTP then needs a transport of type *[http.Transport]. Required with
	// tls_client_auth and self_signed_tls_client_auth; with any other method the
	// authorization server may bind tokens to it (RFC 8705 section 3).
	Certificate *ClientCertificate
	// Scope is the scope of the authorization request. Default: "openid profile",
	// and "offline_access" where the metadata lists it.
	Scope []string
	// Resource lists the resource indicators (RFC 8707) of the authorization
	// request, the code exchange, and of a refresh that names none of its own:
	// absolute URIs without fragment. Default: none.
	Resource []string
	// Params are further parameters of every authorization request. They cannot
	// replace the ones this package sets. Default: none.
	Params url.Values
	// PAR says when authorization requests are pushed. Default: PARAuto.
	PAR PARMode
	// RequestObject says when they are signed. Default: RequestObjectAuto.
	RequestObject RequestObjectMode
	// DPoP has the tokens of new logins bound to a key of their own (RFC 9449): see
	// [Client.DPoP]. It changes nothing for those that are there.
	DPoP bool
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
	// has to be there. An ID token may name them beside the client. Default:
	// none, the audience of access tokens is not checked.
	Audience []string
	// Logger receives what an operator should know; never a token. Default:
	// nothing is logged.
	Logger *slog.Logger
}

// Defaults and bounds of Config.
const (
	defaultTimeout        = 10 * time.Second
	defaultRefreshTimeout = 30 * time.Second
	defaultLeeway         = 30 * time.Second
	maxLeeway             = 5 * time.Minute
)

// Client is a client of one authorization server. Safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
	// certified is for the endpoints where the client authenticates; nil without a
	// client certificate.
	certified *certifiedTransport
	log       *slog.Logger
	metadata  metadataCache
	keys      keySet
	latency   latency
	// unpushed: it was said that a request could not be pushed.
	unpushed       sync.Once
	introspections introspections
	bearers        bearers
	tenants        tenantIssuers
	// What servers told that take DPoP proofs.
	authorizationServers, resourceServers dpopServers
}

// New checks cfg and returns a Client. It makes no network call.
func New(cfg Config) (*Client, error) {
	if err := checkIssuer(cfg.Issuer); err != nil {
		return nil, err
	}
	tenants, err := newTenantIssuers(cfg.Issuer, cfg.Tenants)
	if err != nil {
		return nil, err
	}
	if cfg.Metadata != nil && tenants.some() {
		return nil, errors.New("oauth: tenants are known from metadata that was fetched, and it is configured")
	}
	if cfg.Metadata, err = cfg.Metadata.configured(cfg.Issuer); err != nil {
		return nil, err
	}
	if cfg.ClientID == "" || !visible(cfg.ClientID, true) {
		return nil, errors.New("oauth: client ID is missing or has characters other than printable ASCII")
	}
	if err := cfg.checkAuthMethod(); err != nil {
		return nil, err
	}
	for _, token := range cfg.Scope {
		if !scopeToken(token) {
			return nil, fmt.Errorf("oauth: %q is no scope token", token)
		}
	}
	for _, uri := range cfg.Resource {
		if err := CheckResource(uri); err != nil {
			return nil, fmt.Errorf("oauth: %w", err)
		}
	}
	for name := range cfg.Params {
		if reservedParams[name] {
			return nil, fmt.Errorf("oauth: authorization request parameter %q cannot be replaced", name)
		}
	}
	switch cfg.PAR {
	case "":
		cfg.PAR = PARAuto
	case PARAuto, PARRequired, PAROff:
	default:
		return nil, fmt.Errorf("oauth: unknown mode %q of pushed authorization requests", cfg.PAR)
	}
	if err := cfg.checkRequestObject(); err != nil {
		return nil, err
	}
	if cfg.Timeout < 0 || cfg.RefreshTimeout < 0 || cfg.Leeway < 0 || cfg.Leeway > maxLeeway {
		return nil, fmt.Errorf("oauth: timeouts and leeway must not be negative, leeway at most %v", maxLeeway)
	}
	setDefault(&cfg.Timeout, defaultTimeout)
	setDefault(&cfg.RefreshTimeout, defaultRefreshTimeout)
	setDefault(&cfg.Leeway, defaultLeeway)
	c := &Client{cfg: cfg, log: cfg.Logger, tenants: tenants}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.http = newHTTPClient(cfg.HTTP)
	if cfg.Certificate != nil {
		if c.certified, err = newCertifiedTransport(c.http, cfg.Certificate); err != nil {
			return nil, err
		}
	}
	c.metadata.client = c
	c.keys.client = c
	return c, nil
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Issuer returns the configured issuer identifier.
func (c *Client) Issuer() string { return c.cfg.Issuer }

// ClientID returns the configured client identifier.
func (c *Client) ClientID() string { return c.cfg.ClientID }

// TokenLatency returns the recent worst latency of the token endpoint, which
// halves every minute; 0 while it is unknown. A call that timed out counts with
// the time it was given.
func (c *Client) TokenLatency() time.Duration { return c.latency.worst(time.Now()) }

// checkIssuer accepts an issuer identifier as RFC 8414 section 2 has it: a URL
// with a host and without query or fragment.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || issuer == "" || !visible(issuer, false) {
		return errors.New("oauth: issuer is missing or no URL")
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("oauth: issuer must have no query and no fragment")
	}
	if err := checkEndpoint(u); err != nil {
		return fmt.Errorf("oauth: issuer %w", err)
	}
	return nil
}

// visible says whether s consists of visible ASCII characters, and of spaces
// where they are allowed (the VSCHAR of RFC 6749 appendix A).
func visible(s string, space bool) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || (c == ' ' && !space) {
			return false
		}
	}
	return true
}

// CheckScope says what is wrong with a scope-token (RFC 6749 section 3.3), if
// anything is.
func CheckScope(token string) error {
	if !scopeToken(token) {
		return fmt.Errorf("%q is no scope token", token)
	}
	return nil
}

// scopeToken says whether s is a scope-token (RFC 6749 section 3.3).
func scopeToken(s string) bool {
	return s != "" && visible(s, false) && errorText(s, len(s)) == s
}
