// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ValidateMode is how access tokens are validated.
type ValidateMode string

// The validation modes.
const (
	// ValidateAuto: a JWT that the issuer's keys verify is checked as one,
	// anything else is opaque.
	ValidateAuto ValidateMode = "auto"
	// ValidateJWT: a JWT access token as RFC 9068 describes it, or an error.
	ValidateJWT ValidateMode = "jwt"
	// ValidateIntrospection: what the authorization server says of the token (RFC
	// 7662), asked anew every half a minute at least.
	ValidateIntrospection ValidateMode = "introspection"
	// ValidateExpiry: every access token is opaque and never looked into.
	ValidateExpiry ValidateMode = "expiry"
)

// Verdict is the outcome of [Client.CheckAccessToken], made to be kept beside
// the token it belongs to.
type Verdict struct {
	// JWT says that the token is a JWT of the issuer that passed every check;
	// false: the token is opaque, and the times below are zero but for
	// what an introspection told.
	JWT bool
	// NotBefore is when the token begins to be valid; zero when not told.
	NotBefore time.Time
	// Expiry is when the token expires, without leeway; zero when not told,
	// which mode jwt refuses.
	Expiry time.Time
	// KeySetGeneration is the generation of the key set that was asked.
	KeySetGeneration uint64

	// certificate is the thumbprint of the client certificate that the token is bound
	// to; "" for none.
	certificate string
	// recheck is when an introspection has to be repeated; zero without one.
	recheck time.Time
	// provisional is when the question is worth asking again: the token is taken
	// as opaque because the issuer's keys could not be had. Zero: the verdict holds.
	provisional time.Time
}

// Provisional says that the verdict was made without the issuer's keys, which
// could not be had, and will not hold for long.
func (v *Verdict) Provisional() bool { return !v.provisional.IsZero() }

const (
	// autoWait bounds how long a token waits for keys that may turn out to say
	// nothing about it.
	autoWait = 2 * time.Second
	// provisionalFor is how long a verdict without keys holds.
	provisionalFor = 30 * time.Second
)

// CheckAccessToken validates an access token. In mode jwt it has to be a JWT
// access token by RFC 9068 section 4, its typ and its required claims included.
// In mode auto a token that is not a JWT, or that the issuer's keys do not
// verify, is opaque; one that they do verify, with the typ of a JWT access token,
// "JWT" or none, must not be expired, of another issuer, a logout token, or, with
// [Config].Audience, for another audience, as an ID token is. In mode introspection the
// authorization server has to say that it is active, not expired, and, where it
// says so, of this issuer, client and [Config].Audience. In mode expiry every token is opaque.
// Leeway applies to nbf and iat, never to exp.
//
// A token that was got for one resource server alone has an audience of its own:
// it takes the place of [Config].Audience where that is given, and in mode jwt.
//
// Errors: [ErrAccessToken], [ErrAccessTokenExpired], [ErrConfirmation]; in mode jwt also
// [ErrKeysUnavailable]; in mode introspection, where nothing was said of the token,
// that, [ErrUnsupported], [ErrUnusable] or an [*Error].
//
// Unless the mode is expiry, a token that is bound to something (cnf) is good only
// if that is the certificate of the client.
func (c *Client) CheckAccessToken(ctx context.Context, raw Secret, mode ValidateMode, audience ...string) (*Verdict, error) {
	return c.CheckBoundAccessToken(ctx, raw, nil, mode, audience...)
}

// CheckBoundAccessToken is [Client.CheckAccessToken] for an access token that was
// got with a key: it may be bound to that, and to no other.
func (c *Client) CheckBoundAccessToken(ctx context.Context, raw Secret, key *DPoPKey, mode ValidateMode, audience ...string) (*Verdict, error) {
	if raw == "" {
		return nil, fmt.Errorf("%w: empty", ErrAccessToken)
	}
	if len(audience) == 0 || (len(c.cfg.Audience) == 0 && mode != ValidateJWT) {
		audience = c.cfg.Audience
	}
	switch mode {
	case ValidateExpiry:
		return &Verdict{KeySetGeneration: c.keys.generation()}, nil
	case ValidateJWT:
		return c.checkJWT(ctx, raw, key, audience)
	case ValidateIntrospection:
		return c.checkIntrospected(ctx, raw, key, audience)
	case ValidateAuto:
		return c.checkAuto(ctx, raw, key, audience)
	}
	return nil, fmt.Errorf("oauth: unknown validation mode %q", mode)
}

