// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// RefreshTrigger says why a refresh began.
type RefreshTrigger string

// The triggers.
const (
	TriggerEarly     RefreshTrigger = "early"     // some time before the access token runs out; nobody waits
	TriggerExpiry    RefreshTrigger = "expiry"    // it has run out, or there is none yet
	TriggerChallenge RefreshTrigger = "challenge" // a resource server refused it
	TriggerRequest   RefreshTrigger = "request"   // the application asked
)

// RefreshTriggers gives all triggers.
func RefreshTriggers() []RefreshTrigger {
	return []RefreshTrigger{TriggerEarly, TriggerExpiry, TriggerChallenge, TriggerRequest}
}

// RefreshResult says how a refresh ended.
type RefreshResult string

// The results. In the first group there are new tokens.
const (
	RefreshOK RefreshResult = "ok"
	// RefreshRecoveredTakeover: by taking over an attempt whose owner died, or
	// stood still for a lease.
	RefreshRecoveredTakeover RefreshResult = "recovered_takeover"
	// RefreshRecoveredUnanswered: after a presentation of the refresh token that
	// got no answer.
	RefreshRecoveredUnanswered RefreshResult = "recovered_unanswered"
	// RefreshElsewhere: another instance got them; this one has not asked.
	RefreshElsewhere RefreshResult = "elsewhere"
	// RefreshSuperseded: another instance got them while this one asked as well,
	// and what this one was answered is let go.
	RefreshSuperseded RefreshResult = "superseded"

	// In this group the session ended, or had ended.

	// RefreshSessionOver: the authorization server said that the refresh token is
	// no longer valid, and nothing here could have spent it.
	RefreshSessionOver RefreshResult = "session_over"
	// RefreshLostTakeover: it said so to an attempt that took over another: its
	// owner seems to have spent the refresh token, and died before the commit.
	RefreshLostTakeover RefreshResult = "lost_takeover"
	// RefreshLostUnanswered: it said so after a presentation that got no answer.
	RefreshLostUnanswered RefreshResult = "lost_unanswered"
	// RefreshUnusable: the answer is not for this session, or cannot be stored
	// whatever is left out.
	RefreshUnusable RefreshResult = "unusable"
	// RefreshNotStored: the store took the new tokens no more before the session
	// would have ended anyway.
	RefreshNotStored RefreshResult = "not_stored"
	// RefreshSessionEnded: somebody ended it meanwhile; new tokens are revoked.
	RefreshSessionEnded RefreshResult = "ended"

	// In this group the session goes on without new tokens.

	// RefreshPurpose: there is no token for this one upstream.
	RefreshPurpose RefreshResult = "purpose"
	// These are the classes of oauth: the client was refused, the request was
	// refused, the server is out, it did not answer, it could not be reached.
	RefreshConfiguration RefreshResult = "configuration"
	RefreshRefused       RefreshResult = "refused"
	RefreshOutage        RefreshResult = "outage"
	RefreshUnanswered    RefreshResult = "unanswered"
	RefreshNotSent       RefreshResult = "not_sent"
	// RefreshHeld: the refresh token may be spent, and is not presented before
	// there is nothing left to lose.
	RefreshHeld RefreshResult = "held"
	// RefreshPostponed: the authorization server was not asked: it is left in
	// peace, too many want to, or another instance is at it and does not end.
	RefreshPostponed RefreshResult = "postponed"
	// RefreshStore: the store or the key ring failed before anything was presented.
	RefreshStore RefreshResult = "store"
	// RefreshPanicked: a mistake of this program.
	RefreshPanicked RefreshResult = "panicked"
)

// RefreshResults gives all results.
func RefreshResults() []RefreshResult {
	return []RefreshResult{
		RefreshOK, RefreshRecoveredTakeover, RefreshRecoveredUnanswered, RefreshElsewhere, RefreshSuperseded,
		RefreshSessionOver, RefreshLostTakeover, RefreshLostUnanswered, RefreshUnusable, RefreshNotStored, RefreshSessionEnded,
		RefreshPurpose, RefreshConfiguration, RefreshRefused, RefreshOutage, RefreshUnanswered, RefreshNotSent,
		RefreshHeld, RefreshPostponed, RefreshStore, RefreshPanicked,
	}
}

// resultOf is what an error answer means where it ends no session.
var resultOf = map[oauth.Class]RefreshResult{
	oauth.ClassOutage:        RefreshOutage,
	oauth.ClassSessionOver:   RefreshSessionOver,
	oauth.ClassConfiguration: RefreshConfiguration,
	oauth.ClassRefused:       RefreshRefused,
	oauth.ClassAmbiguous:     RefreshUnanswered,
	oauth.ClassNotSent:       RefreshNotSent,
}

// ended says how the flight ended. What was not noted on the way follows from the
// error, and then the authorization server was not asked, or gave nothing.
func (f *flight) ended(err error) RefreshResult {
	var u *UnavailableError
	switch {
	case f.result != "":
		return f.result
	case err == nil:
		return RefreshElsewhere
	case over(err):
		return RefreshSessionEnded
	case errors.Is(err, errUnanswered):
		return RefreshHeld
	case f.late, errors.As(err, &u):
		return RefreshPostponed
	}
	return RefreshStore
}

// brought is the result where there are new tokens.
func (f *flight) brought() RefreshResult {
	switch {
	case f.superseded:
		return RefreshSuperseded
	case f.doubtful && f.silent:
		return RefreshRecoveredUnanswered
	case f.doubtful:
		return RefreshRecoveredTakeover
	}
	return RefreshOK
}

// lost is the result where the authorization server takes the refresh token no
// more. Where it does not rotate them, no presentation has spent it.
func (f *flight) lost() RefreshResult {
	switch {
	case !f.doubtful || f.m.cfg.Rotation == RotationNone:
		return RefreshSessionOver
	case f.silent:
		return RefreshLostUnanswered
	}
	return RefreshLostTakeover
}

// same reports that two sets of tokens came of one answer with a token for an
// aim: a commit whose acknowledgement was lost meets its own.
func (t *tokens) same(other *tokens, to aim) bool {
	a, b := t.placed(to), other.placed(to)
	return t.refresh == other.refresh && (a == b || a != nil && b != nil && a.access == b.access)
}
