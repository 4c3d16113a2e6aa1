// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"net/http"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

// grant is what lets a transport relay the request.
func (p *Protect) grant(hd *handle, w http.ResponseWriter, r *http.Request, s *session.Session, b *session.Bearer) *upstream.Grant {
	g := &upstream.Grant{
		ReservedCookie: session.OwnCookie,
		ReservedHeader: hd.bff.reservedHeader,
		KeepCORS:       len(hd.bff.trustedOrigins) > 0,
		CacheUpstream:  p.Cache == cacheUpstream,
		ResponseHeader: answerHeader(w, r),
	}
	if b != nil && p.Token != tokenNone {
		g.Source, g.OwnToken = b, true
	}
	if s != nil && p.Token != tokenNone {
		source := p.tokensOf(s)
		g.Source = source
		g.HealAny401 = hd.bff.healAny401
		g.HealBare401 = source.ExpiryUnknown()
		g.TokenError = func(err error) *http.Response { return hd.answerFor(r, err) }
		if p.StepUp {
			g.StepUp = func(asked upstream.StepUp) *http.Response { return p.stepUp(hd, r, s, asked) }
		}
	}
	return g
}

// answerFor is an error as the answer of a transport: for a client whose token ran
// out between the check here and the transport, or that comes by a hand-written
// transport, or of whom the resource server wants more.
func (hd *handle) answerFor(r *http.Request, err error) *http.Response {
	rec := &answerRecorder{header: make(http.Header)}
	r = r.WithContext(context.WithValue(r.Context(), handleKey{}, hd))
	if failed := hd.fail(rec, r, err); failed != nil {
		// An error of a transport is one of the resource server to a reverse proxy, which
		// may try the next one: handle_errors has its say here.
		if r.Context().Err() != nil || hd.runErrorRoutes(rec, r, asHTTPError(err), failed) != nil {
			return nil
		}
	}
	for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"} {
		rec.header.Del(name) // on the answer since the request was let through
	}
	return rec.response(r)
}
