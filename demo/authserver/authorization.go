// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	requestLifetime = 10 * time.Minute // from the authorization request to the password
	codeLifetime    = time.Minute      // from the authorization response to the code exchange
)

var errCodeInvalid = errors.New("authorization code unknown, expired or used")

// authorization is an authorization request on its way to an authorization code.
type authorization struct {
	id       string
	request  oidc.AuthRequest
	userID   string // set when the end user has signed in
	authTime time.Time
	code     string // set when the code has left
	familyID string // set when the code has been exchanged
	expiry   time.Time
}

// authorizations holds the authorization requests. The methods are safe for concurrent use.
type authorizations struct {
	mu     sync.Mutex
	byID   map[string]*authorization
	byCode map[string]*authorization
}

func newAuthorizations() *authorizations {
	return &authorizations{byID: map[string]*authorization{}, byCode: map[string]*authorization{}}
}

// create records a request.
func (s *authorizations) create(request oidc.AuthRequest) authorization {
	now := time.Now()
	a := authorization{id: rand.Text(), request: request, expiry: now.Add(requestLifetime)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.byID {
		if now.After(old.expiry) {
			delete(s.byID, id)
			delete(s.byCode, old.code)
		}
	}
	s.byID[a.id] = &a
	return a
}

// find returns the request with the given ID.
func (s *authorizations) find(id string) (authorization, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byID[id]
	if !ok || time.Now().After(a.expiry) {
		return authorization{}, false
	}
	return *a, true
}

// authenticate records who signed in for the request, and reports whether there is such a request.
func (s *authorizations) authenticate(id, userID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byID[id]
	if !ok || a.code != "" || time.Now().After(a.expiry) {
		return false
	}
	a.userID, a.authTime = userID, time.Now()
	return true
}

// issue records the code that was made for the request.
func (s *authorizations) issue(id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byID[id]
	if !ok || a.userID == "" || a.code != "" {
		return errCodeInvalid
	}
	a.code, a.expiry = code, time.Now().Add(codeLifetime)
	s.byCode[code] = a
	return nil
}

// findByCode returns the request that the code was made for, used or not.
func (s *authorizations) findByCode(code string) (authorization, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byCode[code]
	if !ok || time.Now().After(a.expiry) {
		return authorization{}, false
	}
	return *a, true
}

// redeem marks the code of the request as used by the family, and fails with the family that used it first where there
// is one: a code is good for one exchange, also of parallel ones (RFC 6749 section 4.1.2).
func (s *authorizations) redeem(id, familyID string) (usedBy string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byID[id]
	if !ok || a.code == "" {
		return "", errCodeInvalid
	}
	if a.familyID != "" {
		return a.familyID, errCodeInvalid
	}
	a.familyID = familyID
	return "", nil
}

// issuance is what access tokens and ID tokens are made from. The library asks one object for the audience of both, first
// for the access token; see Storage.GetPrivateClaimsFromRequest for the moment in between.
type issuance struct {
	clientID string
	userID   string
	scopes   []string
	authTime time.Time
	audience []string
	familyID string
}

func (i *issuance) GetAMR() []string       { return []string{"pwd"} }
func (i *issuance) GetAudience() []string  { return i.audience }
func (i *issuance) GetAuthTime() time.Time { return i.authTime }
func (i *issuance) GetClientID() string    { return i.clientID }
func (i *issuance) GetScopes() []string    { return i.scopes }
func (i *issuance) GetSubject() string     { return i.userID }

func (i *issuance) issued() *issuance { return i }

// codeGrant is an authorization as the library wants to see it, before and during the code exchange.
type codeGrant struct {
	issuance
	authorization
}

func (g *codeGrant) GetID() string                      { return g.id }
func (g *codeGrant) GetACR() string                     { return "" }
func (g *codeGrant) GetNonce() string                   { return g.request.Nonce }
func (g *codeGrant) GetRedirectURI() string             { return g.request.RedirectURI }
func (g *codeGrant) GetResponseType() oidc.ResponseType { return g.request.ResponseType }
func (g *codeGrant) GetResponseMode() oidc.ResponseMode { return g.request.ResponseMode }
func (g *codeGrant) GetState() string                   { return g.request.State }
func (g *codeGrant) Done() bool                         { return g.authorization.userID != "" }

func (g *codeGrant) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: g.request.CodeChallenge, Method: g.request.CodeChallengeMethod}
}

// refreshGrant is a family as the library wants to see it during a refresh.
type refreshGrant struct{ issuance }

// SetCurrentScopes narrows the scope of this one access token; the family keeps its own (RFC 6749 section 6).
func (g *refreshGrant) SetCurrentScopes(scopes []string) { g.scopes = slices.Clone(scopes) }

var (
	_ op.AuthRequest         = (*codeGrant)(nil)
	_ op.RefreshTokenRequest = (*refreshGrant)(nil)
)
