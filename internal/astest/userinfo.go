// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"net/http"
	"strings"
)

// userInfo is the UserInfo endpoint (OpenID Connect Core section 5.3): for a live
// access token with the scope openid, in the Authorization header alone. With
// Options.SignedUserInfo the answer is a JWT.
func (s *Server) userInfo(rec *Request) *response {
	scheme, token, _ := strings.Cut(rec.Header.Get("Authorization"), " ")
	refused := func(code string) *response {
		challenge := "Bearer"
		if code != "" {
			challenge += ` error="` + code + `"`
		}
		return &response{status: http.StatusUnauthorized, header: http.Header{"Www-Authenticate": {challenge}}}
	}
	switch {
	case rec.Form.Has("access_token"):
		return oauthError(http.StatusBadRequest, "invalid_request", "the access token belongs into the header")
	case !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP"):
		return refused("")
	}
	t := s.grants.access[token]
	s.userInfoProofs.mu.Lock()
	s.userInfoProofs.ahead = s.opts.ClockAhead
	s.userInfoProofs.mu.Unlock()
	if code := boundUse(&s.userInfoProofs, t, scheme, rec.Header, rec.Method, s.proofURI(rec), token); code != "" {
		return &response{status: http.StatusUnauthorized, header: http.Header{"Www-Authenticate": {`DPoP error="` + code + `"`}}}
	}
	subject, live := s.live(token)
	switch {
	case t == nil, !live, !strings.Contains(" "+t.scope+" ", " openid "):
		return refused("invalid_token")
	case t.certificate != "" && (rec.Certificate == nil || thumbprint(rec.Certificate) != t.certificate):
		return refused("invalid_token")
	}
	claims := map[string]any{"sub": subject, "nickname": "Nick of " + subject}
	if s.opts.UserInfoClaims != nil {
		s.opts.UserInfoClaims(claims)
	}
	if !s.opts.SignedUserInfo {
		return jsonResponse(http.StatusOK, claims)
	}
	key := s.keys[0]
	header := key.Header("JWT")
	claims["iss"], claims["aud"] = s.issuer(), s.opts.ClientID
	if s.opts.UserInfoJWT != nil {
		s.opts.UserInfoJWT(header, claims)
	}
	return &response{
		status: http.StatusOK, body: []byte(key.Sign(header, claims)),
		header: http.Header{"Content-Type": {"application/jwt"}, "Cache-Control": {"no-store"}},
	}
}
