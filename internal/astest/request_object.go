// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxRequestObjectLife is what FAPI 2.0 Message Signing allows.
const maxRequestObjectLife = time.Hour

// unpack returns the parameters of a request: of its request object, if it has one,
// and then nothing else counts (RFC 9101 section 6.3).
func (s *Server) unpack(rec *Request, q url.Values, pushed bool) (url.Values, *response) {
	if !q.Has("request") {
		if s.opts.RequireSignedRequest {
			return nil, oauthError(http.StatusBadRequest, "invalid_request", "the request has to be signed")
		}
		return q, nil
	}
	params, err := s.checkRequestObject(q, pushed)
	if err != nil {
		rec.RequestError = err.Error()
		return nil, oauthError(http.StatusBadRequest, "invalid_request_object", "the request object is refused")
	}
	return params, nil
}

// checkRequestObject validates a request object as strictly as the specifications
// let a server be: RFC 9101 sections 4 to 6 and 10.8, FAPI 2.0 Message Signing.
func (s *Server) checkRequestObject(q url.Values, pushed bool) (url.Values, error) {
	header, claims, err := assertionParts(q.Get("request"))
	if err != nil {
		return nil, err
	}
	if s.opts.ClientKeys == nil {
		return nil, errors.New("the client has no keys")
	}
	if err := CheckSignature(s.opts.ClientKeys(), q.Get("request")); err != nil {
		return nil, err
	}
	now := time.Now()
	nbf, _ := claims["nbf"].(float64)
	exp, _ := claims["exp"].(float64)
	jti, _ := claims["jti"].(string)
	switch {
	case header["typ"] != "oauth-authz-req+jwt":
		return nil, fmt.Errorf("typ is %v", header["typ"])
	case claims["iss"] != s.opts.ClientID || claims["client_id"] != s.opts.ClientID:
		return nil, fmt.Errorf("iss is %v, client_id is %v", claims["iss"], claims["client_id"])
	case claims["aud"] != s.issuer():
		return nil, fmt.Errorf("aud is %v", claims["aud"])
	case now.Before(time.Unix(int64(nbf), 0)) || !now.Before(time.Unix(int64(exp), 0)) || time.Duration(exp-nbf)*time.Second > maxRequestObjectLife:
		return nil, fmt.Errorf("nbf is %v, exp is %v", nbf, exp)
	case len(jti) < 16 || s.assertions[jti]:
		return nil, fmt.Errorf("jti %q is short, or was used before", jti)
	}
	for _, name := range []string{"request", "request_uri", "sub"} {
		if _, there := claims[name]; there {
			return nil, fmt.Errorf("%s within the request object", name)
		}
	}
	s.assertions[jti] = true
	params, err := requestParams(claims)
	if err != nil {
		return nil, err
	}
	return params, checkOuter(q, params, pushed)
}

// checkOuter looks at what is beside a request object: the client, and in the address
// what OpenID Connect Core section 6.1 wants there, as it is within.
func checkOuter(q, params url.Values, pushed bool) error {
	for name, values := range q {
		known := name == "client_id" || !pushed && (name == "response_type" || name == "scope")
		switch {
		case name == "request":
		case !known || len(values) != 1 || values[0] != params.Get(name):
			return fmt.Errorf("%s is %q beside the request object", name, values)
		}
	}
	if !pushed && (!q.Has("response_type") || !q.Has("scope")) {
		return errors.New("response_type or scope is missing beside the request object")
	}
	return nil
}

// requestParams makes parameters of the claims that are some.
func requestParams(claims map[string]any) (url.Values, error) {
	params := url.Values{}
	for name, v := range claims {
		switch name {
		case "iss", "aud", "exp", "nbf", "iat", "jti":
			continue
		case "max_age":
			if _, ok := v.(float64); !ok {
				return nil, errors.New("max_age is no number")
			}
		case "claims":
			if _, ok := v.(map[string]any); !ok {
				return nil, errors.New("claims is no object")
			}
		}
		switch v := v.(type) {
		case string:
			params.Set(name, v)
		case float64:
			params.Set(name, strconv.FormatFloat(v, 'f', -1, 64))
		case []any:
			for _, one := range v {
				text, ok := one.(string)
				if !ok {
					return nil, fmt.Errorf("%s is no list of texts", name)
				}
				params.Add(name, text)
			}
		default:
			data, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			params.Set(name, string(data))
		}
	}
	return params, nil
}
