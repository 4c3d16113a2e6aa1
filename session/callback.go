// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// callbackLimit bounds what a callback does once the code is about to be sent:
// it goes on if the browser hangs up, so that a session is saved whole or not
// at all.
const callbackLimit = 45 * time.Second

// Callback is an authorization response.
type Callback struct {
	RedirectURI string     // that of the authorization request
	Params      url.Values // of the query, or of the posted form
	Posted      bool       // they came as a form
	Request     *http.Request
}

// LoginResult is a login that succeeded.
type LoginResult struct {
	Session  *Session
	Cookies  []*http.Cookie // to be set
	ReturnTo string
}

// FinishLogin turns an authorization response into a session. It is single use,
// also when the same response is delivered twice at a time. All errors are
// [*LoginError].
func (m *Manager) FinishLogin(ctx context.Context, site *Site, cb Callback) (*LoginResult, error) {
	result, err := m.finishLogin(ctx, site, cb)
	switch {
	case errors.Is(err, ErrFull):
		m.cfg.Observer.LimitReached(LimitStore)
	case errors.Is(err, ErrTooLarge):
		m.cfg.Observer.LimitReached(LimitRecordSize)
	}
	m.cfg.Observer.LoginEnded(outcomeOf(err))
	return result, err
}

func (m *Manager) finishLogin(ctx context.Context, site *Site, cb Callback) (*LoginResult, error) {
	state := oauth.ResponseState(cb.Params)
	l, err := site.findLogin(ctx, m.cfg.Ring, cb.Request, state)
	switch {
	case err != nil:
		return nil, &LoginError{Kind: LoginUnavailable, Err: err}
	case l == nil:
		return nil, m.withoutLogin(ctx, site, cb.Request, state)
	}
	done := site.cookie(site.loginName(l.state), "", http.SameSiteLaxMode, -1)
	fail := func(kind LoginErrorKind, err error) *LoginError {
		e := &LoginError{Kind: kind, ReturnTo: l.returnTo, Restarted: l.restarted, Params: l.authentication(), Silent: l.silent(), StepUp: l.wanted, Cookies: []*http.Cookie{done}, Err: err, previous: l.previous}
		if kind == LoginUnavailable {
			e.Cookies = nil // it may still succeed
		}
		return e
	}
	if time.Since(l.created) > loginLifetime || time.Until(l.created) > time.Minute {
		return nil, fail(LoginStale, nil)
	}
	if cb.Posted != l.posted() {
		return nil, fail(LoginResponseInvalid, errors.New("it came by another response mode than that of the login"))
	}
	code, err := m.cfg.Client.ValidateAuthorizationResponse(ctx, cb.Params, oauth.AuthorizationResponseCheck{State: l.state, ResponseMode: l.mode})
	if err != nil {
		return nil, m.refusedLogin(err, fail)
	}
	// From here on it must not matter whether the browser waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callbackLimit)
	defer cancel()
	if err := m.claim(ctx, l); err != nil {
		if errors.Is(err, ErrExists) {
			e := fail(LoginStale, nil)
			e.Live = m.madeBy(ctx, site, cb.Request, l.state)
			return nil, e
		}
		return nil, fail(LoginUnavailable, err)
	}
	s, c, err := m.begin(ctx, site, cb, l, code)
	if err != nil {
		e := fail(failureKind(err), err)
		if e.Kind != LoginUnavailable {
			e.Cookies = []*http.Cookie{done} // the code is spent
		} // else asking again starts the login anew, which takes its cookie
		return nil, e
	}
	if l.previous != nil && *l.previous != s.ticket {
		m.endPrevious(ctx, site, *l.previous)
	}
	m.limit(ctx, s)
	return &LoginResult{Session: s, Cookies: []*http.Cookie{c, done}, ReturnTo: l.returnTo}, nil
}

// withoutLogin answers a response whose login this browser does not (any more)
// carry: harmless if the browser has the very session that came of it.
func (m *Manager) withoutLogin(ctx context.Context, site *Site, r *http.Request, state oauth.Secret) *LoginError {
	if live := m.madeBy(ctx, site, r, state); live != nil {
		return &LoginError{Kind: LoginStale, ReturnTo: live.seen.Load().tokens.returnTo, Live: live}
	}
	if err := m.otherKeys(ctx); err != nil {
		// It may have begun on an instance whose keys open its cookie.
		return &LoginError{Kind: LoginUnavailable, Err: err}
	}
	return &LoginError{Kind: LoginStateInvalid}
}

// madeBy gives the request's session if the login with that state made it.
func (m *Manager) madeBy(ctx context.Context, site *Site, r *http.Request, state oauth.Secret) *Session {
	t, err := site.ticketOf(ctx, m.cfg.Ring, r)
	if err != nil || state == "" {
		return nil
	}
	s, err := m.openTicket(ctx, site, t)
	if err != nil || s.ticket != t { // the browser has not got its cookie
		return nil
	}
	sum := stateDigest(state)
	if subtle.ConstantTimeCompare(sum[:], s.seen.Load().tokens.loginState) != 1 {
		return nil
	}
	return s
}

func (m *Manager) refusedLogin(err error, fail func(LoginErrorKind, error) *LoginError) *LoginError {
	var answer *oauth.Error
	switch {
	case errors.As(err, &answer) && answer.Code != "" && answer.Status == 0:
		e := fail(LoginRefused, err)
		e.Code = answer.Code
		return e
	case errors.Is(err, oauth.ErrResponse):
		return fail(LoginResponseInvalid, err)
	default: // metadata could not be had
		return fail(LoginUnavailable, err)
	}
}

// claim makes the response single use: the first to create the record of its
// state may send the code. Nobody may whose session the other instances could not
// open.
func (m *Manager) claim(ctx context.Context, l *loginState) error {
	store, err := m.cfg.Backend.current(ctx)
	if err != nil {
		return err
	}
	if err := m.cfg.Backend.sameKeys(ctx, store, m.cfg.Ring); err != nil {
		return err
	}
	rec := &Record{
		Key: sha256.Sum256(bind("login claim", l.state.Reveal())), Rev: 1,
		Expiry: time.Now().Add(2 * loginLifetime),
	}
	if err := store.Create(ctx, rec); err != nil {
		if errors.Is(err, ErrExists) {
			return err
		}
		return unavailable(err)
	}
	return nil
}
