// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/url"
)

// AuthorizationRequest is what differs from one authorization request to the
// next (RFC 6749 section 4.1.1, OpenID Connect Core section 3.1.2.1).
type AuthorizationRequest struct {
	RedirectURI  string     // absolute; required
	State        Secret     // required
	Nonce        Secret     // required with scope openid
	CodeVerifier Secret     // required; its S256 challenge is sent
	Params       url.Values // further parameters: prompt, login_hint, max_age, ...
	ResponseMode string     // "query", "form_post", or "" for the server's default (query)
}

// AuthorizationURL returns the URL to send the browser to.
func (c *Client) AuthorizationURL(ctx context.Context, r AuthorizationRequest) (string, error) {
	return "", ErrUnsupported
}
