// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Metadata is authorization server metadata (RFC 8414 section 2, OpenID Connect
// Discovery section 3), as far as this package uses it. Of a client with a
// certificate, the endpoints where it authenticates are those for mutual TLS (RFC
// 8705 section 5). Treat it as read-only: it is shared.
type Metadata struct {
	Issuer                string
	AuthorizationEndpoint string
	TokenEndpoint         string
	JWKSURI               string
	// These are "" when there are none.
	RevocationEndpoint                 string
	IntrospectionEndpoint              string
	PushedAuthorizationRequestEndpoint string
	EndSessionEndpoint                 string
	UserInfoEndpoint                   string

	ScopesSupported                            []string
	ResponseModesSupported                     []string
	TokenEndpointAuthMethodsSupported          []string
	TokenEndpointAuthSigningAlgValuesSupported []string
	CodeChallengeMethodsSupported              []string
	IDTokenSigningAlgValuesSupported           []string
	// IntrospectionSigningAlgValuesSupported: there are signed introspection
	// answers (RFC 9701 section 7).
	IntrospectionSigningAlgValuesSupported []string
	// UserInfoSigningAlgValuesSupported are for signed UserInfo answers (OpenID Connect
	// Discovery section 3).
	UserInfoSigningAlgValuesSupported []string
	// AuthorizationResponseIssParameterSupported: every authorization response
	// carries iss (RFC 9207 section 3).
	AuthorizationResponseIssParameterSupported bool
	// RequirePushedAuthorizationRequests: no other authorization request is taken
	// (RFC 9126 section 5).
	RequirePushedAuthorizationRequests bool
	// RequireSignedRequestObject: every authorization request has to be signed (RFC
	// 9101 section 10.5), by one of RequestObjectSigningAlgValuesSupported.
	RequireSignedRequestObject             bool
	RequestObjectSigningAlgValuesSupported []string
	// DPoPSigningAlgValuesSupported are for DPoP proofs (RFC 9449 section 5.1); nil
	// where there is no DPoP, or it is not told.
	DPoPSigningAlgValuesSupported []string
	// AuthorizationSigningAlgValuesSupported are for signed authorization responses
	// (JARM section 3.1).
	AuthorizationSigningAlgValuesSupported []string
}

const (
	maxMetadata     = 256 << 10
	metadataAge     = time.Hour        // then it is fetched again, while the old one serves
	metadataBackOff = time.Second      // after a failure with nothing in hand
	metadataRetry   = 30 * time.Second // after a failure with an old one in hand
)

// Metadata returns the authorization server's metadata. The first call fetches
// it, from the location of OpenID Connect Discovery section 4 and failing that
// of RFC 8414 section 3; it is fetched again after an hour, in the background,
// and as long as that fails the old one serves. All callers share one fetch,
// which goes on when they leave. After a failure, calls fail at once for about a
// second. With [Config].Metadata it is that. Errors: an [*Error], [ErrMetadata], or
// the context's.
func (c *Client) Metadata(ctx context.Context) (*Metadata, error) {
	if c.cfg.Metadata != nil {
		return c.cfg.Metadata, nil
	}
	return c.metadata.get(ctx)
}

// metadataCache keeps the metadata and the one fetch that may be under way.
type metadataCache struct {
	client *Client

	mu      sync.Mutex
	current *Metadata
	fetched time.Time
	failure error
	retryAt time.Time
	flight  chan struct{} // closed when the fetch under way has ended; nil: none
	warned  bool
}

func (m *metadataCache) get(ctx context.Context) (*Metadata, error) {
	m.mu.Lock()
	now := time.Now()
	due := m.current == nil || now.Sub(m.fetched) >= metadataAge
	if due && m.flight == nil && !now.Before(m.retryAt) {
		m.flight = make(chan struct{})
		go m.fetch(m.flight)
	}
	current, failure, flight := m.current, m.failure, m.flight
	m.mu.Unlock()
	if current != nil {
		return current, nil
	}
	if flight == nil {
		return nil, failure
	}
	select {
	case <-flight:
	case <-ctx.Done():
		return nil, notSent(ctx.Err())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return nil, m.failure
	}
	return m.current, nil
}

// notSent is the error of a caller whose own request was not sent: it left while
// it waited for something else, or could not have that.
func notSent(cause error) error {
	e := &Error{Class: ClassNotSent, cause: cause}
	if inner, ok := errors.AsType[*Error](cause); ok {
		e.RetryAfter = inner.RetryAfter
	}
	return e
}

