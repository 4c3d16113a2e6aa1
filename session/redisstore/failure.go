// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-bff/caddy-bff/session"
)

var (
	errClosed          = errors.New("closed")
	errNoAnswer        = errors.New("the server did not answer in time")
	errBusy            = errors.New("too many calls are under way")
	errNotAcknowledged = errors.New("the write is not acknowledged")
	errUncertain       = errors.New("a reply was lost, and the record has changed since")
)

// unavailable makes an error one of [session.Store]'s.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, err)
}

// answers are the errors that are answers of the store's own: nothing failed.
func isAnswer(err error) bool {
	for _, answer := range []error{
		session.ErrNotFound, session.ErrConflict, session.ErrExists, session.ErrFull, session.ErrTooLarge,
		errDamaged, errNotAcknowledged, errUncertain, errBusy, errClosed,
	} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// failure is what can be done about an error of a call to the server.
type failure struct {
	// again: a second attempt, within the time that the caller has, may help.
	again bool
	// after is how long to wait before it, growing with each attempt.
	after time.Duration
	// executed: the server may have done what it was asked to.
	executed bool
}

// passing are the replies of a server that did nothing, and may be able to in a
// moment: it starts, another one takes over, or slots are on their way.
var passing = []string{
	"LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "BUSY", "MOVED", "ASK", "NOREPLICAS",
}

// assess says what to do about err. A reply that is an error means that nothing
// was changed: no script writes twice. What is no reply is a connection that
// broke, and nobody knows how far the command came.
func assess(err error) failure {
	if reply, ok := rueidis.IsRedisErr(err); ok {
		text := reply.Error()
		for _, word := range passing {
			// A script's errors stand in the middle of the text on older servers.
			if strings.HasPrefix(text, word+" ") || strings.Contains(text, ": "+word+" ") || strings.Contains(text, ": -"+word+" ") {
				return failure{again: true, after: 20 * time.Millisecond}
			}
		}
		return failure{}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return failure{executed: true}
	}
	return failure{again: true, after: 5 * time.Millisecond, executed: true}
}
