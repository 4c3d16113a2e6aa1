// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	maxIntrospection = 32 << 10
	// activeAge is how long an answer counts that a token is active, unless the
	// token expires before: what the authorization server revokes is found out
	// within that time.
	activeAge = 30 * time.Second
	// inactiveAge is how long the answer counts that it is not.
	inactiveAge = 10 * time.Second
	// introspectionRetry is how long a token that nothing could be learned about
	// is not asked about again.
	introspectionRetry = time.Second
	// maxIntrospections bounds how many answers of each kind are kept.
	maxIntrospections = 2048
	// maxUnasked bounds the calls for tokens that anybody may have sent.
	maxUnasked = 16
)

// introspectionAccept asks for a signed answer (RFC 9701 section 4) where the
// metadata says that there are such.
const introspectionAccept = "application/token-introspection+jwt, application/json;q=0.5"

var (
	errInactive = errors.New("it is not active")
	errBusy     = errors.New("too many unknown tokens are being asked about")
)

// introspection is what the authorization server said of a token; immutable.
type introspection struct {
	claims claims    // nil object: the token is not active
	err    error     // nothing was said
	until  time.Time // when it has to be asked again
}

// introspections keeps answers by the digest of the token, and the calls under
// way, one for each token. Tokens that are not active have room of their own, so
// that whoever makes them up drives out nothing else.
type introspections struct {
	mu       sync.Mutex
	active   map[[sha256.Size]byte]*introspection
	inactive map[[sha256.Size]byte]*introspection
	calls    map[[sha256.Size]byte]*introspectionCall
	unasked  int // calls for tokens that anybody may have sent
}

// introspectionCall is a call under way.
type introspectionCall struct {
	done   chan struct{} // closed at the end; then answer is there
	answer *introspection
}

// known gives an answer that still counts; the lock is held.
func (in *introspections) known(key [sha256.Size]byte, now time.Time) *introspection {
	for _, kept := range []map[[sha256.Size]byte]*introspection{in.active, in.inactive} {
		if a := kept[key]; a != nil && now.Before(a.until) {
			return a
		}
	}
	return nil
}

// keep keeps an answer, in place of another one if there is no room; the lock is
// held.
func (in *introspections) keep(key [sha256.Size]byte, a *introspection) {
	if in.active == nil {
		in.active, in.inactive = map[[sha256.Size]byte]*introspection{}, map[[sha256.Size]byte]*introspection{}
	}
	delete(in.active, key)
	delete(in.inactive, key)
	to := in.inactive
	if a.claims.object != nil {
		to = in.active
	}
	if len(to) >= maxIntrospections {
		for other := range to {
			delete(to, other)
			break
		}
	}
	to[key] = a
}

// introspect says what the authorization server thinks of a token, by an answer
// that it gave a short while ago or by a new one. The call is shared by all who
// ask, and goes on when they leave. unasked: the token is one that anybody may
// have sent.
func (c *Client) introspect(ctx context.Context, raw Secret, unasked bool) (*introspection, error) {
	key := sha256.Sum256([]byte(raw.Reveal()))
	in := &c.introspections
	in.mu.Lock()
	if a := in.known(key, time.Now()); a != nil {
		in.mu.Unlock()
		return a, a.err
	}
	call := in.calls[key]
	if call == nil {
		if unasked && in.unasked >= maxUnasked {
			in.mu.Unlock()
			return nil, &Error{Class: ClassNotSent, RetryAfter: time.Second, cause: errBusy}
		}
		if in.calls == nil {
			in.calls = map[[sha256.Size]byte]*introspectionCall{}
		}
		call = &introspectionCall{done: make(chan struct{})}
		in.calls[key] = call
		if unasked {
			in.unasked++
		}
		go c.introspectNow(raw, key, unasked, call)
	}
	in.mu.Unlock()
	select {
	case <-call.done:
		return call.answer, call.answer.err
	case <-ctx.Done():
		return nil, notSent(ctx.Err())
	}
}

// introspectNow makes the call, for all who wait.
func (c *Client) introspectNow(raw Secret, key [sha256.Size]byte, unasked bool, call *introspectionCall) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.Timeout)
	defer cancel()
	call.answer = c.callIntrospection(ctx, raw)
	in := &c.introspections
	in.mu.Lock()
	defer in.mu.Unlock()
	in.keep(key, call.answer)
	delete(in.calls, key)
	if unasked {
		in.unasked--
	}
	close(call.done)
}

