// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// Purpose says what an access token is for that one upstream alone is sent: got
// with the session's refresh token (RFC 6749 section 6, RFC 8707 section 2.2), or
// by token exchange. The zero value is the default access token.
type Purpose struct {
	// Resource are resource indicators, see [oauth.CheckResource]. Default: those of the default token.
	Resource []string
	// Scope is the scope, no more than what was granted, of tokens that pass
	// [oauth.CheckScope]. Default: as granted.
	Scope []string
	// Exchange gets the token by token exchange (RFC 8693) of the default one,
	// and then Resource and Scope must be empty. Default: by refresh.
	Exchange *Exchange
}

// Exchange is what a token exchange asks for; one of Audience, Resource and Scope
// at least.
type Exchange struct {
	Audience []string
	Resource []string
	Scope    []string
	// RequestedTokenType is [oauth.TokenTypeAccessToken] or [oauth.TokenTypeJWT].
	// Default: the first.
	RequestedTokenType string
}

// MayHave reports whether access tokens for it can have that scope, if it is granted.
func (p *Purpose) MayHave(scope []string) bool {
	if p == nil {
		return true
	}
	limit := p.Scope
	if p.Exchange != nil {
		limit = p.Exchange.Scope
	}
	return len(limit) == 0 || contains(limit, scope)
}

// String says it in words, for logs.
func (p *Purpose) String() string {
	if p == nil {
		return "default"
	}
	var words []string
	add := func(name string, values []string) {
		if len(values) > 0 {
			words = append(words, name+" "+strings.Join(values, " "))
		}
	}
	add("resource", p.Resource)
	add("scope", p.Scope)
	if x := p.Exchange; x != nil {
		add("exchange audience", x.Audience)
		add("exchange resource", x.Resource)
		add("exchange scope", x.Scope)
	}
	if len(words) == 0 {
		return "default"
	}
	return strings.Join(words, ", ")
}

// purposeID tells purposes apart, in records too. That of a default token without
// resource indicators is zero.
type purposeID [16]byte

// aim is a purpose as the tokens of one application know it.
type aim struct {
	purpose *Purpose // nil: the default access token
	id      purposeID
	told    *atomic.Bool // that its tokens are not what was asked for; nil by default
}

func (a aim) byDefault() bool { return a.purpose == nil }

// exchanged reports that the token is got by token exchange.
func (a aim) exchanged() bool { return a.purpose != nil && a.purpose.Exchange != nil }

// audience is what the token has to be for; nil where nothing is said of it but
// what the application's configuration says of all.
func (a aim) audience() []string {
	switch {
	case a.purpose == nil:
		return nil
	case a.purpose.Exchange != nil:
		return append(slices.Clone(a.purpose.Exchange.Audience), a.purpose.Exchange.Resource...)
	}
	return a.purpose.Resource
}

// maxAims is how many purposes a manager remembers the aims of. Configurations
// that are loaded again bring the same ones anew.
const maxAims = 1024

// aims are the aims of purposes, made once for each. They are safe for concurrent
// use.
type aims struct {
	byDefault aim
	resource  []string // of the default token
	known     sync.Map // *Purpose → aim
	count     atomic.Int64
}

// at gives the aim of a purpose. One that says nothing is the default.
func (a *aims) at(p *Purpose) aim {
	if p == nil || len(p.Resource)+len(p.Scope) == 0 && p.Exchange == nil {
		return a.byDefault
	}
	if known, ok := a.known.Load(p); ok {
		return known.(aim)
	}
	made := a.make(p)
	if a.count.Add(1) > maxAims {
		a.count.Store(1)
		a.known.Clear()
	}
	a.known.Store(p, made)
	return made
}

func (a *aims) make(p *Purpose) aim {
	x := p.Exchange
	if x == nil {
		resource := p.Resource
		if len(resource) == 0 {
			resource = a.resource
		}
		return aim{purpose: p, id: digestPurpose("refresh", "", nil, resource, p.Scope), told: new(atomic.Bool)}
	}
	requested := x.RequestedTokenType
	if requested == "" {
		requested = oauth.TokenTypeAccessToken
	}
	// What comes of an exchange depends on what is exchanged.
	return aim{purpose: p, id: digestPurpose("exchange", requested, x.Audience, x.Resource, x.Scope, a.resource), told: new(atomic.Bool)}
}

func (a *aims) init(client *oauth.Client) {
	a.resource = client.Resource()
	if len(a.resource) > 0 {
		a.byDefault.id = digestPurpose("default", "", nil, a.resource, nil)
	}
}

// digestPurpose does not depend on the order in lists that are sets.
func digestPurpose(kind, requested string, sets ...[]string) (id purposeID) {
	parts := []string{"purpose", kind, requested}
	for _, set := range sets {
		parts = append(parts, string(bind(slices.Sorted(slices.Values(set))...)))
	}
	sum := sha256.Sum256(bind(parts...))
	copy(id[:], sum[:])
	return id
}

// PurposeTokens gives the access tokens of a session for one purpose. It satisfies
// upstream's TokenSource. It is safe for concurrent use, and prints a constant.
type PurposeTokens struct {
	s  *Session
	to aim
}

// For gives the access tokens of the session for one upstream. p must not be
// changed from then on; nil is the default.
func (s *Session) For(p *Purpose) *PurposeTokens { return &PurposeTokens{s: s, to: s.m.aims.at(p)} }

// String prints a constant.
func (t *PurposeTokens) String() string { return "session" }

// GoString prints a constant.
func (t *PurposeTokens) GoString() string { return "session" }

// Format prints a constant, whatever the verb.
func (t *PurposeTokens) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("session")) }

// MarshalJSON gives a constant.
func (t *PurposeTokens) MarshalJSON() ([]byte, error) { return []byte(`"session"`), nil }

// Token is [Session.Token] for the purpose. [ErrTokenUnavailable] says that the
// authorization server gives no token for it, which ends no session and means
// nothing for others.
func (t *PurposeTokens) Token(ctx context.Context) (string, error) { return t.s.token(ctx, t.to) }

// Refresh is [Session.Refresh] for the purpose: refused is a token for it.
func (t *PurposeTokens) Refresh(ctx context.Context, refused string) (string, error) {
	return t.s.refresh(ctx, t.to, refused)
}

// Accepted is [Session.Accepted] for the purpose.
func (t *PurposeTokens) Accepted(token string) { t.s.accepted(t.to, token) }

// ExpiryUnknown is [Session.ExpiryUnknown] for the purpose.
func (t *PurposeTokens) ExpiryUnknown() bool {
	return t.s.seen.Load().tokens.of(t.to).expiry().IsZero()
}
