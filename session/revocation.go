// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// revokePauses lie between the attempts to revoke a token.
var revokePauses = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second}

// maxRevocations is how many calls of a revocation endpoint are made at a time: a
// server that ends all sessions of everybody must not be stormed for it.
const maxRevocations = 16

// revokeLimit bounds all the attempts.
const revokeLimit = 2 * time.Minute

// revokeLater revokes tokens that no session holds, in the background.
func (m *Manager) revokeLater(refresh oauth.Secret, access ...oauth.Secret) {
	m.cfg.Backend.detach(func(ctx context.Context) { m.revoke(ctx, refresh, access...) }, revokeLimit, func() {})
}

// revoke revokes the tokens of a session that is over (RFC 7009): first the refresh
// token, with which most servers let go of the grant, then what it would leave to
// whoever has an access token. It reports false when that may be worth another try.
func (m *Manager) revoke(ctx context.Context, refresh oauth.Secret, access ...oauth.Secret) (done bool) {
	if m.cfg.KeepTokensAtEnd {
		return true
	}
	if !m.revokeOne(ctx, refresh, "refresh_token") {
		return false
	}
	for _, token := range access {
		if !m.revokeOne(ctx, token, "access_token") {
			return false
		}
	}
	return true
}

// revokeOne revokes a token; that there is none is done. Where the server says when
// to come back, that is when the next attempt is made.
func (m *Manager) revokeOne(ctx context.Context, token oauth.Secret, hint string) (done bool) {
	if token == "" {
		return true
	}
	for i := 0; ; i++ {
		err := m.revokeNow(ctx, token, hint)
		if err == nil || errors.Is(err, oauth.ErrUnsupported) {
			return true
		}
		class := oauth.ClassOf(err)
		again := class == oauth.ClassOutage || class == oauth.ClassAmbiguous || class == oauth.ClassNotSent
		if !again || i == len(revokePauses) || m.cfg.Backend.pause(ctx, max(revokePauses[i], retryAfter(err))) != nil {
			m.cfg.Logger.Warn("a token of a session that is over could not be revoked", "token_type", hint, "error", err)
			// Who refuses this client may not do so for ever; everything else is an answer.
			return !again && class != oauth.ClassConfiguration
		}
	}
}

func (m *Manager) revokeNow(ctx context.Context, token oauth.Secret, hint string) error {
	places := m.cfg.Backend.revocations
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
		return m.cfg.Client.Revoke(ctx, token, hint)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// live gives the access tokens that have not expired, as far as that is known.
func (t *tokens) live(now time.Time) (access []oauth.Secret) {
	for _, a := range append([]*accessToken{t.accessToken}, t.narrow...) {
		if a.accessExpiry.IsZero() || now.Before(a.accessExpiry) {
			access = append(access, a.access)
		}
	}
	return access
}

var errEnding = errors.New("the process ends")

// pause is sleep, but not over the end of the process.
func (b *Backend) pause(ctx context.Context, d time.Duration) error {
	if err := wait(ctx, b.ending, d); err != nil {
		return err
	}
	select {
	case <-b.ending:
		return errEnding
	default:
		return nil
	}
}
