// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"time"
)

// IDToken is a validated ID token (OpenID Connect Core section 2).
type IDToken struct {
	Subject  string
	SID      string    // session identifier at the authorization server; "" when absent
	ACR      string    // authentication context class reference; "" when absent
	AuthTime time.Time // zero when absent
	IssuedAt time.Time
	Expiry   time.Time
	// Claims are all claims of the token. Those with the value null are left
	// out; numbers are json.Number. Do not modify.
	Claims map[string]any
}

// IDTokenCheck is what an ID token from a code exchange has to match.
type IDTokenCheck struct {
	Nonce       Secret         // required
	AccessToken Secret         // checked against at_hash when the token has one
	MaxAge      *time.Duration // max_age that was asked for; nil: none
	ACRValues   []string       // one of these has to be the acr; nil: any
}

// RefreshedIDTokenCheck is what an ID token from a refresh has to match: the
// one of the login (OpenID Connect Core section 12.2).
type RefreshedIDTokenCheck struct {
	Subject     string    // required
	Nonce       Secret    // compared when the token has a nonce
	AuthTime    time.Time // compared when both are known
	AccessToken Secret    // checked against at_hash when the token has one
}

// VerifyIDToken validates an ID token from a code exchange.
func (c *Client) VerifyIDToken(ctx context.Context, raw Secret, check IDTokenCheck) (*IDToken, error) {
	return nil, ErrUnsupported
}

// VerifyRefreshedIDToken validates an ID token from a refresh.
func (c *Client) VerifyRefreshedIDToken(ctx context.Context, raw Secret, check RefreshedIDTokenCheck) (*IDToken, error) {
	return nil, ErrUnsupported
}
