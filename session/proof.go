// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// A login binds its tokens to a key of its own where the application is configured
// so (RFC 9449). The key is sealed with them, goes where they go, and stays what it
// is for as long as the session lives: whatever is configured later, tokens that are
// bound are never sent without a proof, and those that are not never get one.

// keyWire is the form of a key in a record or in a login cookie; "" for none.
func keyWire(key *oauth.DPoPKey) (string, error) {
	if key == nil {
		return "", nil
	}
	secret, err := key.Secret()
	if err != nil {
		return "", err
	}
	return secret.Reveal(), nil
}

// keyOf reads it.
func keyOf(wire string) (*oauth.DPoPKey, error) {
	if wire == "" {
		return nil, nil
	}
	return oauth.ParseDPoPKey(oauth.Secret(wire))
}

// newKey makes the key of a login; nil where none is wanted.
func (m *Manager) newKey() (*oauth.DPoPKey, error) {
	if !m.cfg.Client.DPoP() {
		return nil, nil
	}
	return oauth.NewDPoPKey()
}

// Bound reports whether the access token that this handle gave last, or will give, is
// bound to a key, so that each request with it needs a proof ([Session.Proof]).
func (s *Session) Bound() bool {
	if f := s.followed.Load(); f != nil {
		return f.next.Bound()
	}
	return s.seen.Load().tokens.key != nil
}

// Proof makes the DPoP proof for one try of a request with an access token that this
// handle gave. server is any name for who answers; method and uri are what it sees, uri
// without query and fragment. It may be asked where the token is bound alone.
func (s *Session) Proof(server, method, uri, token string) (string, error) {
	if f := s.followed.Load(); f != nil && f.token == token {
		return f.next.Proof(server, method, uri, token)
	}
	key := s.seen.Load().tokens.key
	if key == nil {
		return "", errUnbound
	}
	proof, err := s.m.cfg.Client.ProveTo(server, key, method, uri, oauth.Secret(token))
	return proof.Reveal(), err
}

var errUnbound = errors.New("the tokens of the session are bound to no key")

// Answered takes what a resource server says in the header of an answer that later
// proofs have to heed. sent is when it was asked.
func (s *Session) Answered(server string, header http.Header, sent time.Time) {
	s.m.cfg.Client.ResourceAnswered(server, header, sent)
}

// Bound is [Session.Bound]: all tokens of a session are of one kind.
func (t *PurposeTokens) Bound() bool { return t.s.Bound() }

// Proof is [Session.Proof].
func (t *PurposeTokens) Proof(server, method, uri, token string) (string, error) {
	return t.s.Proof(server, method, uri, token)
}

// Answered is [Session.Answered].
func (t *PurposeTokens) Answered(server string, header http.Header, sent time.Time) {
	t.s.Answered(server, header, sent)
}

// check judges an access token that is bound to a key, or to none if that is nil.
func (m *Manager) check(ctx context.Context, access oauth.Secret, key *oauth.DPoPKey, audience []string) (*oauth.Verdict, error) {
	if key == nil {
		return m.cfg.Client.CheckAccessToken(ctx, access, m.cfg.Validate, audience...)
	}
	return m.cfg.Client.CheckBoundAccessToken(ctx, access, key, m.cfg.Validate, audience...)
}

// checkBound refuses a login whose access token is bound to something else than its
// key. What it lacks otherwise is found out when it is used.
func (m *Manager) checkBound(ctx context.Context, access oauth.Secret, key *oauth.DPoPKey) error {
	if key == nil {
		return nil
	}
	_, err := m.check(ctx, access, key, m.aims.byDefault.audience())
	switch {
	case errors.Is(err, oauth.ErrConfirmation):
		return fmt.Errorf("%w: %w", oauth.ErrUnusable, err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return nil
}
