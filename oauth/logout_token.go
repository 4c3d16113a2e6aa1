// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// LogoutToken is a validated logout token (OpenID Connect Back-Channel Logout 1.0
// section 2.4).
type LogoutToken struct {
	Issuer   string // one that [Client.AcceptsIssuer]
	Subject  string // "" when absent, then there is a SID
	SID      string // session identifier at the authorization server; "" when absent
	ID       string // jti, never empty
	IssuedAt time.Time
	// Until is from when on the token is refused for its age: whoever remembers its
	// ID for so long takes it once.
	Until time.Time
}

const (
	// MaxLogoutToken bounds a logout token, in bytes.
	MaxLogoutToken = 16 << 10

	// maxLogoutTokenAge is how long ago a logout token may have been issued. The
	// specification recommends an expiry of at most two minutes; some servers try
	// again for somewhat longer.
	maxLogoutTokenAge = 5 * time.Minute

	// logoutEvent is the member of events that makes a JWT a logout token.
	logoutEvent = "http://schemas.openid.net/event/backchannel-logout"
)

// VerifyLogoutToken validates a logout token (OpenID Connect Back-Channel Logout
// section 2.6), signature included; whether its ID came before is the caller's to
// know. typ has to be logout+jwt where a token has one that says anything; JWT and
// none are taken, because many servers send them. No ID token passes, it has no
// events, and no access token.
//
// Anybody may call the endpoint that takes these, so everything that can be seen
// without a key is looked at first, and keys are asked for seldom. Errors:
// [ErrLogoutToken]; [ErrKeysUnavailable] when nothing can be said at the moment.
func (c *Client) VerifyLogoutToken(ctx context.Context, raw Secret) (*LogoutToken, error) {
	if len(raw.Reveal()) > MaxLogoutToken {
		return nil, fmt.Errorf("%w: too long", ErrLogoutToken)
	}
	s, err := parseJWS(raw.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	// RFC 8725 section 3.11.
	if s.typ != "" && !s.isType("logout+jwt") && !s.isType("jwt") {
		return nil, fmt.Errorf("%w: typ is not logout+jwt", ErrLogoutToken)
	}
	cl, err := parseForeignClaims(s.payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	t, err := c.logoutToken(s, cl, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	if err := c.checkSigningAlg(ctx, s); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	if _, err := c.keys.verifyUnasked(ctx, s, t.IssuedAt); err != nil {
		if errors.Is(err, ErrKeysUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrLogoutToken, err)
	}
	return t, nil
}

// logoutToken checks the claims, which may still be anybody's.
func (c *Client) logoutToken(s *signed, cl claims, now time.Time) (*LogoutToken, error) {
	iss, err := cl.text("iss")
	if err != nil || !c.AcceptsIssuer(iss) {
		return nil, errors.New("iss is not the issuer")
	}
	if err := c.checkIDTokenAudience(cl); err != nil {
		return nil, errors.New("aud is not the client, or names somebody else too")
	}
	if err := checkLogoutEvent(s, cl); err != nil {
		return nil, err
	}
	t := &LogoutToken{Issuer: iss}
	if t.ID, err = cl.text("jti"); err != nil || t.ID == "" {
		return nil, errors.New("jti is missing or malformed")
	}
	if t.SID, err = cl.text("sid"); err != nil || t.SID == "" && cl.has("sid") {
		return nil, errors.New("sid is malformed")
	}
	if cl.has("sub") {
		if t.Subject, err = cl.subject(); err != nil {
			return nil, err
		}
	}
	if t.Subject == "" && t.SID == "" {
		return nil, errors.New("neither sub nor sid")
	}
	return t, c.checkLogoutTime(t, cl, now)
}

// checkLogoutEvent tells logout tokens from all others.
func checkLogoutEvent(s *signed, cl claims) error {
	events, ok := cl.members["events"].(map[string]any)
	if !ok {
		return errors.New("events is missing, or no object")
	}
	if _, ok := events[logoutEvent].(map[string]any); !ok {
		return errors.New("events has no logout event, or one that is no object")
	}
	// Prohibited, whatever its value is: null, which claims leave out, as well.
	var all map[string]json.RawMessage
	if err := json.Unmarshal(s.payload, &all); err != nil {
		return errNotObject
	}
	if _, ok := all["nonce"]; ok {
		return errors.New("nonce is there, as in an ID token")
	}
	return nil
}

func (c *Client) checkLogoutTime(t *LogoutToken, cl claims, now time.Time) error {
	expiry, err := cl.date("exp")
	switch {
	case err != nil:
		return err
	case expiry.IsZero():
		return errors.New("exp is missing")
	}
	if _, t.IssuedAt, err = cl.notYet(now, c.cfg.Leeway); err != nil {
		return err
	}
	if t.IssuedAt.IsZero() {
		return errors.New("iat is missing")
	}
	t.Until = t.IssuedAt.Add(maxLogoutTokenAge)
	if expiry.Before(t.Until) {
		t.Until = expiry
	}
	t.Until = t.Until.Add(c.cfg.Leeway)
	if !now.Before(t.Until) {
		return errors.New("expired, or issued too long ago")
	}
	return nil
}