// fetch fetches the metadata for everybody who waits; it has a context of its own.
func (m *metadataCache) fetch(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), m.client.cfg.Timeout)
	defer cancel()
	md, err := m.client.fetchMetadata(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if err == nil {
		m.current, m.fetched, m.failure = md, now, nil
		m.retryAt = time.Time{}
		m.client.warnAbout(md, &m.warned)
	} else {
		m.failure = err
		m.retryAt = now.Add(metadataBackOff)
		if m.current != nil {
			m.retryAt = now.Add(metadataRetry)
		}
		m.client.log.Warn("fetching authorization server metadata failed",
			"issuer", m.client.cfg.Issuer, "cached", m.current != nil, "error", err)
	}
	m.flight = nil
	close(done)
}

// warnAbout tells the operator, once, what may not work with this server.
func (c *Client) warnAbout(md *Metadata, warned *bool) {
	if *warned {
		return
	}
	*warned = true
	methods := md.TokenEndpointAuthMethodsSupported
	if len(methods) == 0 {
		methods = []string{string(AuthClientSecretBasic)} // RFC 8414 section 2
	}
	if !slices.Contains(methods, string(c.cfg.AuthMethod)) {
		c.log.Warn("client authentication method is not among those of the authorization server",
			"issuer", c.cfg.Issuer, "method", string(c.cfg.AuthMethod), "supported", methods)
	}
	if algs, alg := md.TokenEndpointAuthSigningAlgValuesSupported, c.assertionAlgorithm(); alg != "" && len(algs) > 0 && !slices.Contains(algs, alg) {
		c.log.Warn("signature algorithm of client assertions is not among those of the authorization server",
			"issuer", c.cfg.Issuer, "alg", alg, "supported", algs)
	}
	if md.RequirePushedAuthorizationRequests && c.cfg.PAR == PAROff {
		c.log.Warn("authorization server takes pushed authorization requests alone, and they are switched off", "issuer", c.cfg.Issuer)
	}
	if md.RequireSignedRequestObject && c.cfg.RequestObject == RequestObjectOff {
		c.log.Warn("authorization server takes signed authorization requests alone, and they are switched off", "issuer", c.cfg.Issuer)
	}
	if signs, err := c.signsRequests(md); err == nil && signs {
		if algs, alg := md.RequestObjectSigningAlgValuesSupported, c.cfg.SigningKey.algorithm(); len(algs) > 0 && !slices.Contains(algs, alg) {
			c.log.Warn("signature algorithm of request objects is not among those of the authorization server",
				"issuer", c.cfg.Issuer, "alg", alg, "supported", algs)
		}
	}
	if c.cfg.DPoP && len(md.DPoPSigningAlgValuesSupported) == 0 {
		c.log.Warn("authorization server does not announce DPoP; proofs are sent all the same, and a login fails if its tokens are not bound",
			"issuer", c.cfg.Issuer)
	}
	if len(md.CodeChallengeMethodsSupported) == 0 {
		c.log.Warn("authorization server does not announce PKCE; it is used all the same, and state and nonce are checked",
			"issuer", c.cfg.Issuer)
	}
}

