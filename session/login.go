// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// callbackLimit bounds what a callback does once the code is about to be sent:
// it goes on if the browser hangs up, so that a session is saved whole or not
// at all.
const callbackLimit = 45 * time.Second

// LoginRequest is a login to begin.
type LoginRequest struct {
	RedirectURI string     // absolute; the redirection endpoint
	ReturnTo    string     // where the browser goes afterwards, already checked; at most MaxReturnTo bytes
	Params      url.Values // further authorization request parameters, already chosen
	// ResponseMode of the authorization response, one of [oauth.ResponseModes].
	// Default: query.
	ResponseMode string
	Restarted    bool     // this login replaces a stale one
	Previous     *Session // the session that is to end when this login succeeds, or nil
	// StepUp has the login ask for what a resource server needs beyond what Previous
	// has, which the session then continues under a new identifier, if it is the same
	// end user who comes back. Nil, or without Previous: a login like any other.
	StepUp  *StepUp
	Cookies []*http.Cookie // of the request
}

// LoginStart is what a browser needs to go to the authorization server.
type LoginStart struct {
	AuthorizationURL string
	Cookies          []*http.Cookie // to be set
}

// StartLogin makes the authorization request (RFC 6749 section 4.1.1, PKCE
// S256, state, nonce), pushes it where the client is to (RFC 9126), and makes the
// cookie that binds it to this browser. Nothing of it is kept here. It fails with a
// [*KeyMismatchError] where no login can succeed.
func (m *Manager) StartLogin(ctx context.Context, site *Site, req LoginRequest) (*LoginStart, error) {
	if len(req.ReturnTo) > MaxReturnTo {
		return nil, fmt.Errorf("return URL is longer than %d bytes", MaxReturnTo)
	}
	if err := m.otherKeys(ctx); err != nil {
		return nil, err
	}
	l := &loginState{
		state: oauth.NewState(), nonce: oauth.NewNonce(), verifier: oauth.NewCodeVerifier(),
		returnTo: req.ReturnTo, created: time.Now(), restarted: req.Restarted,
		mode: req.ResponseMode, prompt: req.Params.Get("prompt"),
	}
	asked, params := m.cfg.Client.AuthenticationAsked(req.Params), req.Params
	l.maxAge, l.acrValues = asked.MaxAge, asked.ACRValues
	if req.Previous != nil {
		t := req.Previous.ticket
		l.previous = &t
		if req.StepUp != nil {
			var err error
			if params, err = m.stepUp(l, &req, asked); err != nil {
				return nil, err
			}
		}
	}
	sameSite := http.SameSiteLaxMode
	if l.posted() && site.secure {
		sameSite = http.SameSiteNoneMode // the response is a cross-site POST
	}
	var err error
	if l.key, err = m.newKey(); err != nil {
		return nil, err
	}
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return nil, err
	}
	cookies, displaced, err := site.evictLogins(ctx, m.cfg.Ring, req.Cookies)
	if err != nil {
		return nil, err
	}
	for range displaced {
		m.cfg.Observer.LimitReached(LimitPendingLogins)
	}
	c, err := site.loginCookie(r, l, sameSite)
	if err != nil {
		return nil, err
	}
	// Last, since the authorization server may hear of it.
	target, err := m.cfg.Client.AuthorizationURL(ctx, oauth.AuthorizationRequest{
		RedirectURI: req.RedirectURI, State: l.state, Nonce: l.nonce, CodeVerifier: l.verifier,
		Params: params, ResponseMode: l.mode, Scope: l.scope(), DPoPKey: l.key,
	})
	if err != nil {
		return nil, err
	}
	return &LoginStart{AuthorizationURL: target, Cookies: append(cookies, c)}, nil
}

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

// begin exchanges the code, checks what comes, and makes the session under a
// new identifier.
func (m *Manager) begin(ctx context.Context, site *Site, cb Callback, l *loginState, code oauth.Secret) (*Session, *http.Cookie, error) {
	began := time.Now()
	answer, err := m.cfg.Client.Exchange(ctx, oauth.ExchangeRequest{Code: code, CodeVerifier: l.verifier, RedirectURI: cb.RedirectURI, DPoPKey: l.key})
	if err != nil {
		switch oauth.ClassOf(err) {
		case oauth.ClassOutage, oauth.ClassAmbiguous, oauth.ClassNotSent:
			return nil, nil, outage(err)
		}
		return nil, nil, err
	}
	m.served.Store(time.Now().UnixNano())
	if answer.IDToken == "" {
		return nil, nil, m.discard(l, answer, fmt.Errorf("%w: the token response has none", oauth.ErrIDToken))
	}
	id, err := m.cfg.Client.VerifyIDToken(ctx, answer.IDToken, oauth.IDTokenCheck{
		Nonce: l.nonce, Issuer: oauth.ResponseIssuer(cb.Params), AccessToken: answer.AccessToken, MaxAge: l.maxAge, ACRValues: l.acrValues,
	})
	if err != nil {
		if errors.Is(err, oauth.ErrKeysUnavailable) {
			err = outage(err)
		}
		return nil, nil, m.discard(l, answer, err)
	}
	if err := l.granted(answer.Scope); err != nil {
		return nil, nil, m.discard(l, answer, err)
	}
	if err := m.checkBound(ctx, answer.AccessToken, l.key); err != nil {
		return nil, nil, m.discard(l, answer, err)
	}
	if err := m.describe(ctx, answer.AccessToken, l.key, id); err != nil {
		return nil, nil, m.discard(l, answer, err)
	}
	s, c, err := m.create(ctx, site, cb.Request, l, began, answer, id)
	if err != nil {
		return nil, nil, m.discard(l, answer, err)
	}
	return s, c, nil
}

