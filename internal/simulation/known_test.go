// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import "slices"

// Known faults of the protocol, each counted where it would break an invariant.
// They are to be taken away when the protocol is mended; -strictly does without.
const (
	// An attempt whose refresh token may be spent is cleared when the marked call
	// for it was not sent or was answered with an outage: what the mark said is
	// forgotten, and the next call does not say that it is not the first.
	forgottenMark = "the mark of an attempt is forgotten"
	// A process that learns late that its intent was stored (it did not run
	// meanwhile) makes its call although the lease is long over.
	lateIntent = "a call is made by an intent whose lease is over"
	// An attempt that died, or got no answer, is looked at only when the access
	// token is due, or has run out. Where the refresh was forced, while the token
	// was fresh, the grace is over then.
	unseenAttempt = "an attempt that died is not seen while the access token is fresh"
	// A token is judged by the time at which the question was asked, not by the one
	// after the wait for the keys that answer it.
	oldClock = "a token expires while it is judged, and passes"
	// A watch that cannot tell is closed from the start; who waits with it for
	// another's attempt then asks again and again, without a pause, as long as the
	// store answers.
	hotLoop = "a process asks the store in a circle"
	// Who ends a session by a tombstone whose write seems to fail, because its
	// answer is lost or because the browser hung up, revokes nothing; nor does who comes later and finds it.
	unrevoked = "a tombstone is found, and its tokens are not revoked"
)

// tolerate counts a known fault, unless none are to be tolerated.
func (c *checker) tolerate(fault string) bool {
	if c.strictly {
		return false
	}
	c.tolerated[fault]++
	return true
}

// forgotten says that between two calls an attempt that was marked was cleared
// without new tokens.
func forgotten(l *line, first, second *call) bool {
	return slices.ContainsFunc(l.writes, func(x *write) bool {
		return x.kind == stepAttemptOver && x.at.After(first.called) && x.at.Before(second.called) &&
			x.old.Attempt.Takeover && x.next.Attempt == nil
	})
}
