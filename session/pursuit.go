// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// maxPursuits is how many purposes a process remembers anything of, for one
// session.
const maxPursuits = 4 * maxNarrow

// pursuit is what the process remembers of getting tokens for one purpose of one
// session: an upstream that refuses everything, or for which the authorization
// server gives nothing, must not pause the others. The mutex of the entry guards
// it.
type pursuit struct {
	retryAt  time.Time // no attempt before
	failure  error     // why
	failures int       // in a row
	granted  bool      // refused like a refresh token that is over, which it is not

	streak     int       // forced renewals in a row whose token was refused again
	forcedGen  uint64    // the gen of the token that the last forced one replaced
	forcedNext time.Time // no forced one before

	exchange        *exchange // the token exchange under way
	subjectReplaced bool      // for this purpose, and no exchange has succeeded since
}

// idle reports that forgetting it costs nothing.
func (p *pursuit) idle(now time.Time) bool {
	return p.exchange == nil && !p.subjectReplaced && p.forcedGen == 0 && !now.Before(p.retryAt) && !now.Before(p.forcedNext)
}

// pursuit gives what is remembered of an aim, to be noted there; for most there is
// nothing, see pursuits. It is called with mu held.
func (e *entry) pursuit(to aim) *pursuit {
	if p := e.pursuits[to.id]; p != nil {
		return p
	}
	if e.pursuits == nil {
		e.pursuits = make(map[purposeID]*pursuit)
	}
	if len(e.pursuits) >= maxPursuits {
		for id, p := range e.pursuits {
			if p.idle(time.Now()) {
				delete(e.pursuits, id)
			}
		}
	}
	p := new(pursuit)
	e.pursuits[to.id] = p
	return p
}

// exchanging reports a token exchange under way. It is called with mu held.
func (e *entry) exchanging() bool {
	for _, p := range e.pursuits {
		if p.exchange != nil {
			return true
		}
	}
	return false
}

// mayForce counts forced renewals by token, not by caller. counted reports that
// this caller is the first to name the token.
func (e *entry) mayForce(to aim, t *accessToken, now time.Time) (may, counted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pursuit(to)
	if e.flight != nil && e.flight.to.id == to.id || p.exchange != nil || t.gen == p.forcedGen {
		return true, false // joins what is under way, or what was allowed already
	}
	if now.Before(p.forcedNext) {
		return false, false
	}
	streak := 1
	if p.forcedGen != 0 && t.prev == p.forcedGen {
		streak = p.streak + 1
	}
	if streak > maxStreak {
		e.endStreak(p)
		p.forcedNext = now.Add(forceInterval)
		return false, false
	}
	p.streak, p.forcedGen = streak, t.gen
	e.forced.Store(true)
	return true, true
}

// endStreak is called with mu held.
func (e *entry) endStreak(p *pursuit) {
	p.streak, p.forcedGen = 0, 0
	for _, p := range e.pursuits {
		if p.forcedGen != 0 {
			return
		}
	}
	e.forced.Store(false)
}

// postpone makes a purpose pause, unless it pauses longer already. It gives what
// callers are told.
func (e *entry) postpone(to aim, pause time.Duration, why error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pursuit(to)
	if until := time.Now().Add(pause); until.After(p.retryAt) {
		p.retryAt, p.failure = until, why
	}
	return why
}

// recoveredFor forgets the failures of a purpose.
func (e *entry) recoveredFor(to aim) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pursuits[to.id]
	if p == nil {
		return
	}
	p.retryAt, p.failure, p.failures, p.granted, p.subjectReplaced = time.Time{}, nil, 0, false, false
	if p.idle(time.Now()) {
		delete(e.pursuits, to.id)
	}
}

// grant notes that an answer which refused the refresh token meant one purpose.
func (e *entry) grant(to aim) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pursuit(to).granted = true
}

// granted reports that grant was called for a purpose, which got no token since.
func (e *entry) granted(to aim) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pursuits[to.id]
	return p != nil && p.granted
}

// grantRefused reports an answer that names the refresh token (RFC 6749 section 5.2).
func grantRefused(err error) bool {
	var answer *oauth.Error
	return errors.As(err, &answer) && answer.Class == oauth.ClassSessionOver && answer.Code == "invalid_grant"
}

// ofPurpose reports an answer that says nothing of the refresh token, the client
// or the server, or nothing for sure, but only that there is no token for this
// purpose.
func ofPurpose(to aim, err error) bool {
	var answer *oauth.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case "invalid_target", "invalid_scope":
		return true
	case "invalid_grant", "login_required", "interaction_required", "consent_required", "account_selection_required":
		return !to.byDefault() // a consent that is missing for it, say
	}
	return !to.byDefault() && answer.Class == oauth.ClassRefused
}

// failedFor notes an answer that means one purpose alone, and gives what callers
// are told.
func (e *entry) failedFor(to aim, err error) error {
	pause := configurationRetry
	if oauth.ClassOf(err) != oauth.ClassConfiguration {
		pause = refusedInterval
	}
	return e.postpone(to, pause, fmt.Errorf("%w: %w", ErrTokenUnavailable, err))
}

// outFor is failedFor for an outage, which may be one of this purpose alone too.
func (e *entry) outFor(to aim, err error) error {
	e.mu.Lock()
	p := e.pursuit(to)
	p.failures++
	pause := backOff(e.key, p.failures, err)
	e.mu.Unlock()
	return e.postpone(to, pause, &UnavailableError{RetryAfter: max(pause, time.Second), Err: err})
}
