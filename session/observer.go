// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import "time"

// Observer is told of what operators count, once at each event. Its methods are
// called in the goroutine of the event, some with a lock of the session held: they
// have to return at once, must not call back into this package, and are safe for
// concurrent use. All that they are given is of closed sets.
type Observer interface {
	// LoginEnded: an authorization response came, and this became of it.
	LoginEnded(outcome LoginOutcome)
	// RefreshEnded: a refresh ended. call is how long the authorization server
	// took, a second presentation included; negative where it was not asked.
	RefreshEnded(trigger RefreshTrigger, result RefreshResult, call time.Duration)
	// SessionEnded: this process ended a session. A session that nobody comes
	// back to is forgotten by the store, and never told of.
	SessionEnded(reason Reason)
	// LimitReached: one of the documented bounds was reached.
	LimitReached(limit Limit)
}

// Limit is a bound that was reached.
type Limit string

// The limits.
const (
	LimitUserSessions    Limit = "user_sessions"    // sessions of a user; the idlest was ended
	LimitRecordSize      Limit = "record_size"      // a login was refused, or a record does without something
	LimitPendingLogins   Limit = "pending_logins"   // of a browser; the oldest made room
	LimitStore           Limit = "store"            // the store is full; a login was refused
	LimitSessionWaiters  Limit = "session_waiters"  // requests that wait for one session's tokens
	LimitWaiters         Limit = "waiters"          // requests that wait for tokens
	LimitCalls           Limit = "calls"            // to the authorization server at a time; one had to wait
	LimitCallQueue       Limit = "call_queue"       // of those that wait; one was turned away
	LimitForcedRefreshes Limit = "forced_refreshes" // by refusals of a resource server
	LimitRefreshRequests Limit = "refresh_requests" // by the application
	LimitLogouts         Limit = "logouts"          // that the authorization server asked for; one was sent away
	LimitLogLines        Limit = "log_lines"        // of a kind; one was left out
)

// Limits gives all limits.
func Limits() []Limit {
	return []Limit{
		LimitUserSessions, LimitRecordSize, LimitPendingLogins, LimitStore, LimitSessionWaiters, LimitWaiters,
		LimitCalls, LimitCallQueue, LimitForcedRefreshes, LimitRefreshRequests, LimitLogouts, LimitLogLines,
	}
}

// unobserved is the observer of a manager that has none.
type unobserved struct{}

func (unobserved) LoginEnded(LoginOutcome)                                   {}
func (unobserved) RefreshEnded(RefreshTrigger, RefreshResult, time.Duration) {}
func (unobserved) SessionEnded(Reason)                                       {}
func (unobserved) LimitReached(Limit)                                        {}