// VerdictCurrent says whether a verdict still holds at now: inside the token's
// time window, with the key set and the client certificate that it was made with. It
// makes no call, and takes no lock unless the token is bound to that certificate.
func (c *Client) VerdictCurrent(v *Verdict, now time.Time) bool {
	if v == nil || v.KeySetGeneration != c.keys.generation() {
		return false
	}
	if !v.provisional.IsZero() && !now.Before(v.provisional) {
		return false
	}
	if v.certificate != "" && v.certificate != c.certificateThumbprint() {
		return false // that of the client has changed, and the resource server would see another
	}
	if !v.recheck.IsZero() && !now.Before(v.recheck) {
		return false
	}
	if !v.Expiry.IsZero() && !now.Before(v.Expiry) {
		return false
	}
	return !v.NotBefore.After(now.Add(c.cfg.Leeway))
}

// checkJWT is mode jwt.
func (c *Client) checkJWT(ctx context.Context, raw Secret, key *DPoPKey, audience []string) (*Verdict, error) {
	v, _, err := c.readJWT(raw, key, audience, parseClaims, func(s *signed, _ claims) (uint64, error) { return c.keys.verify(ctx, s, 0) })
	return v, err
}

// readJWT reads a JWT access token as RFC 9068 section 4 describes it. parse reads
// its claims. verify says whether the issuer signed it, and by which generation of
// keys; the claims that it gets may be anybody's.
func (c *Client) readJWT(raw Secret, key *DPoPKey, audience []string, parse func([]byte) (claims, error), verify func(*signed, claims) (uint64, error)) (*Verdict, claims, error) {
	refused := func(err error) (*Verdict, claims, error) {
		return nil, claims{}, fmt.Errorf("%w: %w", ErrAccessToken, err)
	}
	s, err := parseJWS(raw.Reveal())
	if err != nil {
		return refused(err)
	}
	// The type is what keeps ID tokens out, which the same keys sign.
	if !s.isType("at+jwt") {
		return refused(errors.New("typ is not at+jwt"))
	}
	cl, err := parse(s.payload)
	if err != nil {
		return refused(err)
	}
	generation, err := verify(s, cl)
	if err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, claims{}, err
		}
		return refused(err)
	}
	for _, name := range []string{"iss", "exp", "aud", "sub", "client_id", "iat", "jti"} {
		if !cl.has(name) {
			return refused(fmt.Errorf("%s is missing", name))
		}
	}
	if _, err := cl.subject(); err != nil {
		return refused(err)
	}
	v, err := c.accessTokenVerdict(cl, key, audience, generation)
	return v, cl, err
}

// checkAuto is mode auto.
func (c *Client) checkAuto(ctx context.Context, raw Secret, key *DPoPKey, audience []string) (*Verdict, error) {
	opaque := &Verdict{KeySetGeneration: c.keys.generation()}
	s, err := parseJWS(raw.Reveal())
	if err != nil || (s.typ != "" && !s.isType("jwt") && !s.isType("at+jwt")) {
		return opaque, nil
	}
	wait, cancel := context.WithTimeout(ctx, autoWait)
	defer cancel()
	generation, err := c.keys.verify(wait, s, 0)
	opaque.KeySetGeneration = generation
	switch {
	case err == nil:
	case errors.Is(err, errSignature):
		return opaque, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		opaque.provisional = time.Now().Add(provisionalFor)
		return opaque, nil
	}
	cl, err := parseClaims(s.payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAccessToken, err)
	}
	// Dex and authentik make access tokens out of ID tokens, nonce and at_hash included.
	// This one came from the token endpoint as an access token, and that is what it is;
	// where an audience is asked for, a true ID token does not have it.
	if !s.isType("at+jwt") && cl.has("events") {
		return nil, fmt.Errorf("%w: it is a logout token", ErrAccessToken)
	}
	return c.accessTokenVerdict(cl, key, audience, generation)
}

// accessTokenVerdict judges the claims of a JWT of the issuer's keys, or of an
// introspection answer.
func (c *Client) accessTokenVerdict(cl claims, key *DPoPKey, audience []string, generation uint64) (*Verdict, error) {
	refused := func(err error) error { return fmt.Errorf("%w: %w", ErrAccessToken, err) }
	now := time.Now()
	if iss, err := cl.text("iss"); err != nil || (cl.has("iss") && !c.issuesAccessToken(iss)) {
		return nil, refused(errors.New("iss is not the issuer"))
	}
	v := &Verdict{JWT: true, KeySetGeneration: generation}
	var err error
	if v.Expiry, err = cl.date("exp"); err != nil {
		return nil, refused(err)
	}
	if !v.Expiry.IsZero() && !now.Before(v.Expiry) {
		return nil, ErrAccessTokenExpired
	}
	if v.NotBefore, _, err = cl.notYet(now, c.cfg.Leeway); err != nil {
		return nil, refused(err)
	}
	if v.certificate, err = c.checkConfirmation(cl, key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfirmation, err)
	}
	found, err := cl.hasAudience(audience)
	if err != nil {
		return nil, refused(err)
	}
	if len(audience) > 0 && !found {
		return nil, refused(errors.New("aud is not the audience that it has to be"))
	}
	return v, nil
}
