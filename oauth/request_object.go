// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// RequestObjectMode says when the parameters of an authorization request are put
// into a JWT that the client signs, so that nobody on the way can change them
// (RFC 9101).
type RequestObjectMode string

// The modes.
const (
	// RequestObjectAuto signs where the metadata demands it.
	RequestObjectAuto RequestObjectMode = "auto"
	// RequestObjectRequired signs always.
	RequestObjectRequired RequestObjectMode = "required"
	// RequestObjectOff never signs.
	RequestObjectOff RequestObjectMode = "off"
)

const (
	requestObjectType = "oauth-authz-req+jwt" // RFC 9101 section 10.8
	// requestObjectLife is from nbf to exp: the browser may be slow to take it there.
	requestObjectLife = 5 * time.Minute
)

// registeredClaims mean something else in a JWT than as parameters of a request;
// sub, above all, could make a client assertion of it (RFC 9101 section 10.8).
var registeredClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}

// checkRequestObject refuses a configuration by which requests could not be signed.
func (cfg *Config) checkRequestObject() error {
	switch cfg.RequestObject {
	case "":
		cfg.RequestObject = RequestObjectAuto
	case RequestObjectAuto, RequestObjectOff:
	case RequestObjectRequired:
		if cfg.SigningKey == nil {
			return errors.New("oauth: request objects need a signing key")
		}
		return checkRequestClaims(cfg.Params)
	default:
		return fmt.Errorf("oauth: unknown mode %q of request objects", cfg.RequestObject)
	}
	return nil
}

func checkRequestClaims(params url.Values) error {
	for name := range params {
		if slices.Contains(registeredClaims, name) {
			return fmt.Errorf("oauth: authorization request parameter %q cannot be in a request object", name)
		}
	}
	return nil
}

// signsRequests says whether authorization requests are signed.
func (c *Client) signsRequests(md *Metadata) (bool, error) {
	switch {
	case c.cfg.RequestObject == RequestObjectRequired:
		return true, nil
	case c.cfg.RequestObject == RequestObjectOff || !md.RequireSignedRequestObject:
		return false, nil
	case c.cfg.SigningKey == nil:
		return false, fmt.Errorf("%w: a request without a signed request object, and there is no signing key", ErrUnsupported)
	}
	return true, nil
}

// requestObject makes the request object of an authorization request (RFC 9101
// section 4): all of its parameters, for this authorization server and for a few
// minutes. iat and nbf are in the past, for servers whose clock is behind.
func (c *Client) requestObject(params url.Values) (Secret, error) {
	if err := checkRequestClaims(params); err != nil {
		return "", &Error{Class: ClassConfiguration, cause: err}
	}
	claims := make(map[string]any, len(params)+6)
	for name, values := range params {
		if len(values) > 0 { // else it is not there, as in a query
			claims[name] = requestClaim(name, values)
		}
	}
	notBefore := time.Now().Add(-assertionBackDate)
	claims["iss"], claims["aud"] = c.cfg.ClientID, c.cfg.Issuer
	claims["nbf"], claims["iat"] = notBefore.Unix(), notBefore.Unix()
	claims["exp"], claims["jti"] = notBefore.Add(requestObjectLife).Unix(), newRandom().Reveal()
	object, err := c.cfg.SigningKey.sign(requestObjectType, claims)
	if err != nil {
		return "", &Error{Class: ClassConfiguration, cause: fmt.Errorf("signing the authorization request: %w", err)}
	}
	return object, nil
}

// requestClaim gives a parameter the type that it has in JSON: max_age is a number
// (OpenID Connect Core section 3.1.2.1), claims and authorization_details are JSON
// already, and what is repeated is an array.
func requestClaim(name string, values []string) any {
	if len(values) > 1 {
		return values
	}
	value := values[0]
	switch name {
	case "max_age":
		if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
			return seconds
		}
	case "claims", "authorization_details":
		if json.Valid([]byte(value)) {
			return json.RawMessage(value)
		}
	}
	return value
}
