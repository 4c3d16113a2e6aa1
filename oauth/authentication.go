// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Authentication is what an authorization request asks of the way in which the end
// user authenticates (OpenID Connect Core sections 3.1.2.1 and 5.5.1.1).
type Authentication struct {
	MaxAge    *time.Duration // nil: as long ago as may be
	ACRValues []string       // one of these has to be the acr; nil: any
}

// AuthenticationAsked returns what a request with those Params asks, together with
// Params of [Config].
func (c *Client) AuthenticationAsked(params url.Values) Authentication {
	return AuthenticationAsked(c.cfg.Params, params)
}

// AuthenticationAsked reads max_age, acr_values, and the acr that claims names as an
// essential claim of the ID token, which goes before acr_values. Of several lists
// with one parameter the last has the say. What cannot be read asks nothing:
// [CheckAuthenticationParam] tells.
func AuthenticationAsked(lists ...url.Values) Authentication {
	merged := url.Values{}
	for _, params := range lists {
		for name, values := range params {
			merged[name] = values
		}
	}
	var a Authentication
	if seconds, err := strconv.ParseUint(merged.Get("max_age"), 10, 31); err == nil {
		maxAge := time.Duration(seconds) * time.Second
		a.MaxAge = &maxAge
	}
	a.ACRValues = strings.Fields(merged.Get("acr_values"))
	if values, err := essentialACR(merged.Get("claims")); err == nil && len(values) > 0 {
		a.ACRValues = values
	}
	return a
}

// CheckAuthenticationParam says what is wrong with the value of a parameter of that
// name, if anything is: max_age has to be a number of seconds, claims a JSON object.
// Other parameters are always right.
func CheckAuthenticationParam(name, value string) error {
	switch name {
	case "max_age":
		if _, err := strconv.ParseUint(value, 10, 31); err != nil {
			return errors.New("max_age is not a number of seconds")
		}
	case "claims":
		if _, err := essentialACR(value); err != nil {
			return errors.New("claims is not a JSON object as in OpenID Connect Core section 5.5")
		}
	}
	return nil
}

// essentialACR returns the values of which a claims parameter demands one as acr.
func essentialACR(claims string) ([]string, error) {
	if claims == "" {
		return nil, nil
	}
	var request struct {
		IDToken struct {
			ACR *struct {
				Essential bool     `json:"essential"`
				Value     string   `json:"value"`
				Values    []string `json:"values"`
			} `json:"acr"`
		} `json:"id_token"`
	}
	if err := json.Unmarshal([]byte(claims), &request); err != nil || !strings.HasPrefix(strings.TrimSpace(claims), "{") {
		return nil, errMalformedClaims
	}
	acr := request.IDToken.ACR
	if acr == nil || !acr.Essential {
		return nil, nil
	}
	values := acr.Values
	if acr.Value != "" {
		values = append(values, acr.Value)
	}
	return values, nil
}

// ClaimsWithACR returns the claims parameter of a request with those Params, together
// with Params of [Config], in which an acr that it asks for as essential has to be one
// of other values; "" where it asks for none.
func (c *Client) ClaimsWithACR(params url.Values, acr []string) (string, error) {
	claims := params.Get("claims")
	if claims == "" {
		claims = c.cfg.Params.Get("claims")
	}
	if values, err := essentialACR(claims); err != nil || len(values) == 0 {
		return "", err
	}
	request := make(map[string]json.RawMessage)
	idToken := make(map[string]json.RawMessage)
	err := json.Unmarshal([]byte(claims), &request)
	if err == nil {
		err = json.Unmarshal(request["id_token"], &idToken)
	}
	if err != nil {
		return "", errMalformedClaims
	}
	if idToken["acr"], err = json.Marshal(map[string]any{"essential": true, "values": acr}); err == nil {
		request["id_token"], err = json.Marshal(idToken)
	}
	if err != nil {
		return "", err
	}
	out, err := json.Marshal(request)
	return string(out), err
}

var errMalformedClaims = errors.New("claims is malformed")