// discard lets go of tokens that no session will hold. Those of a step-up are not
// revoked: that could end the grant of the session that it leaves as it was.
func (m *Manager) discard(l *loginState, answer *oauth.TokenResponse, err error) error {
	if l.wanted != nil {
		return err
	}
	m.revokeLater(answer.RefreshToken, answer.AccessToken)
	return err
}

func (m *Manager) create(ctx context.Context, site *Site, req *http.Request, l *loginState, began time.Time, answer *oauth.TokenResponse, id *oauth.IDToken) (*Session, *http.Cookie, error) {
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	store, err := m.cfg.Backend.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	old, err := m.continued(ctx, site, l, id)
	if err != nil {
		return nil, nil, err
	}
	now, made := time.Now(), newTicket()
	sum := stateDigest(l.state)
	t := &tokens{
		accessToken: &accessToken{
			access: answer.AccessToken, purpose: m.aims.byDefault.id,
			accessExpiry: answer.Expiry, issued: began, scope: answer.Scope, gen: 1,
		},
		refresh: answer.RefreshToken, id: answer.IDToken, key: l.key,
		nonce: l.nonce, claims: id.Claims, loginState: sum[:], returnTo: l.returnTo,
	}
	f := &facts{
		issuer: id.Issuer, subject: id.Subject, sid: id.SID, userAgent: clip(req.UserAgent(), 256),
		created: now, authTime: id.AuthTime, lifetimeEnd: now.Add(m.cfg.Lifetime), refreshEnd: answer.RefreshExpiry,
	}
	if t.described, err = describedIn(id.Claims, answer.IDToken); err != nil {
		return nil, nil, err
	}
	if l.wanted != nil {
		var before *tokens
		if old != nil {
			before = old.seen.Load().tokens
			t.logoutProof = old.logoutProof()
			f.continues(old.seen.Load().facts)
		}
		t.stepped(l, before, now)
	}
	if answer.RefreshToken == "" {
		// Nothing can prolong the access token; the session ends with it.
		if _, err := m.judge(ctx, t.accessToken, t.key, m.aims.byDefault); err != nil {
			return nil, nil, err
		}
		f.accessEnd = t.expiry()
	}
	rec := &Record{
		Key: made.key(), Rev: 1, Gen: 1, LastSeen: now, Expiry: m.recordExpiry(now, f.lifetimeEnd),
		Index: r.indexOf(m.cfg.ClientID, f),
	}
	if err := site.sealInto(rec, r, made.secret[:], t, f); err != nil {
		return nil, nil, err
	}
	c, err := site.sessionCookie(r, made)
	if err != nil {
		return nil, nil, fmt.Errorf("making the session cookie: %w", err)
	}
	if err := store.Create(ctx, rec); err != nil {
		if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrFull) {
			return nil, nil, err
		}
		return nil, nil, unavailable(err)
	}
	// The record is there before this question, so a logout that comes later finds it.
	s := &Session{m: m, site: site, ticket: made, key: rec.Key}
	err = m.endedMeanwhile(ctx, store, f, id.IssuedAt, began)
	if err == nil && old != nil {
		l.previous = nil // it goes on, and does not end
		if err = old.goOn(ctx, s); err == nil {
			err = m.signedOutBefore(ctx, store, f, id.IssuedAt, began)
		}
	}
	if err != nil {
		if deleteErr := store.Delete(ctx, rec.Key); deleteErr != nil {
			m.cfg.Logger.Warn("a session whose cookie nobody got stays until it expires", "session", rec.Key.short(), "error", deleteErr)
		}
		return nil, nil, err
	}
	o := &opened{rec: rec, site: site, secret: made.secret, tokens: t, facts: f}
	s.seen.Store(o)
	e := s.entry()
	e.keep(o)
	e.saw(now)
	return s, c, nil
}

// endPrevious ends the session that the login saw, or what has become of it: a new
// identifier at every login, and nothing left under the old one.
func (m *Manager) endPrevious(ctx context.Context, site *Site, t ticket) {
	old, err := m.openNewest(ctx, site, t, true)
	if err == nil {
		err = old.end(ctx, ReasonLoggedOut)
	}
	if err != nil && !over(err) {
		m.cfg.Logger.Warn("ending the session before this login", "session", t.key().short(), "error", err)
	}
}

// clip bounds a text of the browser, at a whole character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
