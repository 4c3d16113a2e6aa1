// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import "context"

// Revoke revokes a token (RFC 7009). hint is "refresh_token" or "access_token".
func (c *Client) Revoke(ctx context.Context, token Secret, hint string) error { return ErrUnsupported }
