// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/url"
)

// responseParams are the parameters of an authorization response and their
// longest accepted values. Others are ignored (RFC 6749 section 4.1.2).
var responseParams = map[string]int{
	"code": 8 << 10, "state": 1 << 10, "iss": 2 << 10,
	"error": 128, "error_description": 4 << 10, "error_uri": 4 << 10,
}

// AuthorizationResponseCheck is what an authorization response has to match.
type AuthorizationResponseCheck struct {
	State Secret // that of the authorization request; required
	// ResponseMode is that of the authorization request. With one of the JWT modes
	// nothing but a signed response counts, with the others nothing but a plain one.
	ResponseMode string
}

// ResponseState returns the state of an authorization response that nobody has looked
// at: in a signed one (JARM section 2.4) it is in the payload. "" when there is none.
func ResponseState(params url.Values) Secret {
	if !params.Has("response") {
		return Secret(params.Get("state"))
	}
	s, err := parseResponseJWT(params)
	if err != nil {
		return ""
	}
	cl, err := parseForeignClaims(s.payload)
	if err != nil {
		return ""
	}
	state, err := cl.text("state")
	if err != nil {
		return ""
	}
	return Secret(state)
}

// ResponseIssuer returns the iss of an authorization response that has passed
// [Client.ValidateAuthorizationResponse]; "" when it has none.
func ResponseIssuer(params url.Values) string {
	if !params.Has("response") {
		return params.Get("iss")
	}
	s, err := parseResponseJWT(params)
	if err != nil {
		return ""
	}
	cl, err := parseClaims(s.payload)
	if err != nil {
		return ""
	}
	iss, err := cl.text("iss")
	if err != nil {
		return ""
	}
	return iss
}

// ValidateAuthorizationResponse checks an authorization response (RFC 6749
// section 4.1.2, RFC 9207 section 2.4), which may be a signed one (JARM section
// 2.4), and returns its code. Errors: an [*Error] with a Code for an authentic
// error response ("access_denied", "login_required"); [ErrResponse] for one that
// cannot be used; [ErrKeysUnavailable] when nothing can be said of a signature; an
// error of [Client.Metadata]. Nothing of the response may be used unless err is nil.
func (c *Client) ValidateAuthorizationResponse(ctx context.Context, params url.Values, check AuthorizationResponseCheck) (code Secret, err error) {
	if subtle.ConstantTimeCompare([]byte(ResponseState(params).Reveal()), []byte(check.State.Reveal())) != 1 || check.State == "" {
		return "", fmt.Errorf("%w: state does not match", ErrResponse)
	}
	switch wanted := signedResponse(check.ResponseMode); {
	case wanted && !params.Has("response"):
		return "", fmt.Errorf("%w: it is not signed", ErrResponse)
	case !wanted && params.Has("response"):
		return "", fmt.Errorf("%w: nobody asked for a signed one", ErrResponse)
	case wanted:
		if params, err = c.signedResponseParams(ctx, params); err != nil {
			return "", err
		}
	}
	return c.responseCode(ctx, params, check.State)
}

// responseCode returns the code of a response whose signature, if it is to have one,
// has been verified.
func (c *Client) responseCode(ctx context.Context, params url.Values, state Secret) (Secret, error) {
	for name, limit := range responseParams {
		values := params[name]
		if len(values) > 1 {
			return "", fmt.Errorf("%w: repeated parameter %s", ErrResponse, name)
		}
		if len(values) == 1 && len(values[0]) > limit {
			return "", fmt.Errorf("%w: parameter %s is too long", ErrResponse, name)
		}
	}
	if got := params.Get("state"); state == "" || subtle.ConstantTimeCompare([]byte(got), []byte(state.Reveal())) != 1 {
		return "", fmt.Errorf("%w: state does not match", ErrResponse)
	}
	if params.Has("iss") {
		if !c.AcceptsIssuer(params.Get("iss")) {
			return "", fmt.Errorf("%w: iss names another issuer", ErrResponse)
		}
	} else {
		md, err := c.Metadata(ctx)
		if err != nil {
			return "", err
		}
		if md.AuthorizationResponseIssParameterSupported {
			return "", fmt.Errorf("%w: iss is missing", ErrResponse)
		}
	}
	value := params.Get("code")
	if params.Has("error") {
		name := errorText(params.Get("error"), responseParams["error"])
		if name == "" || value != "" {
			return "", fmt.Errorf("%w: malformed error response", ErrResponse)
		}
		return "", &Error{
			Code:        name,
			Description: errorText(params.Get("error_description"), maxErrorText),
			URI:         errorText(params.Get("error_uri"), maxErrorText),
			Class:       classOfCode(name),
		}
	}
	if value == "" || !visible(value, true) {
		return "", fmt.Errorf("%w: code is missing or malformed", ErrResponse)
	}
	return Secret(value), nil
}
