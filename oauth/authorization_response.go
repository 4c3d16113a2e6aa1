// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"net/url"
)

// ValidateAuthorizationResponse checks an authorization response and returns
// its code.
func (c *Client) ValidateAuthorizationResponse(ctx context.Context, params url.Values, state Secret) (code Secret, err error) {
	return "", ErrUnsupported
}
