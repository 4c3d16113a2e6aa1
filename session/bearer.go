// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// Bearer is the access token of a client that has no session, judged: such a
// client is its own, and does its own refreshing. It is safe for concurrent use,
// and all its printed forms are the same constant.
type Bearer struct {
	raw   oauth.Secret
	token *oauth.BearerToken
}

// Bearer judges an access token that a client brings along. It is one for the
// upstream that p is for, if p says so; nil: the default. Errors:
// [oauth.ErrAccessToken]; [*UnavailableError] where it cannot be known.
func (m *Manager) Bearer(ctx context.Context, raw oauth.Secret, p *Purpose) (*Bearer, error) {
	token, err := m.cfg.Client.CheckBearer(ctx, raw, m.cfg.Validate, m.aims.at(p).audience()...)
	switch {
	case err == nil:
		return &Bearer{raw: raw, token: token}, nil
	case errors.Is(err, oauth.ErrAccessToken):
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, outage(err)
}

// Subject is the sub claim; "" where an introspection told none.
func (b *Bearer) Subject() string { return b.token.Subject }

// Scope is the scope of the token.
func (b *Bearer) Scope() []string { return b.token.Scope }

// Claims are those of the token, the scope as a list. The map must not be changed.
func (b *Bearer) Claims() map[string]any {
	claims := maps.Clone(b.token.Claims)
	if _, ok := claims["scope"]; ok {
		claims["scope"] = b.token.Scope
	}
	return claims
}

// Token gives the token.
func (b *Bearer) Token(context.Context) (string, error) { return b.raw.Reveal(), nil }

// Refresh fails with [ErrTokenUnavailable]: the client has the refresh token.
func (b *Bearer) Refresh(context.Context, string) (string, error) {
	return "", fmt.Errorf("%w: it is the client's own", ErrTokenUnavailable)
}

// String is a constant.
func (Bearer) String() string { return "bearer" }

// GoString is the same.
func (Bearer) GoString() string { return "bearer" }

// Format prints the same, whatever the verb.
func (Bearer) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("bearer")) }

// MarshalJSON is the same.
func (Bearer) MarshalJSON() ([]byte, error) { return []byte(`"bearer"`), nil }
