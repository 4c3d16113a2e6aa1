// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"
)

// refreshLifetime bounds a family, however often its refresh token is rotated.
const refreshLifetime = 12 * time.Hour

var (
	errRefreshTokenUnknown = errors.New("refresh token unknown, expired or revoked")
	errRefreshTokenReused  = errors.New("refresh token reused: its family is revoked")
)

// digest is what is kept of a refresh token.
type digest [sha256.Size]byte

// family is what one sign-in gave rise to: a chain of refresh tokens of which only the latest may be presented, and the
// access tokens that came with them.
type family struct {
	id       string // also the claim sid
	userID   string
	clientID string
	scopes   []string
	authTime time.Time
	expiry   time.Time

	current digest // the one refresh token that may be presented
	ended   bool
}

// swap makes next the current refresh token if old is it: the compare-and-swap that lets one of any number of parallel
// refreshes win.
func (f *family) swap(old, next digest) bool {
	if f.current != old {
		return false
	}
	f.current = next
	return true
}

// families holds every family, and remembers every refresh token ever issued until its family expires: a spent one must
// be recognised when it comes back. The methods are safe for concurrent use.
type families struct {
	mu      sync.Mutex
	byID    map[string]*family
	byToken map[digest]*family
}

func newFamilies() *families {
	return &families{byID: map[string]*family{}, byToken: map[digest]*family{}}
}

// start begins a family and returns it with its first refresh token.
func (s *families) start(f family) (family, string) {
	token, d := newRefreshToken()
	f.id, f.current, f.expiry = rand.Text(), d, time.Now().Add(refreshLifetime)
	f.scopes = slices.Clone(f.scopes)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	s.byID[f.id], s.byToken[d] = &f, &f
	return f, token
}

// find returns the family of which token is the current refresh token. A spent token ends its family (RFC 9700 section
// 4.14.2) and gives errRefreshTokenReused together with that family.
func (s *families) find(token string) (family, error) {
	d := digest(sha256.Sum256([]byte(token)))
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.alive(d)
	if !ok {
		return family{}, errRefreshTokenUnknown
	}
	if f.current != d {
		f.ended = true
		return *f, errRefreshTokenReused
	}
	return *f, nil
}

// rotate spends token and returns its successor. Of any number of parallel calls with one token the first wins; every
// other one is a reuse and ends the family, also when find was happy with all of them a moment ago.
func (s *families) rotate(token string) (family, string, error) {
	d := digest(sha256.Sum256([]byte(token)))
	next, nextDigest := newRefreshToken()
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.alive(d)
	if !ok {
		return family{}, "", errRefreshTokenUnknown
	}
	if !f.swap(d, nextDigest) {
		f.ended = true
		return *f, "", errRefreshTokenReused
	}
	s.byToken[nextDigest] = f
	return *f, next, nil
}

// alive returns the family of a refresh token, spent or current, unless it has ended. The caller holds the lock.
func (s *families) alive(d digest) (*family, bool) {
	f, ok := s.byToken[d]
	if !ok || f.ended || time.Now().After(f.expiry) {
		return nil, false
	}
	return f, true
}

// owner returns the family that a refresh token, spent or current, belongs to.
func (s *families) owner(token string) (family, bool) {
	d := digest(sha256.Sum256([]byte(token)))
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.byToken[d]
	if !ok {
		return family{}, false
	}
	return *f, true
}

// end ends the family with the given id and reports whether it was alive.
func (s *families) end(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.byID[id]
	if !ok || f.ended {
		return false
	}
	f.ended = true
	return true
}

// prune forgets expired families. The caller holds the lock.
func (s *families) prune() {
	now := time.Now()
	for d, f := range s.byToken {
		if now.After(f.expiry) {
			delete(s.byToken, d)
			delete(s.byID, f.id)
		}
	}
}

// newRefreshToken returns a refresh token and its digest.
func newRefreshToken() (string, digest) {
	token := rand.Text() + rand.Text() // 260 random bits
	return token, sha256.Sum256([]byte(token))
}
