// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/sha256"
	"net/http"
	"time"
)

// token is the token endpoint (RFC 6749 section 3.2).
func (s *Server) token(rec *Request) *response {
	if rec.Method != http.MethodPost {
		return oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
	}
	for name, values := range rec.Form {
		if len(values) > 1 && name != "resource" && (name != "audience" || rec.GrantType != grantTokenExchange) {
			return oauthError(http.StatusBadRequest, "invalid_request", "repeated parameter "+name)
		}
	}
	if res := s.authenticate(rec); res != nil {
		return res
	}
	jkt, res := s.proof(rec, s.opts.RequireDPoP)
	if res != nil {
		return res
	}
	switch rec.GrantType {
	case "authorization_code":
		return s.exchange(rec, jkt)
	case "refresh_token":
		return s.refreshGrant(rec, jkt)
	case grantTokenExchange:
		return s.exchangeToken(rec, jkt)
	default:
		return oauthError(http.StatusBadRequest, "unsupported_grant_type", "")
	}
}

// exchange answers an authorization code. A code that comes twice revokes what
// it gave (RFC 6749 section 4.1.2).
func (s *Server) exchange(rec *Request, jkt string) *response {
	c := s.grants.codes[rec.Token]
	switch {
	case c == nil:
		return oauthError(http.StatusBadRequest, "invalid_grant", "unknown code")
	case c.used:
		c.grant.revoked = true
		s.grants.reuses++
		return oauthError(http.StatusBadRequest, "invalid_grant", "code used before")
	}
	c.used = true
	sum := sha256.Sum256([]byte(rec.Form.Get("code_verifier")))
	switch {
	case time.Now().After(c.expiry):
		return oauthError(http.StatusBadRequest, "invalid_grant", "code expired")
	case c.jkt != "" && c.jkt != jkt:
		return oauthError(http.StatusBadRequest, "invalid_grant", "the code is bound to another key")
	case rec.Form.Get("redirect_uri") != c.redirectURI:
		return oauthError(http.StatusBadRequest, "invalid_grant", "other redirect URI")
	case b64(sum[:]) != c.challenge:
		return oauthError(http.StatusBadRequest, "invalid_grant", "code verifier does not match")
	}
	t, res := s.target(c.grant, c.grant.scope, rec.Form)
	if res != nil {
		return res
	}
	t.certificate, t.jkt, c.grant.jkt = s.binding(rec), jkt, jkt
	return jsonResponse(http.StatusOK, s.tokens(c.grant, t, rec.GrantType, s.newRefreshToken(c.grant)))
}

// refreshGrant answers a refresh token, according to the rotation policy.
func (s *Server) refreshGrant(rec *Request, jkt string) *response {
	t := s.grants.refresh[rec.Token]
	if t == nil {
		return oauthError(http.StatusBadRequest, "invalid_grant", "unknown refresh token")
	}
	rec.Subject = t.grant.subject
	if !t.live() {
		return oauthError(http.StatusBadRequest, "invalid_grant", "refresh token revoked or expired")
	}
	if t.grant.jkt != "" && t.grant.jkt != jkt {
		return oauthError(http.StatusBadRequest, "invalid_grant", "the refresh token is bound to another key")
	}
	what, res := s.target(t.grant, t.grant.scope, rec.Form)
	if res != nil {
		return res
	}
	what.certificate, what.jkt = s.binding(rec), jkt
	inGrace := t.used && s.opts.Rotation == RotateGrace && time.Since(t.usedAt) <= s.opts.Grace
	if t.used && !inGrace {
		s.grants.reuses++
		t.grant.revoked = true
		return oauthError(http.StatusBadRequest, "invalid_grant", "refresh token reuse detected")
	}
	s.grants.refreshes++
	if s.opts.RevokeOnRefresh {
		for _, a := range s.grants.access {
			if a.grant == t.grant {
				a.revoked = true
			}
		}
	}
	refresh := ""
	switch {
	case inGrace:
		refresh = t.successor
	case s.opts.Rotation == RotateStrict || s.opts.Rotation == RotateGrace:
		refresh = s.newRefreshToken(t.grant)
		t.used, t.usedAt, t.successor = true, time.Now(), refresh
	}
	return jsonResponse(http.StatusOK, s.tokens(t.grant, what, rec.GrantType, refresh))
}

// binding returns the thumbprint of the certificate that an access token is bound
// to (RFC 8705 section 3); "" for none.
func (s *Server) binding(rec *Request) string {
	if !s.opts.BindTokens || rec.Certificate == nil {
		return ""
	}
	return thumbprint(rec.Certificate)
}

// revoke is the revocation endpoint (RFC 7009). A revoked refresh token takes
// its grant along.
func (s *Server) revoke(rec *Request) *response {
	if rec.Method != http.MethodPost {
		return oauthError(http.StatusMethodNotAllowed, "invalid_request", "POST only")
	}
	if res := s.authenticate(rec); res != nil {
		return res
	}
	if t := s.grants.refresh[rec.Token]; t != nil {
		t.revoked = true
		t.grant.revoked = true
	}
	if t := s.grants.access[rec.Token]; t != nil {
		t.revoked = true
	}
	return &response{status: http.StatusOK}
}

// endSession is the end-session endpoint (OpenID Connect RP-Initiated Logout): it
// ends the grants of the ID token's session and sends the browser back.
func (s *Server) endSession(rec *Request) *response {
	if hint := rec.Form.Get("id_token_hint"); hint != "" {
		claims, ok := s.verify(hint)
		if !ok {
			return oauthError(http.StatusBadRequest, "invalid_request", "id_token_hint does not verify")
		}
		sid, _ := claims["sid"].(string)
		for _, t := range s.grants.refresh {
			if t.grant.sid == sid {
				t.grant.revoked = true
			}
		}
	}
	back := rec.Form.Get("post_logout_redirect_uri")
	if back == "" {
		return &response{status: http.StatusOK, body: []byte("signed out"), header: http.Header{"Content-Type": {"text/plain"}}}
	}
	if state := rec.Form.Get("state"); state != "" {
		return redirect(query(back, map[string][]string{"state": {state}}))
	}
	return redirect(back)
}
