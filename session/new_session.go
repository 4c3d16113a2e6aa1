// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

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
