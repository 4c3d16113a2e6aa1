// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"maps"
	"net/http"
	"net/url"
	"time"
)

// pushedRequest is an authorization request that waits for its browser.
type pushedRequest struct {
	params url.Values
	expiry time.Time
}

// clientCredentials are the parameters of a pushed request that are none of the
// authorization request.
var clientCredentials = []string{"client_secret", "client_assertion", "client_assertion_type"}

// pushedRequest is the endpoint for pushed authorization requests (RFC 9126 section
// 2). It looks at the request as the authorization endpoint does.
func (s *Server) pushedRequest(rec *Request) *response {
	if rec.Method != http.MethodPost {
		return oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
	}
	if u, err := url.Parse(rec.URL); err != nil || u.RawQuery != "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "parameters belong into the body")
	}
	if res := s.authenticate(rec); res != nil {
		return res
	}
	if rec.Form.Has("request_uri") {
		return oauthError(http.StatusBadRequest, "invalid_request", "request_uri within a pushed request")
	}
	params := maps.Clone(rec.Form)
	for _, name := range clientCredentials {
		params.Del(name)
	}
	params, res := s.unpack(rec, params, true)
	if res != nil {
		return res
	}
	if res := s.checkRedirectURI(params); res != nil {
		return res
	}
	if code := s.refuses(params); code != "" {
		return oauthError(http.StatusBadRequest, code, "no such authorization request is taken")
	}
	jkt, res := s.proof(rec, false)
	switch {
	case res != nil:
		return res
	case jkt != "" && params.Has("dpop_jkt") && params.Get("dpop_jkt") != jkt:
		return oauthError(http.StatusBadRequest, "invalid_dpop_proof", "the proof is of another key than dpop_jkt")
	case jkt != "":
		params.Set("dpop_jkt", jkt)
	}
	requestURI := "urn:ietf:params:oauth:request_uri:" + random()
	s.pushed[requestURI] = &pushedRequest{params: params, expiry: time.Now().Add(s.opts.RequestURILifetime)}
	return jsonResponse(http.StatusCreated, map[string]any{
		"request_uri": requestURI, "expires_in": int(s.opts.RequestURILifetime / time.Second),
	})
}

// authorizationRequest returns the parameters of an authorization request, in the
// address or pushed. A pushed one is good once, and beside client_id and request_uri
// there is nothing in the address.
func (s *Server) authorizationRequest(rec *Request) (url.Values, *response) {
	q := rec.Form
	if !q.Has("request_uri") {
		if s.opts.RequirePAR {
			return nil, oauthError(http.StatusBadRequest, "invalid_request", "the request has to be pushed")
		}
		q, res := s.unpack(rec, q, false)
		if res != nil {
			return nil, res
		}
		return q, s.checkRedirectURI(q)
	}
	requestURI := q.Get("request_uri")
	p := s.pushed[requestURI]
	delete(s.pushed, requestURI)
	switch {
	case len(q) != 2 || len(q["request_uri"]) != 1 || len(q["client_id"]) != 1:
		return nil, oauthError(http.StatusBadRequest, "invalid_request", "more than client_id and request_uri")
	case p == nil || time.Now().After(p.expiry) || p.params.Get("client_id") != q.Get("client_id"):
		return nil, oauthError(http.StatusBadRequest, "invalid_request_uri", "unknown, used or expired")
	}
	return p.params, nil
}
