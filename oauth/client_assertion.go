// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"fmt"
	"time"
)

// AssertionAudience is whom a client assertion is for.
type AssertionAudience string

// The audiences of a client assertion.
const (
	// AudienceIssuer is the issuer identifier, at every endpoint. An assertion
	// can be used nowhere else, whatever metadata says the endpoints are.
	AudienceIssuer AssertionAudience = "issuer"
	// AudienceTokenEndpoint is the URL of the token endpoint, for servers that
	// know only what RFC 7523 section 3 once suggested. The server's metadata
	// decides what it is: with one key for several authorization servers, one of
	// them could get an assertion that is good at another.
	AudienceTokenEndpoint AssertionAudience = "token_endpoint"
)

// AssertionType is the typ header parameter of a client assertion.
type AssertionType string

// The types of a client assertion.
const (
	// AssertionTypeClientAuthentication says what it is, so that it can be taken
	// for nothing else (RFC 8725 section 3.11).
	AssertionTypeClientAuthentication AssertionType = "client-authentication+jwt"
	// AssertionTypeJWT is for servers that want to see this and nothing else.
	AssertionTypeJWT AssertionType = "JWT"
	// AssertionTypeNone leaves typ out.
	AssertionTypeNone AssertionType = "none"
)

const (
	clientAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionLife is from iat to exp. It is made for one request.
	assertionLife = time.Minute
	// assertionBackDate is how far iat lies in the past, for servers whose clock
	// is behind ours.
	assertionBackDate = 5 * time.Second
)

// AssertionConfig says how client assertions are made (RFC 7523 section 2.2), for
// client_secret_jwt and private_key_jwt.
type AssertionConfig struct {
	// Alg is the algorithm of client_secret_jwt: HS256, HS384 or HS512. That of a
	// private key is its own. Default: HS256.
	Alg string
	// Audience is whom they are for. Default: AudienceIssuer.
	Audience AssertionAudience
	// Type is their typ. Default: AssertionTypeClientAuthentication.
	Type AssertionType
}

// withDefaults fills in what is not given, and says what is wrong.
func (a *AssertionConfig) withDefaults() error {
	if a.Alg == "" {
		a.Alg = "HS256"
	}
	if a.Audience == "" {
		a.Audience = AudienceIssuer
	}
	if a.Type == "" {
		a.Type = AssertionTypeClientAuthentication
	}
	if _, ok := macAlgorithms[a.Alg]; !ok {
		return fmt.Errorf("oauth: unknown algorithm %q of client_secret_jwt", a.Alg)
	}
	switch a.Audience {
	case AudienceIssuer, AudienceTokenEndpoint:
	default:
		return fmt.Errorf("oauth: unknown audience %q of client assertions", a.Audience)
	}
	switch a.Type {
	case AssertionTypeClientAuthentication, AssertionTypeJWT, AssertionTypeNone:
	default:
		return fmt.Errorf("oauth: unknown type %q of client assertions", a.Type)
	}
	return nil
}

// assertion makes a client assertion: a new one for every request, so that its jti
// is never used again, be it by a repetition of the same request.
func (c *Client) assertion(ctx context.Context) (Secret, error) {
	a := &c.cfg.Assertion
	audience := c.cfg.Issuer
	if a.Audience == AudienceTokenEndpoint {
		md, err := c.Metadata(ctx)
		if err != nil {
			return "", err
		}
		audience = md.TokenEndpoint
	}
	issuedAt := time.Now().Add(-assertionBackDate)
	claims := map[string]any{
		"iss": c.cfg.ClientID,
		"sub": c.cfg.ClientID,
		"aud": audience,
		"jti": newRandom().Reveal(),
		"iat": issuedAt.Unix(),
		"exp": issuedAt.Add(assertionLife).Unix(),
	}
	typ := string(a.Type)
	if a.Type == AssertionTypeNone {
		typ = ""
	}
	if c.cfg.AuthMethod == AuthPrivateKeyJWT {
		return c.cfg.SigningKey.sign(typ, claims)
	}
	secret, err := c.clientSecret()
	if err != nil {
		return "", err
	}
	header := map[string]any{"alg": a.Alg}
	if typ != "" {
		header["typ"] = typ
	}
	return macJWS(a.Alg, secret, header, claims)
}

// assertionAlgorithm returns what assertions are signed with; "" for a method
// without them.
func (c *Client) assertionAlgorithm() string {
	switch c.cfg.AuthMethod {
	case AuthClientSecretJWT:
		return c.cfg.Assertion.Alg
	case AuthPrivateKeyJWT:
		return c.cfg.SigningKey.algorithm()
	}
	return ""
}
