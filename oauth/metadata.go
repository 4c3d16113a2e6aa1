// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import "context"

// Metadata is authorization server metadata (RFC 8414 section 2, OpenID Connect
// Discovery section 3), as far as this package uses it. Treat it as read-only:
// it is shared.
type Metadata struct {
	Issuer                string
	AuthorizationEndpoint string
	TokenEndpoint         string
	JWKSURI               string
	RevocationEndpoint    string
	EndSessionEndpoint    string

	ScopesSupported                   []string
	ResponseModesSupported            []string
	TokenEndpointAuthMethodsSupported []string
	CodeChallengeMethodsSupported     []string
	IDTokenSigningAlgValuesSupported  []string
	// AuthorizationResponseIssParameterSupported: every authorization response
	// carries iss (RFC 9207 section 3).
	AuthorizationResponseIssParameterSupported bool
}

// Metadata returns the authorization server's metadata.
func (c *Client) Metadata(ctx context.Context) (*Metadata, error) { return nil, ErrUnsupported }
