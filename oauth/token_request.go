// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ExchangeRequest is an access token request with an authorization code (RFC
// 6749 section 4.1.3).
type ExchangeRequest struct {
	Code         Secret
	CodeVerifier Secret
	RedirectURI  string   // as in the authorization request
	DPoPKey      *DPoPKey // as there; the tokens are bound to it
}

// Exchange sends an authorization code to the token endpoint, once: whatever the
// outcome, that code must not be sent again. (What is answered with a demand for a
// DPoP nonce has not been looked at, and is sent once more with it.) Errors: an [*Error]; of ClassNotSent
// when the metadata could not be had.
func (c *Client) Exchange(ctx context.Context, r ExchangeRequest) (*TokenResponse, error) {
	if r.Code == "" {
		return nil, errors.New("oauth: exchange without a code")
	}
	form := url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {r.Code.Reveal()},
		"code_verifier": {r.CodeVerifier.Reveal()},
		"redirect_uri":  {r.RedirectURI},
	}
	c.addResource(form)
	return c.token(ctx, c.cfg.Timeout, form, r.DPoPKey, false)
}

// RefreshRequest is an access token request with a refresh token (RFC 6749
// section 6).
type RefreshRequest struct {
	RefreshToken Secret
	Scope        []string // nil: as granted, and no scope parameter is sent
	Resource     []string // RFC 8707 resource indicators; nil: those of [Config]
	DPoPKey      *DPoPKey // that the grant's tokens are bound to; nil: to none
}

// Refresh sends a refresh token to the token endpoint, once. It is the only
// place that does, and it never repeats itself, but for a DPoP nonce as
// [Client.Exchange] does: what may be done after an error
// is for the caller to decide, by [ClassOf]. The call may take
// [Config].RefreshTimeout. Errors: an [*Error]; of ClassNotSent when the metadata
// could not be had.
func (c *Client) Refresh(ctx context.Context, r RefreshRequest) (*TokenResponse, error) {
	if r.RefreshToken == "" {
		return nil, errors.New("oauth: refresh without a refresh token")
	}
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {r.RefreshToken.Reveal()},
	}
	if len(r.Scope) > 0 {
		form.Set("scope", strings.Join(r.Scope, " "))
	}
	if len(r.Resource) > 0 {
		form["resource"] = r.Resource
	} else {
		c.addResource(form)
	}
	return c.token(ctx, c.cfg.RefreshTimeout, form, r.DPoPKey, len(r.Scope)+len(r.Resource) > 0)
}

// token sends a token request, a narrow one where it is for one upstream alone, and
// reads the answer. With a key the access token has to be bound to it.
func (c *Client) token(ctx context.Context, timeout time.Duration, form url.Values, key *DPoPKey, narrow bool) (*TokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, notSent(err)
	}
	start := time.Now()
	a, err := c.postProved(ctx, md.TokenEndpoint, form, maxTokenResponse, key, nil)
	// A call for one upstream that hangs says nothing of the others.
	hung := narrow && ClassOf(err) == ClassAmbiguous
	if ClassOf(err) != ClassNotSent && ClassOf(err) != ClassConfiguration && !hung {
		c.latency.observe(time.Since(start), time.Now())
	}
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, answerError(a)
	}
	return parseTokenResponse(a, key != nil)
}
