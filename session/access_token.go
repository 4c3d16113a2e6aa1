// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	// maxRounds is how often a request waits when it turned out that what it had
	// waited for was done for another upstream.
	maxRounds = 3
)

// Token gives the current access token, checked. If it has run out, or is no
// longer valid, the caller waits for a refresh, at most ten seconds. If it
// soon will, a refresh starts in the background and nobody waits.
//
// Errors: [*EndedError] and [ErrNoSession] when the session is over;
// [*UnavailableError], [ErrTokenUnavailable] and [ErrStoreUnavailable] when it
// lives but there is no token; the context's.
func (s *Session) Token(ctx context.Context) (string, error) { return s.token(ctx, s.m.aims.byDefault) }

func (s *Session) token(ctx context.Context, to aim) (string, error) {
	token, err := s.ownToken(ctx, to)
	if err == nil {
		return token, nil
	}
	next, err := s.moved(ctx, err)
	if next == nil {
		return "", err
	}
	token, err = next.token(ctx, to)
	return s.follow(next, token, err)
}

// ownToken is token, and knows of no session that this one goes on as.
func (s *Session) ownToken(ctx context.Context, to aim) (string, error) {
	until := time.Now().Add(refreshWait) // of all the waiting
	for round, before := 0, uint64(0); ; round++ {
		o, err := s.current(ctx)
		if err != nil {
			return "", err
		}
		t := o.tokens.of(to)
		if f := s.refreshOf(t); f != nil {
			if err := s.sitOut(ctx, until, f); err != nil {
				return "", err
			}
			if o, err = s.current(ctx); err != nil {
				return "", err
			}
			t = o.tokens.of(to)
		}
		valid, err := s.m.judge(ctx, t, o.tokens.key, to)
		if err != nil {
			return "", err
		}
		if valid {
			if s.m.due(o, t, to, time.Now()) {
				s.renewInBackground(to, t.gen)
			}
			return t.access.Reveal(), nil
		}
		if o.tokens.refresh == "" && !to.exchanged() {
			return "", s.unrenewable(to)
		}
		gen := t.generation()
		switch {
		case round == 1 && t.outlived(2*s.m.cfg.Client.TokenLatency(), time.Now()):
		case round > 0 && gen != before && gen != 0: // a new one, and no good
			return "", s.entry().postpone(to, unusableRetry, ErrTokenUnavailable)
		case round == maxRounds:
			return "", &UnavailableError{RetryAfter: time.Second, Err: errors.New("too much goes on with the session")}
		}
		if err := s.await(ctx, until, to, o.tokens.placed(to).generation(), TriggerExpiry); err != nil {
			return "", err
		}
		before = gen
	}
}

// refreshOf gives the refresh that a question about a token has to wait for: the
// authorization server may have revoked the token in that very moment, and what it
// says then of it says nothing of the session. Nil: there is nothing to ask, or no
// refresh under way.
func (s *Session) refreshOf(t *accessToken) *flight {
	if s.m.cfg.Validate != oauth.ValidateIntrospection || t == nil {
		return nil
	}
	now := time.Now()
	if v := t.verdict.Load(); s.m.cfg.Client.VerdictCurrent(v, now) || !t.accessExpiry.IsZero() && !now.Before(t.accessExpiry) {
		return nil
	}
	e := s.entry()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight == nil || !e.flight.asks.Load() {
		return nil
	}
	return e.flight
}

// sitOut waits for a refresh, whatever comes of it, until a moment.
func (s *Session) sitOut(ctx context.Context, until time.Time, f *flight) error {
	leave, err := s.attend()
	if err != nil {
		return err
	}
	defer leave()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-f.ready:
	case <-f.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return &UnavailableError{RetryAfter: time.Second, Err: errors.New("the refresh takes too long")}
	}
	return nil
}