// fetchMetadata tries the two well-known locations. The second one is asked when
// the first has no usable document, not when its server cannot be reached and
// not when it names another issuer.
func (c *Client) fetchMetadata(ctx context.Context) (*Metadata, error) {
	oidc, rfc8414 := wellKnown(c.cfg.Issuer)
	md, err := c.fetchMetadataFrom(ctx, oidc)
	if err == nil || errors.Is(err, errIssuerMismatch) {
		return md, err
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Status == 0 {
		return nil, err
	}
	md, second := c.fetchMetadataFrom(ctx, rfc8414)
	if second == nil {
		return md, nil
	}
	// The first answer tells more, unless there simply was no document.
	if e, ok := errors.AsType[*Error](err); ok && e.Status == 404 {
		err = second
	}
	return nil, err
}

func (c *Client) fetchMetadataFrom(ctx context.Context, location string) (*Metadata, error) {
	body, err := c.get(ctx, location, maxMetadata)
	if err != nil {
		return nil, err
	}
	return parseMetadata(body, c.metadataIssuer(), c.certified != nil)
}

// wellKnown returns where metadata may be: appended to the issuer (OpenID Connect
// Discovery section 4.1), inserted before its path (RFC 8414 section 3.1).
func wellKnown(issuer string) (oidc, rfc8414 string) {
	issuer = strings.TrimSuffix(issuer, "/")
	oidc = issuer + "/.well-known/openid-configuration"
	scheme, rest, _ := strings.Cut(issuer, "://")
	host, path, found := strings.Cut(rest, "/")
	if found {
		path = "/" + path
	}
	return oidc, scheme + "://" + host + "/.well-known/oauth-authorization-server" + path
}

var errIssuerMismatch = fmt.Errorf("%w: it names another issuer", ErrMetadata)

// endpoint is a metadata member that names an endpoint.
type endpoint struct {
	name     string
	to       *string
	required bool
	// authenticated: the client authenticates there, or shows a token that may be
	// bound to its certificate, so that with a certificate
	// the member of mtls_endpoint_aliases counts (RFC 8705 section 5).
	authenticated bool
}

func (md *Metadata) endpoints() []endpoint {
	return []endpoint{
		{"authorization_endpoint", &md.AuthorizationEndpoint, true, false},
		{"token_endpoint", &md.TokenEndpoint, true, true},
		{"jwks_uri", &md.JWKSURI, true, false},
		{"revocation_endpoint", &md.RevocationEndpoint, false, true},
		{"introspection_endpoint", &md.IntrospectionEndpoint, false, true},
		{"pushed_authorization_request_endpoint", &md.PushedAuthorizationRequestEndpoint, false, true},
		{"end_session_endpoint", &md.EndSessionEndpoint, false, false},
		{"userinfo_endpoint", &md.UserInfoEndpoint, false, true},
	}
}

// read reads the endpoint out of a metadata document or its aliases.
func (e *endpoint) read(o *object) (string, error) {
	if err := o.unique(e.name); err != nil {
		return "", err
	}
	text, err := o.text(e.name)
	if err != nil || text == "" {
		return "", err
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%s is not a URL", e.name)
	}
	if err := checkEndpoint(u); err != nil {
		return "", fmt.Errorf("%s %w", e.name, err)
	}
	return text, nil
}

// parseMetadata reads a metadata document that has to name the given issuer. mutualTLS: for a
// client with a certificate.
func parseMetadata(data []byte, issuer string, mutualTLS bool) (*Metadata, error) {
	o, err := parseObject(data, false)
	if err == nil {
		err = o.unique("issuer", "mtls_endpoint_aliases")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	// Exactly the issuer, or nothing in the document counts (RFC 8414 section 3.3).
	if got, err := o.text("issuer"); err != nil || got != issuer {
		return nil, errIssuerMismatch
	}
	md := &Metadata{
		Issuer:                            issuer,
		ScopesSupported:                   o.texts("scopes_supported"),
		ResponseModesSupported:            o.texts("response_modes_supported"),
		TokenEndpointAuthMethodsSupported: o.texts("token_endpoint_auth_methods_supported"),
		TokenEndpointAuthSigningAlgValuesSupported: o.texts("token_endpoint_auth_signing_alg_values_supported"),
		CodeChallengeMethodsSupported:              o.texts("code_challenge_methods_supported"),
		IDTokenSigningAlgValuesSupported:           o.texts("id_token_signing_alg_values_supported"),
		IntrospectionSigningAlgValuesSupported:     o.texts("introspection_signing_alg_values_supported"),
	}
	md.AuthorizationResponseIssParameterSupported, _ = o.members["authorization_response_iss_parameter_supported"].(bool)
	md.RequirePushedAuthorizationRequests, _ = o.members["require_pushed_authorization_requests"].(bool)
	md.RequireSignedRequestObject, _ = o.members["require_signed_request_object"].(bool)
	md.RequestObjectSigningAlgValuesSupported = o.texts("request_object_signing_alg_values_supported")
	md.UserInfoSigningAlgValuesSupported = o.texts("userinfo_signing_alg_values_supported")
	md.DPoPSigningAlgValuesSupported = o.texts("dpop_signing_alg_values_supported")
	md.AuthorizationSigningAlgValuesSupported = o.texts("authorization_signing_alg_values_supported")
	aliases := &object{}
	if members, ok := o.members["mtls_endpoint_aliases"].(map[string]any); ok && mutualTLS {
		aliases.members = members
	}
	for _, e := range md.endpoints() {
		if *e.to, err = e.read(o); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
		}
		if e.authenticated {
			alias, err := e.read(aliases)
			if err != nil {
				return nil, fmt.Errorf("%w: mtls_endpoint_aliases: %w", ErrMetadata, err)
			}
			if alias != "" {
				*e.to = alias
			}
		}
		if *e.to == "" && e.required {
			return nil, fmt.Errorf("%w: %s is missing", ErrMetadata, e.name)
		}
		if err := checkPlace(*e.to, issuer); *e.to != "" && err != nil {
			return nil, fmt.Errorf("%w: %s %w", ErrMetadata, e.name, err)
		}
	}
	return md, nil
}
