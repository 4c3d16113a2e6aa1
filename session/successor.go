// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// successor makes the tokens of the next generation out of the answer. An ID
// token for somebody else, or for another login, is an error (OIDC Core section
// 12.2); one that does not verify is left out.
func (f *flight) successor(ctx context.Context, o *opened, began time.Time, answer *oauth.TokenResponse) (*tokens, error) {
	m, old := f.m, o.tokens
	before := old.placed(f.to)
	token := &accessToken{
		access: answer.AccessToken, purpose: f.to.id, accessExpiry: answer.Expiry, issued: began,
		scope: answer.Scope, gen: o.rec.Gen + 1, prev: before.generation(),
	}
	m.compare(f.to, token, old)
	if token.scope == nil && before != nil {
		token.scope = before.scope
	}
	fresh := old.with(f.to, token, time.Now())
	if f.trigger == TriggerRequest {
		fresh.narrow, fresh.floor = nil, token.gen // whoever asks for new rights wants them everywhere
	}
	fresh.refreshEnd, fresh.sid, fresh.idIssued = answer.RefreshExpiry, "", time.Time{}
	if answer.RefreshToken != "" {
		fresh.refresh = answer.RefreshToken
	}
	if answer.IDToken == "" {
		return fresh, nil
	}
	id, err := m.cfg.Client.VerifyRefreshedIDToken(ctx, answer.IDToken, oauth.RefreshedIDTokenCheck{
		Issuer: o.facts.issuer, Subject: o.facts.subject, Nonce: old.nonce, AuthTime: o.facts.authTime, AccessToken: answer.AccessToken,
	})
	switch {
	case errors.Is(err, oauth.ErrIDTokenMismatch), errors.Is(err, oauth.ErrSubjectChanged):
		return nil, err
	case err != nil:
		// A key that is too new, a clock that is off: it is not used, and the
		// access token, which needs none (OIDC Core section 12.2), is.
		m.cfg.Logger.Error("an ID token that came with a refresh is of no use; the old one stays", "session", o.rec.Key.short(), "error", err)
		return fresh, nil
	}
	fresh.id, fresh.claims = answer.IDToken, mergeClaims(old.claims, id.Claims)
	fresh.sid, fresh.idIssued = id.SID, id.IssuedAt
	return fresh, nil
}
