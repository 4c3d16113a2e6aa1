// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// IDToken is a validated ID token (OpenID Connect Core section 2).
type IDToken struct {
	Issuer   string // one that [Client.AcceptsIssuer]
	Subject  string
	SID      string    // session identifier at the authorization server; "" when absent
	ACR      string    // authentication context class reference; "" when absent
	AuthTime time.Time // zero when absent
	IssuedAt time.Time
	Expiry   time.Time
	// Claims are all claims of the token. Those with the value null are left
	// out; numbers are json.Number. Do not modify.
	Claims map[string]any
}

// IDTokenCheck is what an ID token from a code exchange has to match.
type IDTokenCheck struct {
	Nonce       Secret         // required
	Issuer      string         // that the authorization response named; "": none
	AccessToken Secret         // checked against at_hash when the token has one
	MaxAge      *time.Duration // max_age that was asked for; nil: none
	ACRValues   []string       // one of these has to be the acr; nil: any
}

// RefreshedIDTokenCheck is what an ID token from a refresh has to match: the
// one of the login (OpenID Connect Core section 12.2).
type RefreshedIDTokenCheck struct {
	Issuer      string    // default: [Config].Issuer
	Subject     string    // required
	Nonce       Secret    // compared when both are known
	AuthTime    time.Time // compared, to the second, when both are known
	AccessToken Secret    // checked against at_hash when the token has one
}

// loginPatience is how long a login waits until the issuer may be asked for its
// keys again: its code is spent, so there is no second time.
const loginPatience = refetchSoon

// maxIDTokenAge is how long ago the ID token of a login may have been issued.
const maxIDTokenAge = 24 * time.Hour

// VerifyIDToken validates an ID token from a code exchange (OpenID Connect Core
// section 3.1.3.7), signature included. Errors: [ErrIDToken]; [ErrAuthentication]
// when the user did not authenticate as was asked; [ErrNonce] when all else is right; [ErrKeysUnavailable] when nothing can be said yet.
func (c *Client) VerifyIDToken(ctx context.Context, raw Secret, check IDTokenCheck) (*IDToken, error) {
	if check.Nonce == "" {
		return nil, errors.New("oauth: an ID token cannot be checked without a nonce")
	}
	now := time.Now()
	s, cl, err := c.idTokenClaims(ctx, raw, loginPatience)
	if err != nil {
		return nil, err
	}
	t, err := c.idToken(s, cl, now, check.AccessToken)
	if err == nil && check.Issuer != "" && t.Issuer != check.Issuer {
		err = mismatch("iss is not that of the authorization response")
	}
	if err == nil {
		err = check.login(t, now, c.cfg.Leeway)
	}
	if err != nil {
		return nil, invalidIDToken(err)
	}
	// The last question: whoever gave the browser this code, it is a sound one.
	if nonce, err := cl.text("nonce"); err != nil || subtle.ConstantTimeCompare([]byte(nonce), []byte(check.Nonce.Reveal())) != 1 {
		return nil, ErrNonce
	}
	return t, nil
}

// login checks what was asked of this login.
func (check *IDTokenCheck) login(t *IDToken, now time.Time, leeway time.Duration) error {
	if now.Sub(t.IssuedAt) > maxIDTokenAge {
		return errors.New("issued too long ago")
	}
	if len(check.ACRValues) > 0 && !slices.Contains(check.ACRValues, t.ACR) {
		return fmt.Errorf("%w: acr is none of those asked for", ErrAuthentication)
	}
	if check.MaxAge != nil {
		switch {
		case t.AuthTime.IsZero():
			return fmt.Errorf("%w: auth_time is missing although max_age was asked for", ErrAuthentication)
		case t.AuthTime.After(now.Add(leeway)):
			return errors.New("auth_time is in the future")
		case now.Sub(t.AuthTime) > *check.MaxAge+leeway:
			return fmt.Errorf("%w: the end user authenticated too long ago", ErrAuthentication)
		}
	}
	return nil
}

// VerifyRefreshedIDToken validates an ID token from a refresh: all checks of a
// login but nonce and age, and those of OpenID Connect Core section 12.2. Errors:
// [ErrSubjectChanged] when it is intact but names another issuer or end user than
// the login did, [ErrIDTokenMismatch] when it is not for this login for another
// reason: then the access token that came along must not be used. Else those of
// [Client.VerifyIDToken], which say nothing about the access token.
func (c *Client) VerifyRefreshedIDToken(ctx context.Context, raw Secret, check RefreshedIDTokenCheck) (*IDToken, error) {
	if check.Subject == "" {
		return nil, errors.New("oauth: a refreshed ID token cannot be checked without a subject")
	}
	s, cl, err := c.idTokenClaims(ctx, raw, 0)
	if err != nil {
		return nil, err
	}
	if check.Issuer == "" {
		check.Issuer = c.cfg.Issuer
	}
	// First of all who it speaks of: that ends the session, whatever else is wrong.
	for name, want := range map[string]string{"iss": check.Issuer, "sub": check.Subject} {
		if got, err := cl.text(name); err == nil && got != "" && got != want {
			return nil, ErrSubjectChanged
		}
	}
	t, err := c.idToken(s, cl, time.Now(), check.AccessToken)
	if err == nil {
		err = check.refreshed(t, cl)
	}
	if err != nil {
		return nil, invalidIDToken(err)
	}
	return t, nil
}

