// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-bff/caddy-bff/session"
)

// Answers of admit that are no errors of the request.
var (
	errReload      = errors.New("reload page")
	errSendToLogin = errors.New("send to login")
)

// admit decides. There is a session, or the token of a client without one, or
// neither for an anonymous request that may pass.
func (p *Protect) admit(hd *handle, r *http.Request) (*session.Session, *session.Bearer, error) {
	if hd.siteErr != nil {
		return nil, nil, hd.siteErr
	}
	upgrade := webSocket(r)
	switch {
	case earlyData(r) && (upgrade || !repeatable(r.Method)):
		return nil, nil, errEarlyData
	case r.Method == http.MethodConnect && !upgrade, r.Method == http.MethodTrace:
		// A tunnel would pass every check, TRACE would show the token to the
		// browser (RFC 9110 sections 9.3.6 and 9.3.8).
		return nil, nil, &httpError{code: codeMethodNotAllowed, allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", err: errors.New(r.Method + " that is no WebSocket")}
	case upgrade && !hd.from.webSocketAccepted(r):
		return nil, nil, &httpError{code: codeCSRFRejected, err: errors.New("WebSocket of a foreign origin")}
	}
	if hd.reloadable(r) {
		if p.Unauthenticated == unauthenticated401 || p.CSRF == csrfStrict {
			return nil, nil, &httpError{code: codeCSRFRejected, err: errors.New("document from another site")}
		}
		return nil, nil, errReload
	}
	if b, err := p.bearer(hd, r); b != nil || err != nil {
		return nil, b, err
	}
	s, err := hd.open(r.Context())
	if err != nil {
		return nil, nil, p.withoutSession(hd, r, err)
	}
	if !upgrade && !hd.from.csrfAccepted(r, p.CSRF) {
		return nil, nil, &httpError{code: codeCSRFRejected, err: errors.New("CSRF check")}
	}
	for _, rule := range p.Require {
		if !rule.holds(s.Claims()) {
			return nil, nil, &httpError{code: codeForbidden, err: fmt.Errorf("claim %s does not have a required value", rule.Claim)}
		}
	}
	if p.DPoP && !s.Bound() {
		return nil, nil, &httpError{code: codeTokenUnavailable, err: errUnboundSession}
	}
	if p.Token == tokenUser {
		if _, err := p.tokensOf(s).Token(r.Context()); err != nil {
			return nil, nil, p.withoutSession(hd, r, err)
		}
	}
	return s, nil, nil
}

// withoutSession decides about a request whose session could not be had. Only
// an answer that is sure to mean "no session" sends anybody to login.
func (p *Protect) withoutSession(hd *handle, r *http.Request, err error) error {
	var ended *session.EndedError
	if !errors.Is(err, session.ErrNoSession) && !errors.As(err, &ended) {
		return err
	}
	if p.Unauthenticated == unauthenticatedPass {
		hd.user.session.Store(nil)
		if len(p.Require) > 0 { // nobody has no claims
			return &httpError{code: codeForbidden, signIn: true, err: fmt.Errorf("claim %s is required, and there is no session", p.Require[0].Claim)}
		}
		return nil
	}
	if p.sendsToLogin(hd, r) {
		return errSendToLogin
	}
	return err
}

// sendsToLogin reports whether a request that needs a login is sent there at once.
func (p *Protect) sendsToLogin(hd *handle, r *http.Request) bool {
	switch p.Unauthenticated {
	case unauthenticated401:
		return false
	case unauthenticatedLogin:
		if webSocket(r) || r.Method != http.MethodGet && r.Method != http.MethodHead {
			return false
		}
	default:
		if !documentRequest(r) {
			return false
		}
	}
	// A login that came back without a session is not begun again by itself.
	return !hd.url.Query().Has(bffErrorParam)
}
