// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// target is what an access token is made for.
type target struct {
	audience []string // none: Options.Audience
	scope    string
	// certificate is the thumbprint of that which the token is bound to.
	certificate string
	// jkt is the thumbprint of the DPoP key that it is bound to; "": none.
	jkt string
}

// knowsTargets says whether resource indicators are absolute URIs without fragment
// of resource servers that exist (RFC 8707 section 2).
func (s *Server) knowsTargets(resource []string) bool {
	return !slices.ContainsFunc(resource, func(uri string) bool {
		u, err := url.Parse(uri)
		return err != nil || !u.IsAbs() || strings.Contains(uri, "#") ||
			len(s.opts.Resources) > 0 && !slices.Contains(s.opts.Resources, uri)
	})
}

// target reads for what a token request asks, of a grant: its scope or less (RFC
// 6749 section 6), its resources or some of them (RFC 8707 section 2.2).
func (s *Server) target(g *grant, scope string, form url.Values) (target, *response) {
	t := target{audience: form["resource"], scope: scope}
	if asked := form.Get("scope"); asked != "" {
		for token := range strings.FieldsSeq(asked) {
			if !slices.Contains(strings.Fields(scope), token) {
				return t, oauthError(http.StatusBadRequest, "invalid_scope", "more than was granted")
			}
		}
		t.scope = asked
	}
	for _, uri := range t.audience {
		if !s.knowsTargets(t.audience) || len(g.resource) > 0 && !slices.Contains(g.resource, uri) {
			return t, oauthError(http.StatusBadRequest, "invalid_target", "unknown resource, or not granted")
		}
	}
	return t, nil
}

const (
	grantTokenExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenTypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// exchangeToken answers a token exchange (RFC 8693 section 2) of one of the
// server's own access tokens. It consumes nothing.
func (s *Server) exchangeToken(rec *Request, jkt string) *response {
	f := rec.Form
	subject := s.grants.access[rec.Token]
	switch {
	case s.opts.NoTokenExchange:
		return oauthError(http.StatusBadRequest, "unauthorized_client", "token exchange is not for this client")
	case f.Get("subject_token_type") != tokenTypeAccessToken:
		return oauthError(http.StatusBadRequest, "invalid_request", "subject_token_type")
	case subject == nil || subject.revoked || subject.grant.revoked || !time.Now().Before(subject.expiry):
		return oauthError(http.StatusBadRequest, "invalid_request", "subject token is not valid")
	}
	t, res := s.target(&grant{}, subject.scope, f)
	if res != nil {
		return res
	}
	t.jkt = jkt
	t.audience = append(slices.Clone(f["audience"]), t.audience...)
	if len(s.opts.Resources) > 0 && slices.ContainsFunc(f["audience"], func(a string) bool { return !slices.Contains(s.opts.Resources, a) }) {
		return oauthError(http.StatusBadRequest, "invalid_target", "unknown audience")
	}
	body := map[string]any{
		"access_token":      s.newAccessToken(subject.grant, t),
		"issued_token_type": tokenTypeAccessToken,
		"token_type":        t.tokenType(),
		"expires_in":        int(s.opts.AccessTokenLifetime / time.Second),
		"scope":             t.scope,
	}
	if s.opts.TokenResponse != nil {
		s.opts.TokenResponse(rec.GrantType, body)
	}
	return jsonResponse(http.StatusOK, body)
}

// tokenType is what an access token for the target is used as.
func (t *target) tokenType() string {
	if t.jkt != "" {
		return "DPoP"
	}
	return "Bearer"
}

// ExchangeRequests returns the token exchange requests that the token endpoint
// has received, whatever became of them.
func (s *Server) ExchangeRequests() []Request {
	var list []Request
	for _, r := range s.Requests(Token) {
		if r.GrantType == grantTokenExchange {
			list = append(list, r)
		}
	}
	return list
}

// Audience returns the audience of an access token that was issued; nil for any
// other.
func (s *Server) Audience(accessToken string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grants.access[accessToken]; t != nil {
		return slices.Clone(t.audience)
	}
	return nil
}

// Scope returns the scope of an access token that was issued; "" for any other.
func (s *Server) Scope(accessToken string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grants.access[accessToken]; t != nil {
		return t.scope
	}
	return ""
}

// RevokeAccessToken makes one access token invalid at the resource server.
func (s *Server) RevokeAccessToken(accessToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grants.access[accessToken]; t != nil {
		t.revoked = true
	}
}
