// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// BearerToken is an access token that somebody else presents (RFC 6750), judged.
// Treat it as read-only: it is shared.
type BearerToken struct {
	// Subject is its sub claim, "" when an introspection told none.
	Subject string
	// Scope is its scope.
	Scope []string
	// Claims are those of the JWT, or what the introspection told.
	Claims map[string]any

	verdict *Verdict
}

// maxBearers bounds how many JWTs are remembered as verified.
const maxBearers = 2048

// bearers remembers JWTs that passed, by the digest of token and audience.
type bearers struct {
	mu sync.Mutex
	m  map[[sha256.Size]byte]*BearerToken
}

// CheckBearer judges an access token that this client did not ask for: like
// [Client.CheckAccessToken] in the modes jwt (for one of the audiences given, or
// those of [Config].Audience; there has to be one) and introspection, there are no
// others. It may be of any client of the issuer. A token that is bound to a key or
// certificate (cnf) is refused, as it does not come with a proof of that (RFC 8705
// section 3, RFC 9449 section 7.1); and of an introspected one it must be told
// that it is of the type Bearer, which keeps refresh tokens out.
//
// Errors: as there. Whoever makes up tokens costs a session nothing: few of them
// are asked about at a time, and an unknown key has keys fetched once a minute.
func (c *Client) CheckBearer(ctx context.Context, raw Secret, mode ValidateMode, audience ...string) (*BearerToken, error) {
	if len(audience) == 0 {
		audience = c.cfg.Audience
	}
	switch {
	case raw == "" || len(raw) > maxToken:
		return nil, fmt.Errorf("%w: empty, or too long", ErrAccessToken)
	case mode == ValidateIntrospection:
		return c.introspectedBearer(ctx, raw, audience)
	case mode == ValidateJWT && len(audience) > 0:
		return c.jwtBearer(ctx, raw, audience)
	}
	return nil, fmt.Errorf("oauth: validation mode %q does not do for the tokens of others", mode)
}

func (c *Client) jwtBearer(ctx context.Context, raw Secret, audience []string) (*BearerToken, error) {
	key := sha256.Sum256([]byte(strings.Join(append([]string{raw.Reveal()}, audience...), "\x00")))
	c.bearers.mu.Lock()
	known := c.bearers.m[key]
	c.bearers.mu.Unlock()
	if known != nil && c.VerdictCurrent(known.verdict, time.Now()) {
		return known, nil
	}
	v, cl, err := c.readJWT(raw, nil, audience, parseForeignClaims, func(s *signed, cl claims) (uint64, error) {
		issued, err := cl.date("iat")
		if err != nil {
			return 0, err
		}
		return c.keys.verifyUnasked(ctx, s, issued)
	})
	if err != nil {
		return nil, err
	}
	b, err := newBearerToken(v, cl)
	if err != nil {
		return nil, err
	}
	c.bearers.mu.Lock()
	defer c.bearers.mu.Unlock()
	if c.bearers.m == nil {
		c.bearers.m = map[[sha256.Size]byte]*BearerToken{}
	}
	if len(c.bearers.m) >= maxBearers {
		for other := range c.bearers.m {
			delete(c.bearers.m, other)
			break
		}
	}
	c.bearers.m[key] = b
	return b, nil
}

func (c *Client) introspectedBearer(ctx context.Context, raw Secret, audience []string) (*BearerToken, error) {
	a, err := c.introspect(ctx, raw, true)
	if err != nil {
		return nil, err
	}
	v, err := c.introspectionVerdict(a, nil, audience)
	if err != nil {
		return nil, err
	}
	// Refresh tokens can be introspected as well (RFC 7662 section 2.1), and must
	// not get to a resource server.
	if typ, err := a.claims.text("token_type"); err != nil || !strings.EqualFold(typ, "Bearer") {
		return nil, fmt.Errorf("%w: token_type is not Bearer", ErrAccessToken)
	}
	for _, name := range []string{"token_use", "typ"} {
		if use, _ := a.claims.members[name].(string); strings.Contains(strings.ToLower(use), "refresh") || strings.EqualFold(use, "offline") || strings.EqualFold(use, "id") {
			return nil, fmt.Errorf("%w: %s says that it is no access token", ErrAccessToken, name)
		}
	}
	return newBearerToken(v, a.claims)
}

func newBearerToken(v *Verdict, cl claims) (*BearerToken, error) {
	refused := func(err error) (*BearerToken, error) {
		return nil, fmt.Errorf("%w: %w", ErrAccessToken, err)
	}
	if cl.has("cnf") {
		return refused(errors.New("it is bound to a key that was not shown"))
	}
	b := &BearerToken{Claims: cl.members, verdict: v}
	if cl.has("sub") {
		var err error
		if b.Subject, err = cl.subject(); err != nil {
			return refused(err)
		}
	}
	scope, err := cl.text("scope")
	if err != nil {
		return refused(err)
	}
	b.Scope = strings.Fields(scope)
	return b, nil
}
