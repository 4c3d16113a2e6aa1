// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

// storage is what the OpenID provider library leaves to its user: who there is, what was issued, and what may be issued
// next. Everything is in memory.
type storage struct {
	audience       string // of access tokens: the resource server
	clients        map[string]Client
	users          map[string]User // by ID
	key            *signingKey
	authorizations *authorizations
	families       *families
	accessTokens   *accessTokens
	journal        *journal.Journal
}

var (
	_ op.Storage                        = (*storage)(nil)
	_ op.CanSetUserinfoFromRequest      = (*storage)(nil)
	_ op.CanGetPrivateClaimsFromRequest = (*storage)(nil)
	_ op.CanTerminateSessionFromRequest = (*storage)(nil)
)

// CreateAuthRequest records an authorization request. PKCE with S256 is required of every client (RFC 9700 section
// 2.1.1). There is no sign-on session here, so prompt=none can only be answered one way.
func (s *storage) CreateAuthRequest(_ context.Context, request *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if request.CodeChallenge == "" || request.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("a code_challenge with code_challenge_method S256 is required")
	}
	for _, prompt := range request.Prompt {
		if prompt == oidc.PromptNone {
			return nil, oidc.ErrLoginRequired()
		}
	}
	return s.codeGrant(s.authorizations.create(*request)), nil
}

// AuthRequestByID returns an authorization request.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	a, ok := s.authorizations.find(id)
	if !ok {
		return nil, oidc.ErrInvalidRequest().WithDescription("authorization request unknown or expired")
	}
	return s.codeGrant(a), nil
}

// AuthRequestByCode returns the authorization request of a code, also of a used one: whether the exchange may go on is
// decided, once, in CreateAccessAndRefreshTokens, when the client has proved who it is.
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	a, ok := s.authorizations.findByCode(code)
	if !ok {
		return nil, errCodeInvalid
	}
	return s.codeGrant(a), nil
}

// SaveAuthCode records a code.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	return s.authorizations.issue(id, code)
}

// DeleteAuthRequest is called after a code exchange. The request stays until it expires: a second exchange of its code
// must be recognised.
func (s *storage) DeleteAuthRequest(context.Context, string) error { return nil }

// CreateAccessToken issues the tokens of a code exchange without offline_access: no refresh token leaves.
func (s *storage) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	grant, ok := request.(*codeGrant)
	if !ok {
		return "", time.Time{}, oidc.ErrUnsupportedGrantType()
	}
	id, _, expiry, err := s.exchangeCode(grant)
	return id, expiry, err
}

// CreateAccessAndRefreshTokens issues the tokens of a code exchange or a refresh. It decides about both in one step.
func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, request op.TokenRequest, refreshToken string) (string, string, time.Time, error) {
	switch grant := request.(type) {
	case *codeGrant:
		return s.exchangeCode(grant)
	case *refreshGrant:
		return s.refresh(grant, refreshToken)
	default:
		return "", "", time.Time{}, oidc.ErrUnsupportedGrantType()
	}
}

func (s *storage) exchangeCode(grant *codeGrant) (string, string, time.Time, error) {
	f, refreshToken := s.families.start(family{
		userID: grant.issuance.userID, clientID: grant.clientID, scopes: grant.scopes, authTime: grant.issuance.authTime,
	})
	if usedBy, err := s.authorizations.redeem(grant.id, f.id); err != nil {
		s.families.end(f.id)
		s.end(usedBy) // what a code gave that is presented twice is revoked (RFC 6749 section 4.1.2)
		return "", "", time.Time{}, oidc.ErrInvalidGrant().WithParent(err)
	}
	t := s.accessTokens.issue(f, grant.scopes)
	grant.issuance.familyID = f.id
	s.journal.Append(journal.Event{Kind: journal.SignedIn, Session: journal.Label(f.id), Generation: journal.Label(t.id)})
	return t.id, refreshToken, t.expiry, nil
}

func (s *storage) refresh(grant *refreshGrant, refreshToken string) (string, string, time.Time, error) {
	f, next, err := s.families.rotate(refreshToken)
	if err != nil {
		s.punish(f, err)
		return "", "", time.Time{}, oidc.ErrInvalidGrant().WithParent(err)
	}
	t := s.accessTokens.issue(f, grant.scopes)
	s.journal.Append(journal.Event{Kind: journal.Refreshed, Session: journal.Label(f.id), Generation: journal.Label(t.id)})
	return t.id, next, t.expiry, nil
}

// TokenRequestByRefreshToken returns what a refresh token stands for.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, refreshToken string) (op.RefreshTokenRequest, error) {
	f, err := s.families.find(refreshToken)
	if err != nil {
		s.punish(f, err)
		return nil, err
	}
	return &refreshGrant{issuance{
		clientID: f.clientID, userID: f.userID, scopes: f.scopes, authTime: f.authTime, audience: []string{s.audience}, familyID: f.id,
	}}, nil
}

// punish revokes the access tokens of a family that has just been ended for a reused refresh token.
func (s *storage) punish(f family, err error) {
	if !errors.Is(err, errRefreshTokenReused) {
		return
	}
	s.accessTokens.revokeFamily(f.id)
	s.journal.Append(journal.Event{Kind: journal.Reused, Session: journal.Label(f.id)})
}

