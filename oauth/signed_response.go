// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The response modes: how an authorization response comes back. Those with JWT in
// their names are signed by the authorization server (JWT Secured Authorization
// Response Mode for OAuth 2.0, JARM).
const (
	ResponseModeQuery       = "query"
	ResponseModeFormPost    = "form_post" // OAuth 2.0 Form Post Response Mode
	ResponseModeJWT         = "jwt"       // query.jwt, for a code
	ResponseModeQueryJWT    = "query.jwt"
	ResponseModeFormPostJWT = "form_post.jwt"
)

// ResponseModes lists the response modes, as they are best shown to somebody who has
// to choose.
func ResponseModes() []string {
	return []string{ResponseModeQuery, ResponseModeFormPost, ResponseModeJWT, ResponseModeQueryJWT, ResponseModeFormPostJWT}
}

// maxResponseJWT bounds a signed authorization response, in bytes.
const maxResponseJWT = 24 << 10

// signedResponse says whether a response of that mode is signed.
func signedResponse(mode string) bool {
	return mode == ResponseModeJWT || strings.HasSuffix(mode, ".jwt")
}

// parseResponseJWT takes the JWT of a signed response apart. It has to be alone: a code
// beside it would be one that nobody signed.
func parseResponseJWT(params url.Values) (*signed, error) {
	values := params["response"]
	if len(values) != 1 || len(values[0]) > maxResponseJWT {
		return nil, errors.New("response is repeated or too long")
	}
	for name := range responseParams {
		if params.Has(name) {
			return nil, fmt.Errorf("%s is beside the signed response", name)
		}
	}
	return parseJWS(values[0])
}

// signedResponseParams verifies a signed response (JARM section 2.4) and returns the
// parameters in it. Errors: [ErrResponse], [ErrKeysUnavailable], one of
// [Client.Metadata].
func (c *Client) signedResponseParams(ctx context.Context, params url.Values) (url.Values, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	s, err := parseResponseJWT(params)
	if err != nil {
		return nil, invalidResponse(err)
	}
	cl, err := parseForeignClaims(s.payload)
	if err == nil {
		err = c.checkResponseClaims(s, cl, time.Now())
	}
	if err == nil {
		err = s.checkAlg(md.AuthorizationSigningAlgValuesSupported)
	}
	if err != nil {
		return nil, invalidResponse(err)
	}
	if _, err := c.keys.verify(ctx, s, loginPatience); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, err
		}
		return nil, invalidResponse(err)
	}
	out := url.Values{}
	for name := range responseParams {
		if !cl.has(name) {
			continue
		}
		value, err := cl.text(name)
		if err != nil {
			return nil, invalidResponse(err)
		}
		out.Set(name, value)
	}
	return out, nil
}

func invalidResponse(err error) error { return fmt.Errorf("%w: signed response: %w", ErrResponse, err) }

// checkResponseClaims checks what every signed response has to say: by whom it is, for
// whom, and until when. Other JWTs of the issuer are none (RFC 8725 section 3.11).
func (c *Client) checkResponseClaims(s *signed, cl claims, now time.Time) error {
	if s.typ != "" && !s.isType("jwt") && !s.isType("oauth-authz-resp+jwt") {
		return errors.New("typ is not that of an authorization response")
	}
	if iss, err := cl.text("iss"); err != nil || !c.AcceptsIssuer(iss) {
		return errors.New("iss is not the issuer")
	}
	aud, err := cl.audience()
	if err != nil {
		return err
	}
	if len(aud) == 0 || slices.ContainsFunc(aud, func(a string) bool { return a != c.cfg.ClientID }) {
		return errors.New("aud is not the client, or names somebody else too")
	}
	expiry, err := cl.date("exp")
	if err != nil {
		return err
	}
	if expiry.IsZero() || !now.Before(expiry.Add(c.cfg.Leeway)) {
		return errors.New("expired, or without exp")
	}
	_, _, err = cl.notYet(now, c.cfg.Leeway)
	return err
}
