// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// TokenSource gives the access token of one session. Implementations are safe
// for concurrent use.
type TokenSource interface {
	// Token returns the current access token. It waits, within bounds of its
	// own, only when the token has run out and a refresh is under way.
	Token(ctx context.Context) (string, error)

	// Refresh returns an access token other than refused, which a resource
	// server has just declined. It refreshes once for any number of callers
	// that name the same token, and not at all when refused is no longer the
	// current one. It returns when ctx ends at the latest.
	Refresh(ctx context.Context, refused string) (string, error)
}

// accepter is an optional ability of a [TokenSource]: Accepted is told of every
// token with which a resource server did what it was asked, and of every fresh one
// that it did not refuse in a replay. It ends a streak of refused ones.
type accepter interface {
	Accepted(token string)
}

func (g *Grant) accepted(token string) {
	if a, ok := g.Source.(accepter); ok {
		a.Accepted(token)
	}
}

// Grant is the permission to relay one request, with what the transport needs
// to know about its session. It lives in the context of the request (see
// [WithGrant]) and must not be changed once it is there. All its printed forms
// are the same constant, since a context value is not far from a log line.
type Grant struct {
	// Source gives the access token. Nil relays without one.
	Source TokenSource

	// HealAny401 has every 401 refreshed and replayed, except one that names
	// insufficient_scope or insufficient_user_authentication: a new token would
	// have the same scope, and be of the same authentication. Nor one that asks for
	// another DPoP proof: of the token that says nothing.
	HealAny401 bool

	// HealBare401 has a 401 that names no Bearer error refreshed and replayed.
	// It is for tokens whose expiry is unknown.
	HealBare401 bool

	// ReservedCookie reports whether a cookie name belongs to the gateway. Such
	// cookies are neither sent to the resource server nor accepted from it. Nil
	// reserves none.
	ReservedCookie func(name string) bool

	// ReservedHeader reports whether a field name is the gateway's to set
	// (identity, for instance). A trailer section of the client never carries
	// one. Header fields are not asked about: whoever made the grant has already
	// judged them, and an operator may have set some since. Nil reserves none
	// beyond Authorization, Proxy-Authorization, DPoP and Cookie.
	ReservedHeader func(name string) bool

	// KeepCORS lets the resource server's Access-Control-* pass, except the two
	// that say who may read (Allow-Origin and Allow-Credentials).
	KeepCORS bool

	// CacheUpstream leaves Cache-Control and Vary of the resource server alone.
	CacheUpstream bool

	// ResponseHeader is the header of the answer to the client, where that
	// client speaks HTTP/1; nil otherwise. An answer that comes while part of
	// the request body is unread gets "Connection: close" here, as what is left
	// of the body must never be taken for a next request.
	ResponseHeader http.Header

	// OwnToken says that the token is the client's own: there is no fresh one, so a
	// 401 is passed on, and no request body is kept for another attempt.
	OwnToken bool

	// StepUp makes the answer in place of a resource server that asks for a stronger,
	// or a more recent, authentication of the user, or for more scope (RFC 9470, RFC
	// 6750 section 3.1). What it is told has been checked for its form. A nil answer
	// lets the resource server's own pass, as a nil StepUp always does.
	StepUp func(StepUp) *http.Response

	// TokenError makes the answer for a request whose Source failed at this late
	// point, so that it does not count as a failure of the resource server. Nil,
	// or a nil answer, has RoundTrip return a [TokenError] instead.
	TokenError func(error) *http.Response
}

// grantPrinted is what a grant looks like in any print.
const grantPrinted = "upstream.Grant"

// String implements fmt.Stringer with a constant.
func (Grant) String() string { return grantPrinted }

// GoString implements fmt.GoStringer with a constant.
func (Grant) GoString() string { return grantPrinted }

// Format implements fmt.Formatter with a constant, whatever the verb.
func (Grant) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, grantPrinted) }

// MarshalText implements encoding.TextMarshaler with a constant, which covers
// JSON too.
func (Grant) MarshalText() ([]byte, error) { return []byte(grantPrinted), nil }

// LogValue implements slog.LogValuer with a constant.
func (Grant) LogValue() slog.Value { return slog.StringValue(grantPrinted) }

type grantKey struct{}

// WithGrant returns a context in which [Transport] relays requests with g.
func WithGrant(ctx context.Context, g *Grant) context.Context {
	return context.WithValue(ctx, grantKey{}, g)
}

// GrantFrom returns the grant of ctx, and whether there is one.
func GrantFrom(ctx context.Context) (*Grant, bool) {
	g, ok := ctx.Value(grantKey{}).(*Grant)
	return g, ok && g != nil
}
