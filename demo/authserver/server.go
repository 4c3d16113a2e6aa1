// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package authserver is the authorization server of the demo: a certified OpenID provider library
// (github.com/zitadel/oidc) on a loopback port, with what the library leaves to its user. Access tokens are short-lived
// JWTs; refresh tokens are rotated at each use, and a spent one that comes back ends its family.
package authserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

// Config says what a Server serves. Every field is required.
type Config struct {
	Audience            string        // of access tokens: the resource server
	AccessTokenLifetime time.Duration // whole seconds
	Clients             []Client
	Users               []User
	Journal             *journal.Journal
}

// Server is a running authorization server.
type Server struct {
	issuer  string
	storage *storage
	journal *journal.Journal
	outage  *outage
}

// Start begins to serve on a free loopback port.
func Start(config Config) (*Server, error) {
	key, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	s := &Server{
		issuer:  "http://" + listener.Addr().String(),
		journal: config.Journal,
		storage: &storage{
			audience:       config.Audience,
			clients:        map[string]Client{},
			users:          map[string]User{},
			key:            key,
			authorizations: newAuthorizations(),
			families:       newFamilies(),
			accessTokens:   newAccessTokens(config.AccessTokenLifetime),
			journal:        config.Journal,
		},
	}
	for _, client := range config.Clients {
		s.storage.clients[client.ID] = client
	}
	for _, user := range config.Users {
		s.storage.users[user.ID] = user
	}
	handler, err := s.handler()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s.outage = newOutage(listener, handler)
	return s, nil
}

// handler joins the endpoints of the library and the login page.
func (s *Server) handler() (http.Handler, error) {
	config := &op.Config{
		CodeMethodS256:        true,
		AuthMethodPost:        true,
		GrantTypeRefreshToken: true,
		SupportedUILocales:    []language.Tag{language.English},
		SupportedScopes:       []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess},

		DefaultLogoutRedirectURI: signedOutPath,
	}
	rand.Read(config.CryptoKey[:])
	provider, err := op.NewProvider(config, s.storage, op.StaticIssuer(s.issuer), op.WithAllowInsecure())
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	callback := func(requestID string) string {
		return op.AuthCallbackURL(provider)(op.ContextWithIssuer(context.Background(), s.issuer), requestID)
	}
	mux := http.NewServeMux()
	newLogin(s.storage, callback).register(mux)
	mux.Handle("/", provider)
	return mux, nil
}

// Issuer returns the issuer identifier.
func (s *Server) Issuer() string { return s.issuer }

// JWKSURI returns where the keys are that verify access tokens.
func (s *Server) JWKSURI() string { return s.issuer + op.DefaultEndpoints.JwksURI.Relative() }

// Live reports whether the access token with the given jti has neither expired nor been revoked.
func (s *Server) Live(jti string) bool {
	_, ok := s.storage.accessTokens.live(jti)
	return ok
}

// RevokeAccessTokens revokes the access tokens that the session (claim sid) has had so far, and nothing else of it.
func (s *Server) RevokeAccessTokens(session string) {
	s.storage.accessTokens.revokeFamily(session)
	s.journal.Append(journal.Event{Kind: journal.Revoked, Session: journal.Label(session)})
}

// TakeDown makes the server refuse connections for d from now, and returns the moment of its return.
func (s *Server) TakeDown(d time.Duration) time.Time {
	until, fresh := s.outage.begin(d, func() { s.journal.Append(journal.Event{Kind: journal.OutageEnded}) })
	if fresh {
		s.journal.Append(journal.Event{Kind: journal.OutageStarted})
	}
	return until
}

// DownUntil returns the moment of the server's return, or the zero time where it is not down.
func (s *Server) DownUntil() time.Time { return s.outage.until() }

// Close stops the server.
func (s *Server) Close() error { return s.outage.close() }