// mismatch says that an ID token is meant for something else.
func mismatch(what string) error { return fmt.Errorf("%w: %s", ErrIDTokenMismatch, what) }

func invalidIDToken(err error) error {
	if errors.Is(err, ErrIDToken) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrIDToken, err)
}

func (check *RefreshedIDTokenCheck) refreshed(t *IDToken, cl claims) error {
	nonce, err := cl.text("nonce")
	if err != nil {
		return err
	}
	if nonce != "" && check.Nonce != "" && subtle.ConstantTimeCompare([]byte(nonce), []byte(check.Nonce.Reveal())) != 1 {
		return mismatch("nonce is not that of the login")
	}
	if !t.AuthTime.IsZero() && !check.AuthTime.IsZero() && t.AuthTime.Unix() != check.AuthTime.Unix() {
		return mismatch("auth_time is not that of the login")
	}
	return nil
}

// idTokenClaims verifies the signature of an ID token and returns its claims.
func (c *Client) idTokenClaims(ctx context.Context, raw Secret, patience time.Duration) (*signed, claims, error) {
	s, err := parseJWS(raw.Reveal())
	if err != nil {
		return nil, claims{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	// An explicit type keeps other kinds of tokens out (RFC 8725 section 3.11).
	if s.typ != "" && !s.isType("jwt") {
		return nil, claims{}, fmt.Errorf("%w: typ is not that of an ID token", ErrIDToken)
	}
	if err := c.checkSigningAlg(ctx, s); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, claims{}, err
		}
		return nil, claims{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	if _, err := c.keys.verify(ctx, s, patience); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, claims{}, err
		}
		return nil, claims{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	cl, err := parseClaims(s.payload)
	if err != nil {
		return nil, claims{}, fmt.Errorf("%w: %w", ErrIDToken, err)
	}
	return s, cl, nil
}

// checkSigningAlg refuses an algorithm that the metadata does not name for ID
// tokens, and so for logout tokens. Errors may wrap [ErrKeysUnavailable].
func (c *Client) checkSigningAlg(ctx context.Context, s *signed) error {
	md, err := c.Metadata(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	return s.checkAlg(md.IDTokenSigningAlgValuesSupported)
}

// idToken checks the claims that every ID token has to have.
func (c *Client) idToken(s *signed, cl claims, now time.Time, accessToken Secret) (*IDToken, error) {
	iss, err := cl.text("iss")
	if err != nil || !c.AcceptsIssuer(iss) {
		return nil, mismatch("iss is not the issuer")
	}
	if err := c.checkTenant(cl, iss); err != nil {
		return nil, err
	}
	t := &IDToken{Issuer: iss, Claims: cl.members}
	if t.Subject, err = cl.subject(); err != nil {
		return nil, err
	}
	if err := c.checkIDTokenAudience(cl); err != nil {
		return nil, err
	}
	if cl.has("events") {
		return nil, mismatch("it is a logout token")
	}
	if t.Expiry, err = cl.date("exp"); err != nil {
		return nil, err
	}
	if t.Expiry.IsZero() || !now.Before(t.Expiry.Add(c.cfg.Leeway)) {
		return nil, errors.New("expired, or without exp")
	}
	if _, t.IssuedAt, err = cl.notYet(now, c.cfg.Leeway); err != nil {
		return nil, err
	}
	if t.IssuedAt.IsZero() {
		return nil, errors.New("iat is missing")
	}
	if t.AuthTime, err = cl.date("auth_time"); err != nil {
		return nil, err
	}
	if t.SID, err = cl.text("sid"); err != nil {
		return nil, err
	}
	if t.ACR, err = cl.text("acr"); err != nil {
		return nil, err
	}
	if cl.has("at_hash") && accessToken != "" {
		if got, err := cl.text("at_hash"); err != nil || got != tokenHash(s.alg, accessToken) {
			return nil, mismatch("at_hash does not match the access token")
		}
	}
	return t, nil
}

// checkIDTokenAudience: the client is among the audiences, all others are trusted
// ones, and azp, which several audiences demand, is the client (OpenID Connect
// Core section 3.1.3.7, 3 to 5).
func (c *Client) checkIDTokenAudience(cl claims) error {
	aud, err := cl.audience()
	if err != nil {
		return err
	}
	if !slices.Contains(aud, c.cfg.ClientID) {
		return mismatch("aud does not name the client")
	}
	others := slices.DeleteFunc(slices.Clone(aud), func(a string) bool { return a == c.cfg.ClientID })
	for _, a := range others {
		if !slices.Contains(c.cfg.Audience, a) {
			return mismatch("aud names somebody else too")
		}
	}
	azp, err := cl.text("azp")
	if err != nil || (azp != c.cfg.ClientID && (cl.has("azp") || len(others) > 0)) {
		return mismatch("azp is not the client")
	}
	return nil
}

// tokenHash is the left half of the hash that goes with the signature algorithm
// (OpenID Connect Core section 3.1.3.6).
func tokenHash(alg string, token Secret) string {
	data := []byte(token.Reveal())
	var sum []byte
	switch {
	case strings.HasSuffix(alg, "256"):
		h := sha256.Sum256(data)
		sum = h[:]
	case strings.HasSuffix(alg, "384"):
		h := sha512.Sum384(data)
		sum = h[:]
	default: // the 512 ones, and EdDSA with Ed25519
		h := sha512.Sum512(data)
		sum = h[:]
	}
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}
