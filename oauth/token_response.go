// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import "time"

// TokenResponse is a successful answer of the token endpoint (RFC 6749 section
// 5.1, OpenID Connect Core section 3.1.3.3).
type TokenResponse struct {
	AccessToken  Secret
	RefreshToken Secret   // "" when none came: keep the old one
	IDToken      Secret   // "" when none came
	TokenType    string   // "Bearer", whatever case the server used
	Scope        []string // granted scope; nil when not told, which means "as asked"

	// Expiry is when the access token expires: the moment the request was sent
	// plus expires_in. Zero when unknown: absent, unusable, not positive, absurd.
	Expiry time.Time
	// RefreshExpiry is when the refresh token ends, where the server tells it
	// (refresh_token_timeout, refresh_expires_in, refresh_token_expires_in,
	// authorization_expires_in; the earliest). Zero when unknown.
	RefreshExpiry time.Time
}
