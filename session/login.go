// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

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
