// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// LoginOutcome is what became of a login that came back from the authorization
// server.
type LoginOutcome string

// The outcomes.
const (
	LoginSucceeded        LoginOutcome = "ok"
	LoginRepeated         LoginOutcome = "repeated"             // delivered again; the session that it made lives
	LoginWasInvalid       LoginOutcome = "state_invalid"        // of no login that this browser began
	LoginWasStale         LoginOutcome = "stale"                // begun too long ago, or answered already
	LoginHadBadResponse   LoginOutcome = "response_invalid"     // no answer to that login
	LoginNeedsInteraction LoginOutcome = "interaction_required" // asked not to involve the user, and could not
	LoginWasRefused       LoginOutcome = "refused"              // by the authorization server or the user
	LoginCameToNothing    LoginOutcome = "failed"               // of the tokens no session can be made
	LoginMetWithAnOutage  LoginOutcome = "unavailable"          // of the authorization server or the store
)

// LoginOutcomes gives all outcomes.
func LoginOutcomes() []LoginOutcome {
	return []LoginOutcome{
		LoginSucceeded, LoginRepeated, LoginWasInvalid, LoginWasStale, LoginHadBadResponse,
		LoginNeedsInteraction, LoginWasRefused, LoginCameToNothing, LoginMetWithAnOutage,
	}
}

// outcomeOf says of an error of FinishLogin what operators count.
func outcomeOf(err error) LoginOutcome {
	var e *LoginError
	if !errors.As(err, &e) {
		return LoginSucceeded
	}
	switch e.Kind {
	case LoginStateInvalid:
		return LoginWasInvalid
	case LoginStale:
		if e.Live != nil {
			return LoginRepeated
		}
		return LoginWasStale
	case LoginResponseInvalid:
		return LoginHadBadResponse
	case LoginRefused:
		if oauth.ClassOf(e.Err) == oauth.ClassSessionOver { // login_required and its kin
			return LoginNeedsInteraction
		}
		return LoginWasRefused
	case LoginUnavailable:
		return LoginMetWithAnOutage
	}
	return LoginCameToNothing
}
