// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// LogoutEvent is the member of events that makes a JWT a logout token.
const LogoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// LogoutTokenLifetime is how long after its iat a logout token expires.
const LogoutTokenLifetime = 2 * time.Minute

// LogoutClaims returns the claims of a right logout token (OpenID Connect
// Back-Channel Logout 1.0 section 2.4), to be made wrong and signed by whatever
// key. An empty subject or sid is left out.
func (s *Server) LogoutClaims(subject, sid string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	claims := map[string]any{
		"iss": s.issuer(), "aud": s.opts.ClientID, "jti": random(),
		"iat": now.Unix(), "exp": now.Add(LogoutTokenLifetime).Unix(),
		"events": map[string]any{LogoutEvent: map[string]any{}},
	}
	if subject != "" {
		claims["sub"] = subject
	}
	if sid != "" {
		claims["sid"] = sid
	}
	return claims
}

// LogoutToken makes a logout token as a good server does, but for what change does
// to its claims: a nil value removes one.
func (s *Server) LogoutToken(subject, sid string, change map[string]any) string {
	claims := s.LogoutClaims(subject, sid)
	for name, v := range change {
		if v == nil {
			delete(claims, name)
		} else {
			claims[name] = v
		}
	}
	key := s.SigningKey()
	return key.Sign(key.Header("logout+jwt"), claims)
}

// SIDs returns the session identifiers of a subject's logins, oldest first.
func (s *Server) SIDs(subject string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, g := range s.grants.all {
		if g.subject == subject {
			list = append(list, g.sid)
		}
	}
	return list
}

// LogoutAnswer is what a client answered to a logout token.
type LogoutAnswer struct {
	Status int
	Header http.Header
	Body   string
}

// SendLogoutToken posts a logout token to a client's back-channel logout URI
// (section 2.5) and returns its answer. Redirects are not followed.
func SendLogoutToken(ctx context.Context, client *http.Client, uri, token string) (LogoutAnswer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return LogoutAnswer{}, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := direct.Do(r)
	if err != nil {
		return LogoutAnswer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	return LogoutAnswer{Status: res.StatusCode, Header: res.Header, Body: string(body)}, err
}
