// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"strings"
	"time"
)

// grants is what the server has granted so far.
type grants struct {
	all       []*grant
	codes     map[string]*code
	refresh   map[string]*refreshToken
	access    map[string]*accessToken
	refreshes int
	reuses    int
}

func (g *grants) init() {
	g.codes = map[string]*code{}
	g.refresh = map[string]*refreshToken{}
	g.access = map[string]*accessToken{}
}

// grant is one end user's consent: everything that came of one login.
type grant struct {
	subject  string
	scope    string
	nonce    string
	sid      string
	authTime time.Time
	acr      string   // "": none is told
	jkt      string   // that its refresh tokens are bound to; "": none
	resource []string // of the authorization request; none: any may be asked for
	revoked  bool
}

type code struct {
	grant       *grant
	redirectURI string
	challenge   string
	jkt         string // of the key that it is bound to; "": none
	expiry      time.Time
	used        bool
}

type refreshToken struct {
	grant     *grant
	expiry    time.Time // zero: never
	revoked   bool
	used      bool
	usedAt    time.Time
	successor string
}

type accessToken struct {
	grant    *grant
	audience []string
	scope    string
	expiry   time.Time
	revoked  bool
	// certificate is the thumbprint of that which it is bound to; "": none.
	certificate string
	// jkt is the thumbprint of the DPoP key that it is bound to; "": none.
	jkt string
}

// Tokens are the tokens of a grant as Issue gives them.
type Tokens struct {
	AccessToken, RefreshToken, IDToken string
	Expiry                             time.Time // of the access token
}

// Issue makes a grant for subject, as a login with the given nonce would, and
// returns its tokens.
func (s *Server) Issue(subject, scope, nonce string) Tokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &grant{subject: subject, scope: scope, nonce: nonce, sid: random(), authTime: time.Now()}
	s.grants.all = append(s.grants.all, g)
	body := s.tokens(g, target{scope: scope}, "authorization_code", s.newRefreshToken(g))
	str := func(name string) string { v, _ := body[name].(string); return v }
	return Tokens{
		AccessToken: str("access_token"), RefreshToken: str("refresh_token"), IDToken: str("id_token"),
		Expiry: time.Now().Add(s.opts.AccessTokenLifetime),
	}
}

// RevokeAccessTokens makes every access token of a subject invalid at the
// resource server; refresh tokens go on working. It returns how many there were.
func (s *Server) RevokeAccessTokens(subject string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.grants.access {
		if t.grant.subject == subject && !t.revoked {
			t.revoked = true
			n++
		}
	}
	return n
}

// RevokeGrants ends every grant of a subject: refresh answers invalid_grant from
// now on, and the access tokens are invalid.
func (s *Server) RevokeGrants(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.grants.access {
		if t.grant.subject == subject {
			t.grant.revoked = true
		}
	}
	for _, t := range s.grants.refresh {
		if t.grant.subject == subject {
			t.grant.revoked = true
		}
	}
}

// RefreshTokenLive says whether a refresh token would be accepted now.
func (s *Server) RefreshTokenLive(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.grants.refresh[token]
	return t != nil && t.live() && !t.used
}

func (t *refreshToken) live() bool {
	return !t.revoked && !t.grant.revoked && (t.expiry.IsZero() || time.Now().Before(t.expiry))
}

// newRefreshToken grants a refresh token, or "" when the policy grants none.
func (s *Server) newRefreshToken(g *grant) string {
	if s.opts.Rotation == RotateNone {
		return ""
	}
	token := "rt-" + random()
	t := &refreshToken{grant: g}
	if s.opts.RefreshTokenLifetime > 0 {
		t.expiry = time.Now().Add(s.opts.RefreshTokenLifetime)
	}
	s.grants.refresh[token] = t
	return token
}

// tokens makes a token response: a new access token, the refresh token given,
// and an ID token where there should be one.
func (s *Server) tokens(g *grant, t target, grantType, refresh string) map[string]any {
	access := s.newAccessToken(g, t)
	body := map[string]any{
		"access_token": access,
		"token_type":   t.tokenType(),
		"expires_in":   int(s.opts.AccessTokenLifetime / time.Second),
		"scope":        t.scope,
	}
	if refresh != "" {
		body["refresh_token"] = refresh
	}
	openid := strings.Contains(" "+t.scope+" ", " openid ")
	if openid && (grantType == "authorization_code" || !s.opts.NoRefreshedIDToken) {
		body["id_token"] = s.idToken(g, grantType, access)
	}
	if s.opts.TokenResponse != nil {
		s.opts.TokenResponse(grantType, body)
	}
	return body
}

func (s *Server) newAccessToken(g *grant, t target) string {
	now := time.Now()
	audience := t.audience
	if len(audience) == 0 {
		audience = []string{s.opts.Audience}
	}
	expiry := now.Add(s.opts.AccessTokenLifetime)
	token := "at-" + random()
	if s.opts.AccessTokenType != "opaque" {
		key := s.keys[0]
		header := key.Header(s.opts.AccessTokenType)
		claims := map[string]any{
			"iss": s.issuer(), "sub": g.subject, "aud": audience, "client_id": s.opts.ClientID,
			"scope": t.scope, "iat": now.Unix(), "exp": expiry.Unix(), "jti": random(), "sid": g.sid,
		}
		if len(audience) == 1 {
			claims["aud"] = audience[0]
		}
		if t.certificate != "" {
			claims["cnf"] = map[string]any{"x5t#S256": t.certificate}
		}
		if t.jkt != "" {
			claims["cnf"] = map[string]any{"jkt": t.jkt}
		}
		if s.opts.AccessTokenClaims != nil {
			s.opts.AccessTokenClaims(header, claims)
		}
		token = key.Sign(header, claims)
	}
	s.grants.access[token] = &accessToken{grant: g, audience: audience, scope: t.scope, expiry: expiry, certificate: t.certificate, jkt: t.jkt}
	return token
}

func (s *Server) idToken(g *grant, grantType, access string) string {
	now := time.Now()
	key := s.keys[0]
	claims := map[string]any{
		"iss": s.issuer(), "sub": g.subject, "aud": s.opts.ClientID, "sid": g.sid,
		"iat": now.Unix(), "exp": now.Add(s.opts.IDTokenLifetime).Unix(), "auth_time": g.authTime.Unix(),
		"name": "Name of " + g.subject, "email": g.subject + "@example.com", "preferred_username": g.subject,
	}
	if key.Algorithm == "ES256" || key.Algorithm == "RS256" || key.Algorithm == "PS256" {
		sum := sha256.Sum256([]byte(access))
		claims["at_hash"] = b64(sum[:len(sum)/2])
	}
	if g.nonce != "" && grantType == "authorization_code" {
		claims["nonce"] = g.nonce
	}
	if g.acr != "" {
		claims["acr"] = g.acr
	}
	maps.Copy(claims, s.opts.Claims)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	if s.opts.IDTokenClaims != nil {
		s.opts.IDTokenClaims(grantType, claims)
	}
	header := key.Header("JWT")
	if s.opts.IDTokenHeader != nil {
		s.opts.IDTokenHeader(header)
	}
	return key.Sign(header, claims)
}

// random returns a random string of 22 characters.
func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	return b64(b)
}
