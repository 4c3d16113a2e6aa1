// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package resourceserver is the API of the demo, on a loopback port. It believes nobody but the authorization server:
// each request needs a valid access token of its own. Below /api/demo/ it has what the page's buttons do.
package resourceserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

// AuthorizationServer is what this server asks of the one that issues its tokens.
type AuthorizationServer interface {
	Issuer() string
	JWKSURI() string
	Live(jti string) bool               // neither expired nor revoked
	RevokeAccessTokens(session string)  // those issued so far
	TakeDown(d time.Duration) time.Time // returns the moment of its return
	DownUntil() time.Time               // zero where it is up
}

// Config says what a Server serves. Every field is required.
type Config struct {
	Listener            net.Listener
	Audience            string // that access tokens must have
	AuthorizationServer AuthorizationServer
	Restart             func() // restarts the gateway; called after the request for it has been answered
	Journal             *journal.Journal
}

// Server is a running resource server.
type Server struct {
	config   Config
	verifier *verifier
	http     *http.Server
}

// Start begins to serve.
func Start(config Config) *Server {
	s := &Server{
		config:   config,
		verifier: newVerifier(config.AuthorizationServer.Issuer(), config.AuthorizationServer.JWKSURI(), config.Audience),
	}
	mux := http.NewServeMux()
	mux.Handle("GET /api/hello", s.protected(s.hello))
	mux.Handle("GET /api/demo/events", s.control(s.events))
	mux.Handle("POST /api/demo/revoke", s.control(s.revoke))
	mux.Handle("POST /api/demo/outage", s.control(s.outage))
	mux.Handle("POST /api/demo/restart", s.control(s.restart))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go s.http.Serve(config.Listener) // ends with http.ErrServerClosed, by Close
	return s
}

// Close stops the server and gives what is under way a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.http.Close()
	}
	return err
}

// protected lets a request through with a live access token.
func (s *Server) protected(next func(http.ResponseWriter, *http.Request, token)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, err := s.verifier.verify(r.Context(), r)
		if err == nil && !s.config.AuthorizationServer.Live(t.id) {
			err = errTokenRevoked
		}
		if err != nil {
			s.refuse(w, t, err)
			return
		}
		next(w, r, t)
	})
}

// control lets a request through also with a revoked access token: the buttons must not be what heals the session that
// the page wants to see healed.
func (s *Server) control(next func(http.ResponseWriter, *http.Request, token)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, err := s.verifier.verify(r.Context(), r)
		if err != nil {
			s.refuse(w, t, err)
			return
		}
		next(w, r, t)
	})
}

// refuse answers as RFC 6750 section 3 says: without a token a bare challenge, else the error.
func (s *Server) refuse(w http.ResponseWriter, t token, err error) {
	challenge := `Bearer realm="demo"`
	if !errors.Is(err, errTokenMissing) {
		description := errTokenInvalid
		if errors.Is(err, errTokenRevoked) {
			description = errTokenRevoked
		}
		challenge = fmt.Sprintf(`Bearer realm="demo", error="invalid_token", error_description=%q`, description)
		s.config.Journal.Append(journal.Event{
			Kind: journal.Refused, Session: journal.Label(t.session), Generation: journal.Label(t.id),
		})
	}
	w.Header().Set("WWW-Authenticate", challenge)
	answer(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
}

// hello answers what it saw: which generation of the access token, for whom, and when.
func (s *Server) hello(w http.ResponseWriter, _ *http.Request, t token) {
	now := time.Now()
	answer(w, http.StatusOK, map[string]any{
		"generation": journal.Label(t.id),
		"sub":        t.subject,
		"session":    journal.Label(t.session),
		"time":       now,
		"expires_in": t.expiry.Sub(now).Seconds(),
	})
}

// answer writes JSON. Answers differ with each request and belong to one user.
func answer(w http.ResponseWriter, status int, body any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // an error here is a client that has gone
}
