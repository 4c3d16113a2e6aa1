// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"fmt"
	"time"
)

// Answers that a caller tells apart with [errors.Is] and [errors.As].
var (
	// ErrNoSession: the request carries no cookie of ours that opens a session.
	ErrNoSession = errors.New("no session")
	// ErrTokenUnavailable: the session lives, but there is no access token for
	// it, and waiting does not help: the authorization server refused this
	// client or its answer cannot be used. Nobody is logged out for it.
	ErrTokenUnavailable = errors.New("access token is unavailable")
	// ErrLoginTooLarge: what a login has to remember, its return URL above all, does
	// not fit into a cookie.
	ErrLoginTooLarge = errors.New("login is too large for a cookie")
)

// EndedError says that the request's cookie names a session that is over.
type EndedError struct {
	Reason Reason

	pointer *pointer // where it goes on, for a while; nil: nowhere
}

func (e *EndedError) Error() string { return "session has ended: " + string(e.Reason) }

// KeyMismatchError says that this instance takes no logins, because its key ring
// is not that of the other instances that share the store: they could not open
// what it seals. It holds no secret: the id of a key tells nothing about it.
type KeyMismatchError struct {
	// Place is the entry of the store that has the ids of the others' keys.
	Place string
	// There are the ids in it, Here those of this instance.
	There, Here []string
}

func (e *KeyMismatchError) Error() string {
	return fmt.Sprintf("the key ring %q has no key of %s, which has %q", e.Here, e.Place, e.There)
}

// UnavailableError says that the authorization server cannot be had at the
// moment, or that its answer is of no use (then it wraps [oauth.ErrUnusable]).
// The session is kept.
type UnavailableError struct {
	// RetryAfter is when it makes sense to ask again, from now; at least 1 s.
	RetryAfter time.Duration
	Err        error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("authorization server is unavailable: %v", e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// outage is what callers are told of an authorization server that could not do
// what it was asked: to come back when it says (at most after the minute that
// oauth allows it), or else in a second.
func outage(err error) *UnavailableError {
	return &UnavailableError{RetryAfter: max(time.Second, retryAfter(err)), Err: err}
}

// RateLimitedError says that the caller asks too often.
type RateLimitedError struct {
	// RetryAfter is when the next call is taken, from now; at least 1 s.
	RetryAfter time.Duration
}

func (e *RateLimitedError) Error() string { return "rate limited" }

// unavailable makes an error of a store one of this package's: what is not an
// answer of the [Store] contract is ErrStoreUnavailable.
func unavailable(err error) error {
	if err == nil || errors.Is(err, ErrStoreUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
}