// outlived reports that an access token was good when it came, and has run out
// since: it waited to be stored for longer than it lives. One whose life is not
// even as long as getting another takes never was good.
func (t *accessToken) outlived(getting time.Duration, now time.Time) bool {
	return t != nil && !t.accessExpiry.IsZero() && t.accessExpiry.Sub(t.issued) > getting && !now.Before(t.accessExpiry)
}

// unrenewable says what follows when there is no refresh token to get an access
// token with: the session is over with its default one.
func (s *Session) unrenewable(to aim) error {
	if !to.byDefault() {
		return fmt.Errorf("%w: there is no refresh token to get one with for %s", ErrTokenUnavailable, to.purpose)
	}
	s.endLater(ReasonAccessToken)
	return &EndedError{Reason: ReasonAccessToken}
}

// judge says whether an access token may be relayed now. The signature was
// checked once; the time window and the generation of the key set are compared
// every time, also after a wait for the keys. An error means that it cannot be known.
func (m *Manager) judge(ctx context.Context, t *accessToken, key *oauth.DPoPKey, to aim) (bool, error) {
	if t == nil {
		return false, nil
	}
	if !t.accessExpiry.IsZero() && !time.Now().Before(t.accessExpiry) {
		return false, nil
	}
	if m.cfg.Validate != oauth.ValidateExpiry {
		if v := t.verdict.Load(); v == nil || !m.cfg.Client.VerdictCurrent(v, time.Now()) {
			v, err := m.check(ctx, t.access, key, to.audience())
			switch {
			case errors.Is(err, oauth.ErrAccessToken):
				if !errors.Is(err, oauth.ErrAccessTokenExpired) && m.mayLog(&m.unusable) {
					m.cfg.Logger.Warn("an access token does not pass validation", "for", to.purpose.String(), "error", err)
				}
				return false, nil
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case err != nil:
				return false, outage(err)
			}
			t.verdict.Store(v)
			if m.cfg.Validate == oauth.ValidateAuto && !v.JWT && !v.Provisional() && m.opaque.CompareAndSwap(false, true) {
				m.cfg.Logger.Info("access tokens are not JWTs of the issuer: they are judged by their expiry")
			}
		}
	}
	end := t.expiry()
	return end.IsZero() || time.Now().Before(end), nil
}

// due reports that an access token should be renewed early: before it expires,
// when the one that it was exchanged for has been replaced, or when a refresh
// that may have died has to be looked after.
func (m *Manager) due(o *opened, t *accessToken, to aim, now time.Time) bool {
	if to.exchanged() {
		if subject := o.tokens.of(m.aims.byDefault); subject == nil || t.source != subject.digest() {
			return true
		}
	} else if o.tokens.refresh == "" {
		return false
	}
	if o.rec.Attempt != nil && m.cfg.Rotation == RotationGrace && !to.exchanged() {
		return true // if it died, somebody has to take over while the grace lasts
	}
	end := t.expiry()
	return !end.IsZero() && !now.Before(end.Add(-m.refreshBefore(o.rec.Key, t, end)))
}

// refreshBefore is how long before its end the access token is refreshed:
// early enough that the token endpoint, as slow as it has lately been, answers
// in time; and spread over the sessions, and over the tokens of one, so that
// those that began together do not all come back in the same moment.
func (m *Manager) refreshBefore(key Key, t *accessToken, end time.Time) time.Duration {
	life := end.Sub(t.issued)
	before := m.cfg.RefreshBefore
	if before == 0 {
		before = min(maxRefreshBefore, life/refreshShare)
		before = max(before, 2*m.cfg.Client.TokenLatency())
	}
	before = before*4/5 + time.Duration(0.4*spread(key, t.gen+binary.BigEndian.Uint64(t.purpose[:]))*float64(before))
	return min(before, life*7/10)
}

// spread is a number in [0, 1) that differs between sessions, and from one time
// to the next in the same session. Keys are digests: nobody can choose theirs.
func spread(key Key, n uint64) float64 {
	v := binary.BigEndian.Uint32(key[:]) + uint32(n)*2654435761 // by the golden ratio
	return float64(v) / (1 << 32)
}
