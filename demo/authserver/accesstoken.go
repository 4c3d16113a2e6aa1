// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// accessToken is what is kept of an access token: it is a JWT, so the rest is in the token itself.
type accessToken struct {
	id       string // the claim jti
	familyID string
	userID   string
	clientID string
	scopes   []string
	expiry   time.Time
	revoked  bool
}

// accessTokens holds the access tokens that have not expired. The methods are safe for concurrent use.
type accessTokens struct {
	lifetime time.Duration
	mu       sync.Mutex
	byID     map[string]*accessToken
}

func newAccessTokens(lifetime time.Duration) *accessTokens {
	return &accessTokens{lifetime: lifetime, byID: map[string]*accessToken{}}
}

// issue records a new access token of f.
func (s *accessTokens) issue(f family, scopes []string) accessToken {
	now := time.Now()
	t := accessToken{
		id:       rand.Text(),
		familyID: f.id,
		userID:   f.userID,
		clientID: f.clientID,
		scopes:   slices.Clone(scopes),
		// exp and expires_in are whole seconds, both rounded down from this: rounding up first makes them say the lifetime.
		expiry: now.Add(s.lifetime).Truncate(time.Second).Add(time.Second),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.byID {
		if now.After(old.expiry) {
			delete(s.byID, id)
		}
	}
	s.byID[t.id] = &t
	return t
}

// live returns the access token with the given id (jti) if it has neither expired nor been revoked.
func (s *accessTokens) live(id string) (accessToken, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.byID[id]
	if !ok || t.revoked || time.Now().After(t.expiry) {
		return accessToken{}, false
	}
	return *t, true
}

// owner returns the access token with the given id (jti), revoked or not.
func (s *accessTokens) owner(id string) (accessToken, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.byID[id]
	if !ok {
		return accessToken{}, false
	}
	return *t, true
}

// revoke revokes one access token.
func (s *accessTokens) revoke(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.byID[id]; ok {
		t.revoked = true
	}
}

// revokeFamily revokes every access token of a family and returns how many that were.
func (s *accessTokens) revokeFamily(familyID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.byID {
		if t.familyID == familyID && !t.revoked {
			t.revoked = true
			n++
		}
	}
	return n
}
