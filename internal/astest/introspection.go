// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"maps"
	"net/http"
	"strings"
	"time"
)

// IntrospectionType is the media type of a signed introspection answer, without
// "application/" the typ of its JWT (RFC 9701 section 5).
const IntrospectionType = "application/token-introspection+jwt"

// introspection is the introspection endpoint (RFC 7662): for a client that
// authenticates, and signed (RFC 9701) with Options.SignedIntrospection where
// that is asked for.
func (s *Server) introspection(rec *Request) *response {
	switch {
	case rec.Method != http.MethodPost:
		return oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
	case strings.Contains(rec.URL, "?"):
		return oauthError(http.StatusBadRequest, "invalid_request", "parameters belong into the body")
	}
	for name, values := range rec.Form {
		if len(values) > 1 {
			return oauthError(http.StatusBadRequest, "invalid_request", "repeated parameter "+name)
		}
	}
	if res := s.authenticate(rec); res != nil {
		return res
	}
	if rec.Token == "" {
		return oauthError(http.StatusBadRequest, "invalid_request", "token is missing")
	}
	claims := s.introspected(rec.Token)
	if s.opts.IntrospectionClaims != nil {
		s.opts.IntrospectionClaims(rec.Token, claims)
	}
	if !s.opts.SignedIntrospection || !strings.Contains(rec.Header.Get("Accept"), IntrospectionType) {
		return jsonResponse(http.StatusOK, claims)
	}
	key := s.keys[0]
	header := key.Header("token-introspection+jwt")
	outer := map[string]any{"iss": s.issuer(), "aud": s.opts.ClientID, "iat": time.Now().Unix(), "token_introspection": claims}
	if s.opts.IntrospectionJWT != nil {
		s.opts.IntrospectionJWT(header, outer)
	}
	return &response{
		status: http.StatusOK, body: []byte(key.Sign(header, outer)),
		header: http.Header{"Content-Type": {IntrospectionType}, "Cache-Control": {"no-store"}},
	}
}

// introspected gives the members of an introspection answer (RFC 7662 section
// 2.2). A refresh token is one that can be asked about as well; an ID token is not.
func (s *Server) introspected(token string) map[string]any {
	if t := s.grants.refresh[token]; t != nil && t.live() && !t.used {
		return map[string]any{
			"active": true, "scope": t.grant.scope, "client_id": s.opts.ClientID, "sub": t.grant.subject, "iss": s.issuer(),
		}
	}
	subject, live := s.live(token)
	if !live {
		return map[string]any{"active": false}
	}
	claims := map[string]any{}
	if signed, ok := s.verify(token); ok {
		if _, idToken := signed["client_id"]; !idToken {
			return map[string]any{"active": false}
		}
		maps.Copy(claims, signed)
	}
	if t := s.grants.access[token]; t != nil {
		maps.Copy(claims, map[string]any{
			"iss": s.issuer(), "sub": subject, "client_id": s.opts.ClientID, "scope": t.scope,
			"exp": t.expiry.Unix(), "aud": t.audience,
		})
		if t.certificate != "" {
			claims["cnf"] = map[string]any{"x5t#S256": t.certificate}
		}
	}
	claims["active"], claims["token_type"] = true, "Bearer"
	if t := s.grants.access[token]; t != nil && t.jkt != "" {
		claims["token_type"], claims["cnf"] = "DPoP", map[string]any{"jkt": t.jkt}
	}
	return claims
}
