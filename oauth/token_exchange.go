// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const grantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

// Token type identifiers of RFC 8693 section 3 that can be what a resource server
// is sent.
const (
	TokenTypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TokenTypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
)

// TokenExchangeRequest is a token exchange request (RFC 8693 section 2.1) with an
// access token of the end user as subject token.
type TokenExchangeRequest struct {
	SubjectToken Secret
	Audience     []string // logical names of the target service
	Resource     []string // RFC 8707 resource indicators of it
	Scope        []string
	// DPoPKey is what SubjectToken is bound to, and the new one will be; nil: nothing.
	DPoPKey *DPoPKey
	// RequestedTokenType is TokenTypeAccessToken or TokenTypeJWT.
	// Default: TokenTypeAccessToken.
	RequestedTokenType string
}

// ExchangeToken has an access token exchanged for another one, which a resource
// server of another audience takes. It consumes nothing, so it may be sent again.
// A refresh token in the answer is left out. Errors: an [*Error]; of ClassOutage,
// wrapping [ErrUnusable], when what was issued is not what was asked for.
func (c *Client) ExchangeToken(ctx context.Context, r TokenExchangeRequest) (*TokenResponse, error) {
	if r.SubjectToken == "" {
		return nil, errors.New("oauth: token exchange without a subject token")
	}
	requested := r.RequestedTokenType
	if requested == "" {
		requested = TokenTypeAccessToken
	}
	form := url.Values{
		"grant_type":           {grantTokenExchange},
		"subject_token":        {r.SubjectToken.Reveal()},
		"subject_token_type":   {TokenTypeAccessToken},
		"requested_token_type": {requested},
	}
	if len(r.Audience) > 0 {
		form["audience"] = r.Audience
	}
	if len(r.Resource) > 0 {
		form["resource"] = r.Resource
	}
	if len(r.Scope) > 0 {
		form.Set("scope", strings.Join(r.Scope, " "))
	}
	answer, err := c.token(ctx, c.cfg.Timeout, form, r.DPoPKey, true)
	if err != nil {
		return nil, err
	}
	// An access token may be called a JWT and the other way round; a refresh token
	// or an assertion is not for a resource server to see.
	switch answer.IssuedTokenType {
	case TokenTypeAccessToken, TokenTypeJWT:
	default:
		return nil, &Error{Status: 200, Class: ClassOutage, cause: fmt.Errorf("%w: token exchange: issued_token_type %q is not an access token", ErrUnusable, errorText(answer.IssuedTokenType, 200))}
	}
	answer.RefreshToken, answer.IDToken = "", ""
	return answer, nil
}
