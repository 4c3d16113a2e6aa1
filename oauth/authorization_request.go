// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// AuthorizationRequest is what differs from one authorization request to the
// next (RFC 6749 section 4.1.1, OpenID Connect Core section 3.1.2.1).
type AuthorizationRequest struct {
	RedirectURI  string     // absolute; https, or http on loopback; required
	State        Secret     // required
	Nonce        Secret     // required with scope openid; not sent without it
	CodeVerifier Secret     // 43 to 128 characters; required; its S256 challenge is sent
	Params       url.Values // further parameters: prompt, login_hint, max_age, ...
	ResponseMode string     // one of [ResponseModes], or "" for the server's default (query)
	Scope        []string   // beside that of [Config]; tokens that pass [CheckScope]
	DPoPKey      *DPoPKey   // the code is bound to it (RFC 9449 section 10); nil: to none
}

// reservedParams are the parameters of an authorization request that this package
// sets itself, or that would change what the request is.
var reservedParams = map[string]bool{
	"response_type": true, "client_id": true, "redirect_uri": true, "scope": true, "state": true,
	"nonce": true, "code_challenge": true, "code_challenge_method": true, "response_mode": true,
	"request": true, "request_uri": true, "client_secret": true, "dpop_jkt": true,
}

// AuthorizationURL returns the URL to send the browser to. Where [Config].PAR says
// so, the request is first sent to the authorization server itself, and the URL is
// good for one login soon. Parameters that the authorization endpoint has already
// are kept (RFC 6749 section 3.1). Params of the request win over those of
// [Config]; resource indicators of [Config].Resource come beside those that Params
// name. Errors: that of [Client.Metadata]; [ErrUnsupported] when the metadata rules
// out PKCE with S256, DPoP with ES256, the response mode, or what Config demands; an [*Error] when
// the request could not be pushed; others for an incomplete request.
func (c *Client) AuthorizationURL(ctx context.Context, r AuthorizationRequest) (string, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return "", err
	}
	scope := c.scope(md)
	for _, token := range r.Scope {
		if err := CheckScope(token); err != nil {
			return "", fmt.Errorf("oauth: scope: %w", err)
		}
		if !slices.Contains(scope, token) {
			scope = append(slices.Clip(scope), token)
		}
	}
	if err := r.check(md, slices.Contains(scope, "openid")); err != nil {
		return "", err
	}
	u, err := url.Parse(md.AuthorizationEndpoint)
	if err != nil {
		return "", fmt.Errorf("%w: authorization_endpoint is not a URL", ErrMetadata)
	}
	params := c.authorizationParams(scope, &r)
	q := u.Query()
	for name := range params {
		q.Del(name) // there once, here or in what is pushed
	}
	if params, err = c.dispatch(ctx, md, params, r.DPoPKey); err != nil {
		return "", err
	}
	for name, values := range params {
		q[name] = values
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// dispatch signs the parameters of a request and pushes them, where that is wanted,
// and returns those that are left for the browser.
func (c *Client) dispatch(ctx context.Context, md *Metadata, params url.Values, key *DPoPKey) (url.Values, error) {
	signs, err := c.signsRequests(md)
	if err != nil {
		return nil, err
	}
	pack := func() (url.Values, error) {
		if !signs {
			return maps.Clone(params), nil
		}
		object, err := c.requestObject(params)
		if err != nil {
			return nil, err
		}
		return url.Values{"client_id": {c.cfg.ClientID}, "request": {object.Reveal()}}, nil
	}
	outer, err := pack()
	if err != nil {
		return nil, err
	}
	requestURI, err := c.push(ctx, md, outer, key, pack)
	switch {
	case err != nil:
		return nil, err
	case requestURI != "":
		return url.Values{"client_id": {c.cfg.ClientID}, "request_uri": {requestURI.Reveal()}}, nil
	case signs && params.Has("nonce"):
		// Without effect, and yet not to be left out (OpenID Connect Core section 6.1).
		outer["response_type"], outer["scope"] = params["response_type"], params["scope"]
	}
	return outer, nil
}

// authorizationParams returns all parameters of a request that has been checked.
func (c *Client) authorizationParams(scope []string, r *AuthorizationRequest) url.Values {
	q := url.Values{}
	for _, params := range []url.Values{c.cfg.Params, r.Params} {
		for name, values := range params {
			q[name] = slices.Clone(values)
		}
	}
	if values, err := essentialACR(q.Get("claims")); err == nil && len(values) > 0 {
		// What a server does with both is unspecified (OpenID Connect Core section
		// 5.5.1.1), and some go by acr_values.
		q.Del("acr_values")
	}
	c.addResource(q)
	q.Set("response_type", "code")
	q.Set("client_id", c.cfg.ClientID)
	q.Set("redirect_uri", r.RedirectURI)
	q.Set("scope", strings.Join(scope, " "))
	q.Set("state", r.State.Reveal())
	if slices.Contains(scope, "openid") {
		q.Set("nonce", r.Nonce.Reveal())
	}
	challenge := sha256.Sum256([]byte(r.CodeVerifier.Reveal()))
	q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(challenge[:]))
	q.Set("code_challenge_method", "S256")
	if r.DPoPKey != nil {
		q.Set("dpop_jkt", r.DPoPKey.thumbprint)
	}
	if r.ResponseMode != "" && r.ResponseMode != "query" {
		q.Set("response_mode", r.ResponseMode)
	}
	return q
}