// end ends a family and its access tokens.
func (s *storage) end(familyID string) {
	if !s.families.end(familyID) {
		return
	}
	s.accessTokens.revokeFamily(familyID)
	s.journal.Append(journal.Event{Kind: journal.SignedOut, Session: journal.Label(familyID)})
}

// TerminateSession is superseded by TerminateSessionFromRequest.
func (s *storage) TerminateSession(context.Context, string, string) error { return nil }

// TerminateSessionFromRequest is RP-initiated logout: the ID token says which session. Without one there is nothing to
// end, as this server has no sign-on session of its own and the client has revoked its refresh token.
func (s *storage) TerminateSessionFromRequest(_ context.Context, request *op.EndSessionRequest) (string, error) {
	if request.IDTokenHintClaims != nil {
		if sid, ok := request.IDTokenHintClaims.Claims["sid"].(string); ok {
			s.end(sid)
		}
	}
	return request.RedirectURI, nil
}

// GetRefreshTokenInfo says whose a refresh token is; the revocation endpoint asks.
func (s *storage) GetRefreshTokenInfo(_ context.Context, clientID, token string) (userID, tokenID string, err error) {
	f, ok := s.families.owner(token)
	if !ok || f.clientID != clientID {
		return "", "", op.ErrInvalidRefreshToken
	}
	return f.userID, token, nil
}

// RevokeToken revokes a refresh token with all that came from it, or an access token given by its jti (RFC 7009).
func (s *storage) RevokeToken(_ context.Context, token, _, clientID string) *oidc.Error {
	if f, ok := s.families.owner(token); ok && f.clientID == clientID {
		s.end(f.id)
	}
	if t, ok := s.accessTokens.owner(token); ok && t.clientID == clientID {
		s.accessTokens.revoke(t.id)
	}
	return nil
}

// SigningKey returns the key that signs.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms returns the algorithms that metadata names.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{s.key.SignatureAlgorithm()}, nil
}

// KeySet returns the JWK Set.
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{verificationKey{s.key}}, nil
}

// GetClientByClientID returns a client.
func (s *storage) GetClientByClientID(_ context.Context, clientID string) (op.Client, error) {
	client, ok := s.clients[clientID]
	if !ok {
		return nil, oidc.ErrInvalidClient().WithDescription("client unknown")
	}
	return registration{client}, nil
}

// AuthorizeClientIDSecret authenticates a client.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, clientID, clientSecret string) error {
	client, ok := s.clients[clientID]
	if !ok || !client.authenticates(clientSecret) {
		return errors.New("client unknown, or secret wrong")
	}
	return nil
}

// SetUserinfoFromScopes is deprecated in the library: SetUserinfoFromRequest does its work.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills in the claims of an ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, request op.IDTokenRequest, scopes []string) error {
	user, ok := s.users[request.GetSubject()]
	if !ok {
		return fmt.Errorf("user %q unknown", request.GetSubject())
	}
	user.describe(info, scopes)
	if grant, ok := request.(interface{ issued() *issuance }); ok {
		info.AppendClaims("sid", grant.issued().familyID)
	}
	return nil
}

// GetPrivateClaimsFromRequest adds the session to an access token. It is called when the access token has its audience
// and before the ID token asks for one: from here on the audience is the client's, as an ID token with a further, unknown
// audience is refused (OpenID Connect Core section 3.1.3.7).
func (s *storage) GetPrivateClaimsFromRequest(_ context.Context, request op.TokenRequest, _ []string) (map[string]any, error) {
	grant, ok := request.(interface{ issued() *issuance })
	if !ok {
		return nil, oidc.ErrUnsupportedGrantType()
	}
	i := grant.issued()
	i.audience = []string{i.clientID}
	return map[string]any{"sid": i.familyID}, nil
}

// GetPrivateClaimsFromScopes is superseded by GetPrivateClaimsFromRequest.
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// SetUserinfoFromToken answers the UserInfo endpoint.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, tokenID, subject, _ string) error {
	t, ok := s.accessTokens.live(tokenID)
	if !ok || t.userID != subject {
		return errors.New("access token expired or revoked")
	}
	s.users[t.userID].describe(info, t.scopes)
	return nil
}

// SetIntrospectionFromToken answers the introspection endpoint (RFC 7662), to the client that the token was issued to.
func (s *storage) SetIntrospectionFromToken(_ context.Context, answer *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	t, ok := s.accessTokens.live(tokenID)
	if !ok || t.userID != subject || t.clientID != clientID {
		return errors.New("access token expired, revoked or not for this client")
	}
	answer.Subject, answer.ClientID, answer.Scope = t.userID, t.clientID, t.scopes
	answer.Audience, answer.Expiration, answer.JWTID = oidc.Audience{s.audience}, oidc.FromTime(t.expiry), t.id
	return nil
}

// GetKeyByIDAndClientID is for clients that sign, of which there are none.
func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("no client has registered a key")
}

// ValidateJWTProfileScopes is for the JWT bearer grant, which nobody may use.
func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrUnauthorizedClient()
}

// Health answers the readiness probe.
func (s *storage) Health(context.Context) error { return nil }

// codeGrant shows an authorization to the library.
func (s *storage) codeGrant(a authorization) *codeGrant {
	return &codeGrant{
		issuance: issuance{
			clientID: a.request.ClientID, userID: a.userID, scopes: a.request.Scopes, authTime: a.authTime,
			audience: []string{s.audience}, familyID: a.familyID,
		},
		authorization: a,
	}
}
