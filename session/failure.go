// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// pausing is what a caller is told while no refresh is tried.
func pausing(why error, now, until time.Time) error {
	var u *UnavailableError
	if errors.As(why, &u) {
		return &UnavailableError{RetryAfter: max(until.Sub(now), time.Second), Err: u.Err}
	}
	return why
}

// hold leaves the session in peace until its access token has run out: a zero
// end says that nobody knows when, and only a refusal will tell. Requests that
// cannot go on with the token are not held up.
func (e *entry) hold(end time.Time, why error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if end.IsZero() {
		end = now.Add(maxHold)
	}
	e.heldUntil = end
	var u *UnavailableError
	if !errors.As(why, &u) {
		why = &UnavailableError{RetryAfter: time.Second, Err: why}
	}
	e.failure = why
	return pausing(e.failure, now, end)
}

// paused reports that no refresh may be tried.
func (e *entry) paused(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return now.Before(e.retryAt)
}

// recovered forgets the failures.
func (e *entry) recovered() {
	e.mu.Lock()
	e.retryAt, e.heldUntil, e.failure, e.failures, e.refused = time.Time{}, time.Time{}, nil, 0, 0
	e.mu.Unlock()
}

// failed notes an answer to a request for the default token that was none, and gives
// what callers are told. It pauses everybody.
func (e *entry) failed(err error) error {
	class := oauth.ClassOf(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.failures++
	switch class {
	case oauth.ClassConfiguration:
		e.retryAt, e.failure = now.Add(configurationRetry), fmt.Errorf("%w: %w", ErrTokenUnavailable, err)
	case oauth.ClassRefused:
		if e.refused == 0 {
			e.refusedAt = now
		}
		e.refused++
		e.retryAt, e.failure = now.Add(refusedInterval), fmt.Errorf("%w: %w", ErrTokenUnavailable, err)
	default:
		pause := backOff(e.key, e.failures, err)
		e.retryAt, e.failure = now.Add(pause), &UnavailableError{RetryAfter: max(pause, time.Second), Err: err}
	}
	return e.failure
}

// failed notes a failure where it counts and gives what callers are told: for one
// upstream it pauses that alone, because nobody knows whether the default token
// could be had.
func (f *flight) failed(err error) error {
	switch {
	case f.to.byDefault() && !ofPurpose(f.to, err):
		return f.e.failed(err)
	case out(err):
		return f.e.outFor(f.to, err)
	}
	return f.e.failedFor(f.to, err)
}

// backOff is the pause after so many failures in a row for an outage.
func backOff(key Key, failures int, err error) time.Duration {
	pause := min(maxOutageRetry, outageRetry<<min(failures-1, 10))
	pause = pause/2 + time.Duration(spread(key, uint64(failures))*float64(pause/2))
	return max(pause, retryAfter(err))
}

// hopeless reports that answers of oauth.ClassRefused mean the session, not the
// server: twice, half a minute apart, while the server does serve others; or
// three times, where there are no others to compare with. Some servers say
// "invalid_request", or nothing at all, of a refresh token that is spent.
func (e *entry) hopeless(othersServed time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused >= 3 || e.refused == 2 && !othersServed.Before(e.refusedAt)
}
