// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// LoginErrorKind says what became of a login that did not succeed.
type LoginErrorKind int

// The kinds.
const (
	// LoginStateInvalid: this browser did not begin a login with that state.
	LoginStateInvalid LoginErrorKind = iota
	// LoginStale: it did, but too long ago, or it has been answered already.
	LoginStale
	// LoginResponseInvalid: it did, but what it brought back is no answer to that
	// login: a parameter is missing, malformed or doubled, it is of another
	// issuer, or the code is that of another login.
	LoginResponseInvalid
	// LoginRefused: the authorization server answered with an error; see Code.
	LoginRefused
	// LoginInsufficient: the end user has signed in, but not in the way, not as
	// lately, or not with the scope that was asked for.
	LoginInsufficient
	// LoginFailed: no session can be made of the authorization server's answers.
	LoginFailed
	// LoginUnavailable: the authorization server, or the store, is out, or this
	// instance has another key ring than the others ([KeyMismatchError]).
	LoginUnavailable
)

// LoginError is a login that did not succeed.
type LoginError struct {
	Kind      LoginErrorKind
	ReturnTo  string         // of the login; empty when it is not known
	Code      string         // the authorization server's error code (RFC 6749 section 4.1.2.1): untrusted text
	Restarted bool           // the login had been restarted already
	Params    url.Values     // LoginStale: what it asked of the user's authentication
	Silent    bool           // the login asked not to involve the user (prompt=none)
	StepUp    *StepUp        // what the login was to bring, if it was a step-up
	Live      *Session       // LoginStale: the session that the login made, when it lives
	Cookies   []*http.Cookie // to be set
	Err       error

	previous *ticket // the session that the login saw
}

func (e *LoginError) Error() string {
	what := [...]string{"login state is not authentic", "login is stale", "authorization response is not the one to this login", "authorization server refused the login", "login does not bring what was asked for", "login failed", "login is unavailable"}[e.Kind]
	if e.Err != nil {
		return what + ": " + e.Err.Error()
	}
	return what
}

func (e *LoginError) Unwrap() error { return e.Err }

// failureKind says what became of a login whose code was sent.
func failureKind(err error) LoginErrorKind {
	var u *UnavailableError
	switch {
	case errors.Is(err, oauth.ErrNonce):
		return LoginResponseInvalid
	case errors.Is(err, oauth.ErrAuthentication), errors.Is(err, errScope):
		return LoginInsufficient
	case errors.Is(err, oauth.ErrUnusable):
		return LoginFailed
	case errors.Is(err, ErrStoreUnavailable), errors.Is(err, ErrFull), errors.As(err, &u):
		return LoginUnavailable
	}
	return LoginFailed
}
