// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// maxRefreshBefore and refreshShare are the default of Config.RefreshBefore.
	maxRefreshBefore = time.Minute
	refreshShare     = 5
	// unusableRetry is how long a session waits after a refresh that brought a
	// token which does not pass validation.
	unusableRetry = 10 * time.Second
)

// Token gives the current access token, checked. If it has run out, or is no
// longer valid, the caller waits for a refresh, at most ten seconds. If it
// soon will, a refresh starts in the background and nobody waits.
//
// Errors: [*EndedError] and [ErrNoSession] when the session is over;
// [*UnavailableError], [ErrTokenUnavailable] and [ErrStoreUnavailable] when it
// lives but there is no token; the context's.
func (s *Session) Token(ctx context.Context) (string, error) {
	for refreshed := false; ; refreshed = true {
		o, err := s.current(ctx)
		if err != nil {
			return "", err
		}
		valid, err := s.m.judge(ctx, o.tokens, time.Now())
		if err != nil {
			return "", err
		}
		if valid {
			if s.m.due(o, time.Now()) {
				s.refreshInBackground(o.rec.Gen)
			}
			return o.tokens.access.Reveal(), nil
		}
		if o.tokens.refresh == "" {
			s.endLater(ReasonAccessToken)
			return "", &EndedError{Reason: ReasonAccessToken}
		}
		if refreshed {
			s.entry().postpone(unusableRetry, ErrTokenUnavailable)
			return "", ErrTokenUnavailable
		}
		if err := s.await(ctx, o.rec.Gen, triggerExpiry); err != nil {
			return "", err
		}
	}
}

// expiry is when the access token expires: what the authorization server said
// when it issued it, or what the token itself says, whichever is sooner. Zero
// when nobody said.
func (t *tokens) expiry() time.Time {
	end := t.accessExpiry
	if v := t.verdict.Load(); v != nil && !v.Expiry.IsZero() && (end.IsZero() || v.Expiry.Before(end)) {
		end = v.Expiry
	}
	return end
}

// judge says whether the access token may be relayed now. The signature was
// checked once; the time window and the generation of the key set are compared
// every time. An error means that it cannot be known.
func (m *Manager) judge(ctx context.Context, t *tokens, now time.Time) (bool, error) {
	if !t.accessExpiry.IsZero() && !now.Before(t.accessExpiry) {
		return false, nil
	}
	if m.cfg.Validate != oauth.ValidateExpiry {
		if v := t.verdict.Load(); v == nil || !m.cfg.Client.VerdictCurrent(v, now) {
			v, err := m.cfg.Client.CheckAccessToken(ctx, t.access, m.cfg.Validate)
			switch {
			case errors.Is(err, oauth.ErrAccessToken):
				return false, nil
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case err != nil:
				return false, outage(err)
			}
			t.verdict.Store(v)
			if !v.JWT && !v.Provisional() && m.opaque.CompareAndSwap(false, true) {
				m.cfg.Logger.Info("access tokens are not JWTs of the issuer: they are judged by their expiry")
			}
		}
	}
	end := t.expiry()
	return end.IsZero() || now.Before(end), nil
}

// due reports that the access token should be refreshed early.
func (m *Manager) due(o *opened, now time.Time) bool {
	end := o.tokens.expiry()
	if end.IsZero() || o.tokens.refresh == "" {
		return false
	}
	return !now.Before(end.Add(-m.refreshBefore(o, end)))
}

// refreshBefore is how long before its end the access token is refreshed:
// early enough that the token endpoint, as slow as it has lately been, answers
// in time; and spread over the sessions, so that those that began together do
// not all come back in the same moment.
func (m *Manager) refreshBefore(o *opened, end time.Time) time.Duration {
	life := end.Sub(o.tokens.issued)
	before := m.cfg.RefreshBefore
	if before == 0 {
		before = min(maxRefreshBefore, life/refreshShare)
		before = max(before, 2*m.cfg.Client.TokenLatency())
	}
	before = before*4/5 + time.Duration(0.4*spread(o.rec.Key, o.rec.Gen)*float64(before))
	return min(before, life*7/10)
}

// spread is a number in [0, 1) that differs between sessions, and from one time
// to the next in the same session. Keys are digests: nobody can choose theirs.
func spread(key Key, n uint64) float64 {
	v := binary.BigEndian.Uint32(key[:]) + uint32(n)*2654435761 // by the golden ratio
	return float64(v) / (1 << 32)
}
