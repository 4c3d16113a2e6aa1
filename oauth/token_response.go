// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TokenResponse is a successful answer of the token endpoint (RFC 6749 section
// 5.1, OpenID Connect Core section 3.1.3.3).
type TokenResponse struct {
	AccessToken  Secret
	RefreshToken Secret   // "" when none came: keep the old one
	IDToken      Secret   // "" when none came
	TokenType    string   // "Bearer" or "DPoP", whatever case the server used
	Scope        []string // granted scope; nil when not told, which means "as asked"

	// IssuedTokenType is what AccessToken is, in the answer to a token exchange
	// (RFC 8693 section 2.2.1); "" in any other.
	IssuedTokenType string

	// Expiry is when the access token expires: the moment the request was sent
	// plus expires_in. Zero when unknown: absent, unusable, not positive, absurd.
	Expiry time.Time
	// RefreshExpiry is when the refresh token ends, where the server tells it
	// (refresh_token_timeout, refresh_expires_in, refresh_token_expires_in,
	// authorization_expires_in; the earliest). Zero when unknown.
	RefreshExpiry time.Time
}

const (
	maxTokenResponse = 1 << 20
	// maxErrorText bounds descriptions and URIs of errors.
	maxErrorText = 1 << 10
	// maxExpiresIn is where a lifetime becomes absurd.
	maxExpiresIn = 20 * 365 * 24 * time.Hour
)

// refreshLifetimes are the members that tell how long a refresh token lasts.
var refreshLifetimes = []string{
	"refresh_token_timeout", "refresh_expires_in", "refresh_token_expires_in", "authorization_expires_in",
}

// parseTokenResponse reads a 200 answer of the token endpoint. Names are compared
// exactly. Unknown members are ignored, repeated ones too; a repeated one that is
// used here makes the answer unusable. So does anything else that is wrong with
// the tokens themselves (an *Error of ClassOutage that wraps [ErrUnusable]: the
// server does not work as it should, no session is to blame).
//
// bound: the access token has to be of the type DPoP (RFC 9449 section 5), which the
// server does not say of one that it has not bound to our key. Without it the type
// is Bearer: who asked for no binding has no key for it.
func parseTokenResponse(a *answer, bound bool) (*TokenResponse, error) {
	unusable := func(err error) error {
		return &Error{Status: a.status, Class: ClassOutage, cause: fmt.Errorf("%w: token response: %w", ErrUnusable, err)}
	}
	o, err := parseObject(a.body, false)
	if err != nil {
		return nil, unusable(err)
	}
	if err := o.unique(append([]string{"access_token", "token_type", "refresh_token", "id_token", "expires_in", "scope", "error", "issued_token_type"}, refreshLifetimes...)...); err != nil {
		return nil, unusable(err)
	}
	if o.has("error") { // some servers answer errors with 200
		return nil, answerError(a)
	}
	r := &TokenResponse{TokenType: "Bearer"}
	if bound {
		r.TokenType = "DPoP"
	}
	for _, m := range []struct {
		name string
		to   *Secret
	}{{"access_token", &r.AccessToken}, {"refresh_token", &r.RefreshToken}, {"id_token", &r.IDToken}} {
		v, err := o.text(m.name)
		if err != nil {
			return nil, unusable(err)
		}
		// A token goes into header fields and forms; it is visible ASCII or nothing.
		if !visible(v, false) {
			return nil, unusable(fmt.Errorf("%s has characters that no token has", m.name))
		}
		*m.to = Secret(v)
	}
	if r.AccessToken == "" {
		return nil, unusable(errors.New("access_token is missing"))
	}
	// RFC 6749 section 7.1: a token of a type that we don't know must not be used.
	if typ, err := o.text("token_type"); err != nil || !strings.EqualFold(typ, r.TokenType) {
		return nil, unusable(fmt.Errorf("token_type is not %s", r.TokenType))
	}
	if r.IssuedTokenType, err = o.text("issued_token_type"); err != nil {
		return nil, unusable(err)
	}
	scope, err := o.text("scope")
	if err != nil {
		return nil, unusable(err)
	}
	r.Scope = strings.Fields(scope)
	if len(r.Scope) == 0 {
		r.Scope = nil
	}
	if d := lifetime(o.members["expires_in"]); d > 0 {
		r.Expiry = a.sent.Add(d)
	}
	for _, name := range refreshLifetimes {
		if d := lifetime(o.members[name]); d > 0 {
			if end := a.sent.Add(d); r.RefreshExpiry.IsZero() || end.Before(r.RefreshExpiry) {
				r.RefreshExpiry = end
			}
		}
	}
	return r, nil
}

// lifetime reads a number of seconds, which some servers send as a string or
// with a fraction. 0 stands for everything that is no lifetime: absent, not
// positive, absurd.
func lifetime(v any) time.Duration {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return 0
	}
	// Written so that NaN fails too.
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f <= maxExpiresIn.Seconds()) {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// answerError makes the error of an answer that brings nothing of what was asked
// for. Its body may be anything.
func answerError(a *answer) *Error {
	e := &Error{Status: a.status, RetryAfter: retryAfter(a.header, a.sent)}
	if o, err := parseObject(a.body, false); err == nil {
		field := func(name string, limit int) string {
			v, _ := o.members[name].(string)
			return errorText(v, limit)
		}
		e.Code = field("error", responseParams["error"])
		e.Description = field("error_description", maxErrorText)
		e.URI = field("error_uri", maxErrorText)
	}
	e.Class = classOfAnswer(a.status, e.Code)
	if e.Class == ClassOutage && e.Code == "" && !unwell(a.status) {
		e.cause = fmt.Errorf("%w: neither what was asked for nor an error", ErrUnusable)
	}
	return e
}
