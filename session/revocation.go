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

// revokeLater revokes the tokens of a session that is over (RFC 7009): the
// refresh token, with which servers let go of the grant, or the access token
// where there is none. Nobody waits for it, and nothing depends on it.
func (m *Manager) revokeLater(refresh, access oauth.Secret) {
	if m.cfg.KeepTokensAtEnd || refresh == "" && access == "" {
		return
	}
	token, hint := refresh, "refresh_token"
	if token == "" {
		token, hint = access, "access_token"
	}
	m.cfg.Backend.detach(func(ctx context.Context) {
		for i := 0; ; i++ {
			err := m.cfg.Client.Revoke(ctx, token, hint)
			if err == nil || errors.Is(err, oauth.ErrUnsupported) {
				return
			}
			class := oauth.ClassOf(err)
			again := class == oauth.ClassOutage || class == oauth.ClassAmbiguous || class == oauth.ClassNotSent
			if !again || i == len(revokePauses) || sleep(ctx, revokePauses[i]) != nil {
				m.cfg.Logger.Warn("a token of a session that is over could not be revoked", "error", err)
				return
			}
		}
	}, 2*time.Minute, func() {})
}
