// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"time"
)

const (
	// maxSessionWaiters is how many requests wait for the tokens of one session,
	// and maxWaiters for those of all sessions of a store, in this process. More
	// are told to come back after waitersRetry.
	maxSessionWaiters = 1000
	maxWaiters        = 10_000
	waitersRetry      = 2 * time.Second
)

// errTooManyWait: a bound of waiting requests is reached.
var errTooManyWait = errors.New("too many requests wait for tokens already")

// attend counts a request that waits for tokens, until leave is called. An exchange
// that waits for its subject token is none: those that wait for it are counted.
func (s *Session) attend() (leave func(), err error) {
	if s.own {
		return func() {}, nil
	}
	e, all := s.entry(), &s.m.cfg.Backend.waiters
	leave = func() {
		e.waiters.Add(-1)
		all.Add(-1)
	}
	limit := Limit("")
	if e.waiters.Add(1) > maxSessionWaiters {
		limit = LimitSessionWaiters
	}
	if all.Add(1) > maxWaiters && limit == "" {
		limit = LimitWaiters
	}
	if limit == "" {
		return leave, nil
	}
	leave()
	s.m.cfg.Observer.LimitReached(limit)
	return nil, &UnavailableError{RetryAfter: waitersRetry, Err: errTooManyWait}
}
