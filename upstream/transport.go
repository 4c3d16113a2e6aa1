// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"time"
)

// DefaultReplayBuffer is how many bytes of a request body are kept by default
// for a second attempt.
const DefaultReplayBuffer = 64 << 10

// DefaultHealTimeout is how long a refused request waits at most for a fresh
// token.
const DefaultHealTimeout = 10 * time.Second

// ErrTokenUnusable is returned for an access token that cannot be a field value.
// Nothing of it is in the error.
var ErrTokenUnusable = errors.New("access token has characters that a header field cannot carry")

// TokenError is returned by RoundTrip when the token source failed. The resource
// server has not been asked.
type TokenError struct {
	Err error // of TokenSource.Token
}

// Error implements error.
func (e *TokenError) Error() string { return fmt.Sprintf("getting access token: %v", e.Err) }

// Unwrap returns the error of the token source.
func (e *TokenError) Unwrap() error { return e.Err }

// Transport is an http.RoundTripper that attaches the access token of the
// [Grant] in the request's context. Where the resource server answers 401 and
// names the token as the reason, it has the token refreshed and sends the
// request once more. A token that is bound to a key goes with a DPoP proof (RFC
// 9449), a new one for each try; where that has to have a nonce, the request is sent
// once more with it. Requests without a grant pass untouched.
//
// Once there is a first answer RoundTrip never returns an error: whatever goes
// wrong with the second attempt, the first answer is the answer. The fields must
// not change after first use; it is then safe for concurrent use.
type Transport struct {
	// Base sends the requests. Default: http.DefaultTransport.
	Base http.RoundTripper

	// ReplayBuffer is the size in bytes of the largest request body that can be
	// sent again. Zero means [DefaultReplayBuffer]; less than zero, no body.
	ReplayBuffer int64

	// HealTimeout bounds the wait for a fresh token after a 401, and beside it
	// for the rest of the request body: health checks and circuit breakers count
	// the time in RoundTrip. Default: [DefaultHealTimeout].
	HealTimeout time.Duration

	// Logger gets what an operator may want to know. Nil discards it.
	Logger *slog.Logger

	// Replayed, if not nil, is told how each 401 that named the token ended.
	Replayed func(context.Context, ReplayResult)

	// NoRoom, if not nil, is told of each request body that could not be kept for
	// a second attempt because others take up [DefaultReplayMemory].
	NoRoom func(context.Context)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	g, ok := GrantFrom(ctx)
	if !ok {
		return t.base().RoundTrip(req)
	}
	if req.Method == http.MethodTrace || req.Method == http.MethodConnect {
		// TRACE would show the token to the browser (RFC 9110 section 9.3.8), and
		// nobody looks into a tunnel.
		closeBody(req)
		resp := plainAnswer(req, http.StatusMethodNotAllowed)
		resp.Header["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
		return resp, nil
	}
	var token string
	if g.Source != nil {
		var err error
		if token, err = g.Source.Token(ctx); err == nil && !sendable(token) {
			err = ErrTokenUnusable
		}
		if err != nil {
			return g.tokenFailed(req, err)
		}
	}

	hook := newInterim(ctx, g)
	out := g.outgoing(req, token, hook)
	if err := g.prove(out, token); err != nil {
		return g.tokenFailed(req, err)
	}
	var body *replayBody
	if req.Body != nil && req.Body != http.NoBody {
		limit := t.replayBuffer()
		if token == "" || g.OwnToken {
			limit = -1 // nothing to heal, or to heal it with
		}
		body = newReplayBody(req, limit, g.ReservedHeader)
		body.attach(out, 1)
	}
	resp, err := t.send(g, out, hook)
	switch {
	case err != nil || token == "" || g.OwnToken:
	case resp.StatusCode < http.StatusBadRequest:
		g.accepted(token)
	case resp.StatusCode == http.StatusUnauthorized:
		h := healing{Transport: t, grant: g, request: req, refused: token, body: body, hook: hook}
		out, resp = h.unauthorized(out, resp)
	}
	if body != nil {
		body.release()
		if t.NoRoom != nil && body.noRoom() {
			t.NoRoom(ctx)
		}
		if g.ResponseHeader != nil && body.unread() && (err != nil || resp.StatusCode != http.StatusSwitchingProtocols) {
			g.ResponseHeader["Connection"] = []string{"close"}
		}
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && out.Header["Upgrade"] == nil {
		_ = resp.Body.Close()
		t.log(ctx, slog.LevelWarn, "upstream switched protocols unasked")
		resp = plainAnswer(req, http.StatusBadGateway)
	}
	if resp.Header == nil {
		resp.Header = make(http.Header)
	}
	if token != "" {
		if answer := t.stepUp(g, req, resp); answer != nil {
			return answer, nil
		}
	}
	g.sanitizeResponse(resp.Header)
	if !g.CacheUpstream && resp.StatusCode != http.StatusSwitchingProtocols {
		keepPrivate(resp.Header)
	}
	return sanitizeTrailers(resp), nil
}

// outbound is a copy of a request together with the value of its Authorization
// field: one allocation for both.
type outbound struct {
	request       http.Request
	authorization [1]string
}

// outgoing returns the request as it goes onto the wire. The copy is shallow but
// for the header: [http.Request.Clone] would cut the trailer section off the map
// that is filled when the body ends. hook is its context unless nil.
func (g *Grant) outgoing(req *http.Request, token string, hook *interim) *http.Request {
	o := new(outbound)
	if hook == nil {
		o.request = *req
	} else {
		o.request = *req.WithContext(hook)
	}
	header := maps.Clone(req.Header)
	if header == nil {
		header = make(http.Header, 1)
	}
	g.sanitizeRequest(header)
	if token != "" {
		o.authorization[0] = "Bearer " + token
		header["Authorization"] = o.authorization[:]
	}
	o.request.Header = header
	return &o.request
}

// sendable reports whether a token can stand in a field value without ending it
// or looking like two words. (RFC 6749 appendix A.12 allows visible characters
// alone; the base transport refuses what is left of the others.)
func sendable(token string) bool {
	for _, c := range []byte{'\n', '\r', 0, ' '} {
		if strings.IndexByte(token, c) >= 0 {
			return false
		}
	}
	return token != ""
}

// tokenFailed answers a request that got no token.
func (g *Grant) tokenFailed(req *http.Request, err error) (*http.Response, error) {
	closeBody(req)
	if ctxErr := req.Context().Err(); ctxErr != nil {
		return nil, ctxErr // the client has gone: nobody's failure
	}
	if g.ResponseHeader != nil && req.Body != nil && req.Body != http.NoBody {
		g.ResponseHeader["Connection"] = []string{"close"}
	}
	if g.TokenError != nil {
		if resp := g.TokenError(err); resp != nil {
			resp.Request = req
			return resp, nil
		}
	}
	return nil, &TokenError{Err: err}
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

func (t *Transport) replayBuffer() int64 {
	if t.ReplayBuffer == 0 {
		return DefaultReplayBuffer
	}
	return t.ReplayBuffer
}

func (t *Transport) healTimeout() time.Duration {
	if t.HealTimeout <= 0 {
		return DefaultHealTimeout
	}
	return t.HealTimeout
}

func (t *Transport) log(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	if t.Logger != nil {
		t.Logger.LogAttrs(ctx, level, msg, attrs...)
	}
}

func (t *Transport) replayed(ctx context.Context, result ReplayResult) {
	if t.Replayed != nil {
		t.Replayed(ctx, result)
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
