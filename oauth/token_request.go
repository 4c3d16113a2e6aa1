// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import "context"

// ExchangeRequest is an access token request with an authorization code (RFC
// 6749 section 4.1.3).
type ExchangeRequest struct {
	Code         Secret
	CodeVerifier Secret
	RedirectURI  string // as in the authorization request
}

// Exchange sends an authorization code to the token endpoint, once.
func (c *Client) Exchange(ctx context.Context, r ExchangeRequest) (*TokenResponse, error) {
	return nil, ErrUnsupported
}

// RefreshRequest is an access token request with a refresh token (RFC 6749
// section 6).
type RefreshRequest struct {
	RefreshToken Secret
	Scope        []string // nil: as granted, and no scope parameter is sent
	Resource     []string // RFC 8707 resource indicators
}

// Refresh sends a refresh token to the token endpoint, once.
func (c *Client) Refresh(ctx context.Context, r RefreshRequest) (*TokenResponse, error) {
	return nil, ErrUnsupported
}