// scope returns the scope to ask for.
func (c *Client) scope(md *Metadata) []string {
	if len(c.cfg.Scope) > 0 {
		return c.cfg.Scope
	}
	scope := []string{"openid", "profile"}
	if slices.Contains(md.ScopesSupported, "offline_access") {
		scope = append(scope, "offline_access")
	}
	return scope
}

// check refuses a request that is incomplete or that the server would not take.
func (r *AuthorizationRequest) check(md *Metadata, openid bool) error {
	u, err := url.Parse(r.RedirectURI)
	if err == nil {
		err = checkEndpoint(u)
	}
	if err != nil {
		return errors.New("oauth: redirect URI is not an absolute https URL without fragment (http is for loopback only)")
	}
	if r.State == "" || (openid && r.Nonce == "") || r.State == r.Nonce {
		return errors.New("oauth: authorization request needs state and nonce, and not the same value for both")
	}
	if !codeVerifier(r.CodeVerifier.Reveal()) {
		return errors.New("oauth: code verifier is not 43 to 128 unreserved characters")
	}
	for name, values := range r.Params {
		if reservedParams[name] {
			return fmt.Errorf("oauth: authorization request parameter %q cannot be replaced", name)
		}
		if len(values) != 1 && name != "resource" { // RFC 8707 section 2 repeats that one
			return fmt.Errorf("oauth: authorization request parameter %q needs exactly one value", name)
		}
	}
	if methods := md.CodeChallengeMethodsSupported; len(methods) > 0 && !slices.Contains(methods, "S256") {
		return fmt.Errorf("%w: PKCE with S256", ErrUnsupported)
	}
	if algs := md.DPoPSigningAlgValuesSupported; r.DPoPKey != nil && len(algs) > 0 && !slices.Contains(algs, dpopAlg) {
		return fmt.Errorf("%w: DPoP with %s", ErrUnsupported, dpopAlg)
	}
	if r.ResponseMode != "" && !slices.Contains(ResponseModes(), r.ResponseMode) {
		return fmt.Errorf("oauth: unknown response mode %q", r.ResponseMode)
	}
	modes := md.ResponseModesSupported
	if r.ResponseMode != "" && r.ResponseMode != ResponseModeQuery && len(modes) > 0 && !slices.Contains(modes, r.ResponseMode) {
		return fmt.Errorf("%w: response mode %s", ErrUnsupported, r.ResponseMode)
	}
	return nil
}

// codeVerifier says whether s is a code verifier (RFC 7636 section 4.1).
func codeVerifier(s string) bool {
	if len(s) < 43 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~", rune(c)) {
			return false
		}
	}
	return true
}
