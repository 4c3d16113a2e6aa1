// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
	"github.com/caddy-bff/caddy-bff/session"
)

// serveCallback is the redirection endpoint. All that it says of a login goes
// to the browser that began it: the state is bound to a cookie there.
func (hd *handle) serveCallback(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nothing(w)
	}
	if prefetch(r) { // the code is for the user's own arrival
		return hd.fail(w, r, &httpError{code: codeNavigationRequired, err: errors.New("callback fetched ahead")})
	}
	params, err := hd.arrivalParams(w, r)
	if err != nil {
		e := asHTTPError(err)
		e.signIn = true
		return hd.fail(w, r, e)
	}
	result, err := hd.bff.manager.FinishLogin(r.Context(), hd.site, session.Callback{
		RedirectURI: hd.redirectURI("callback"), Params: params, Posted: r.Method == http.MethodPost, Request: hd.cookies,
	})
	if err != nil {
		return hd.loginFailed(w, r, err)
	}
	hd.bff.logger.Info("login succeeded", "session", sessionLog(result.Session), "subject", result.Session.Subject())
	setCookies(w, result.Cookies)
	// 303, so that a posted response is not posted again.
	return hd.redirect(w, r, http.StatusSeeOther, result.ReturnTo)
}

// arrivalParams reads what another site has the browser bring, from where the method
// says.
func (hd *handle) arrivalParams(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if r.Method == http.MethodGet {
		return hd.queryParams()
	}
	if !formBody(r) {
		return nil, badParameter("what is posted here has to be a form")
	}
	body, err := readBody(w, r, maxParamBody)
	if err != nil {
		return nil, err
	}
	return parseBody(r, body)
}

// loginFailed answers a response that made no session. Harmless ones lead the
// user on; nothing here calls the authorization server but one new login.
func (hd *handle) loginFailed(w http.ResponseWriter, r *http.Request, err error) error {
	e, ok := loginErrorOf(err)
	if !ok {
		return hd.fail(w, r, err)
	}
	stray := e.Kind == session.LoginStateInvalid || e.Kind == session.LoginStale
	switch {
	case e.Live != nil:
		// Delivered twice: the first delivery made the session.
		setCookies(w, e.Cookies)
		return hd.redirect(w, r, http.StatusSeeOther, orRoot(e.ReturnTo))
	case stray && r.Method == http.MethodGet && hd.reloadable(r):
		// The session that a first delivery made may be in a cookie that stays at
		// home on a request from another site. Nothing is changed until it is seen.
		return hd.writeReload(w)
	case e.Kind == session.LoginStale && !e.Restarted:
		again := &loginWanted{returnTo: orRoot(e.ReturnTo), params: e.Params}
		if live, err := hd.open(r.Context()); err == nil && hd.bff.manager.Continues(r.Context(), hd.site, e, live) {
			again.live, again.stepUp = live, e.StepUp
		}
		start, err := hd.startLogin(r, again, true)
		if err != nil {
			return hd.fail(w, r, err)
		}
		setCookies(w, e.Cookies)
		setCookies(w, start.Cookies)
		return hd.redirectAway(w, r, http.StatusSeeOther, start.AuthorizationURL)
	case e.Kind == session.LoginRefused && slices.Contains(silentErrors, e.Code) && (e.Silent || e.StepUp == nil):
		setCookies(w, e.Cookies)
		return hd.redirect(w, r, http.StatusSeeOther, returnurl.WithParameter(orRoot(e.ReturnTo), bffErrorParam, e.Code))
	}
	setCookies(w, e.Cookies)
	return hd.fail(w, r, e)
}

func orRoot(returnTo string) string {
	if returnTo == "" {
		return "/"
	}
	return returnTo
}

// sessionLog is what logs say of a session: the beginning of its public handle.
func sessionLog(s *session.Session) string { return s.ID()[:11] }