// callIntrospection asks the introspection endpoint (RFC 7662 section 2).
func (c *Client) callIntrospection(ctx context.Context, raw Secret) *introspection {
	failed := func(err error) *introspection {
		return &introspection{err: err, until: time.Now().Add(introspectionRetry)}
	}
	md, err := c.Metadata(ctx)
	if err != nil {
		return failed(notSent(err))
	}
	if md.IntrospectionEndpoint == "" {
		return failed(fmt.Errorf("introspection: %w", ErrUnsupported))
	}
	accept := acceptJSON
	if len(md.IntrospectionSigningAlgValuesSupported) > 0 {
		accept = introspectionAccept
	}
	form := url.Values{"token": {raw.Reveal()}, "token_type_hint": {"access_token"}}
	a, err := c.postFor(ctx, md.IntrospectionEndpoint, form, maxIntrospection, accept)
	if err != nil {
		return failed(err)
	}
	if a.status != http.StatusOK {
		return failed(answerError(a))
	}
	cl, err := c.readIntrospection(ctx, a)
	if err != nil {
		if !errors.Is(err, ErrKeysUnavailable) {
			err = fmt.Errorf("%w: introspection: %w", ErrUnusable, err)
		}
		return failed(err)
	}
	active, ok := cl.members["active"].(bool)
	switch {
	case !ok:
		return failed(fmt.Errorf("%w: introspection: active is missing, or neither true nor false", ErrUnusable))
	case !active:
		return &introspection{until: a.sent.Add(inactiveAge)}
	}
	out := &introspection{claims: cl, until: a.sent.Add(activeAge)}
	expiry, err := cl.date("exp")
	if err != nil {
		return failed(fmt.Errorf("%w: introspection: %w", ErrUnusable, err))
	}
	if !expiry.IsZero() && expiry.Before(out.until) {
		out.until = expiry
	}
	return out
}

// readIntrospection reads an answer of the introspection endpoint: a JSON object,
// or a JWT of the issuer for this client with such an object (RFC 9701 section 5).
func (c *Client) readIntrospection(ctx context.Context, a *answer) (claims, error) {
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if mediaType == "application/json" {
		return parseClaims(a.body)
	}
	if mediaType != "application/token-introspection+jwt" {
		return claims{}, errors.New("neither JSON nor a signed answer")
	}
	s, err := parseJWS(string(a.body))
	if err != nil {
		return claims{}, err
	}
	// The type keeps out everything else that the issuer signs for this client.
	if !s.isType("token-introspection+jwt") {
		return claims{}, errors.New("typ is not token-introspection+jwt")
	}
	md, err := c.Metadata(ctx)
	if err == nil {
		err = s.checkAlg(md.IntrospectionSigningAlgValuesSupported)
	}
	if err != nil {
		return claims{}, err
	}
	if _, err := c.keys.verify(ctx, s, 0); err != nil {
		return claims{}, err
	}
	outer, err := parseClaims(s.payload)
	if err != nil {
		return claims{}, err
	}
	if iss, err := outer.text("iss"); err != nil || !c.AcceptsIssuer(iss) {
		return claims{}, errors.New("iss is not the issuer")
	}
	if found, err := outer.hasAudience([]string{c.cfg.ClientID}); err != nil || !found {
		return claims{}, errors.New("aud is not the client")
	}
	if _, issued, err := outer.notYet(time.Now(), c.cfg.Leeway); err != nil || issued.IsZero() {
		return claims{}, errors.New("iat is missing, malformed or in the future")
	}
	inner, ok := outer.members["token_introspection"].(map[string]any)
	if !ok {
		return claims{}, errors.New("token_introspection is missing, or no object")
	}
	members := make(map[string]any, len(inner))
	for name, v := range inner {
		if v != nil {
			members[name] = v
		}
	}
	return claims{&object{members: members}}, nil
}

// checkIntrospected is mode introspection: the authorization server says that the
// token is active, and what it says of it fits.
func (c *Client) checkIntrospected(ctx context.Context, raw Secret, key *DPoPKey, audience []string) (*Verdict, error) {
	a, err := c.introspect(ctx, raw, false)
	if err != nil {
		return nil, err
	}
	v, err := c.introspectionVerdict(a, key, audience)
	if err != nil {
		return nil, err
	}
	// A session's token was issued to this client.
	if id, err := a.claims.text("client_id"); err != nil || id != c.cfg.ClientID && a.claims.has("client_id") {
		return nil, fmt.Errorf("%w: client_id is another", ErrAccessToken)
	}
	return v, nil
}

// introspectionVerdict judges what was said of an active token.
func (c *Client) introspectionVerdict(a *introspection, key *DPoPKey, audience []string) (*Verdict, error) {
	if a.claims.object == nil {
		return nil, fmt.Errorf("%w: %w", ErrAccessToken, errInactive)
	}
	v, err := c.accessTokenVerdict(a.claims, key, audience, c.keys.generation())
	if err != nil {
		return nil, err
	}
	v.JWT, v.recheck = false, a.until
	return v, nil
}
