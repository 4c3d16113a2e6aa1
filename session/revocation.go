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

// revokeLimit bounds all the attempts.
const revokeLimit = 2 * time.Minute

// revokeLater revokes tokens that no session holds, in the background.
func (m *Manager) revokeLater(refresh, access oauth.Secret) {
	m.cfg.Backend.detach(func(ctx context.Context) { m.revoke(ctx, refresh, access) }, revokeLimit, func() {})
}

// revoke revokes the tokens of a session that is over (RFC 7009): the refresh
// token, with which servers let go of the grant, or the access token where there
// is none. It reports false when that may be worth another try.
func (m *Manager) revoke(ctx context.Context, refresh, access oauth.Secret) (done bool) {
	if m.cfg.KeepTokensAtEnd || refresh == "" && access == "" {
		return true
	}
	token, hint := refresh, "refresh_token"
	if token == "" {
		token, hint = access, "access_token"
	}
	for i := 0; ; i++ {
		err := m.cfg.Client.Revoke(ctx, token, hint)
		if err == nil || errors.Is(err, oauth.ErrUnsupported) {
			return true
		}
		class := oauth.ClassOf(err)
		again := class == oauth.ClassOutage || class == oauth.ClassAmbiguous || class == oauth.ClassNotSent
		if !again || i == len(revokePauses) || sleep(ctx, revokePauses[i]) != nil {
			m.cfg.Logger.Warn("a token of a session that is over could not be revoked", "error", err)
			// Who refuses this client may not do so for ever; everything else is an answer.
			return !again && class != oauth.ClassConfiguration
		}
	}
}
