// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import "context"

// EndSessionRequest is a logout request (OpenID Connect RP-Initiated Logout
// section 2). Every field is optional.
type EndSessionRequest struct {
	IDTokenHint           Secret
	LogoutHint            string
	PostLogoutRedirectURI string
	State                 string
}

// EndSessionURL returns the URL that ends the end user's session at the
// authorization server, or "" when the metadata names no end-session endpoint.
func (c *Client) EndSessionURL(ctx context.Context, r EndSessionRequest) (string, error) {
	return "", ErrUnsupported
}
