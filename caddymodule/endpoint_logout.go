// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// endSessionWait bounds how long a logout waits to learn where the authorization
// server ends its sessions. The session here is over by then.
const endSessionWait = 800 * time.Millisecond

// serveLogout ends the session: for scripts of the application, and for a plain
// form of its pages.
func (hd *handle) serveLogout(w http.ResponseWriter, r *http.Request) error {
	form := hd.ownFormPost(r)
	if !form && !hd.from.csrfAccepted(r, csrfStrict) {
		return hd.fail(w, r, &httpError{code: codeCSRFRejected, err: errors.New("CSRF check")})
	}
	params, err := hd.bodyParams(w, r)
	if err != nil {
		return hd.fail(w, r, err)
	}
	returnTo, err := hd.returnTo(params, hd.bff.afterLogout)
	if err != nil {
		return hd.fail(w, r, err)
	}
	s, err := hd.open(r.Context())
	if _, sure := noSession(err); err != nil && !sure {
		return hd.fail(w, r, err)
	}
	target, err := hd.endSession(w, r, s, returnTo)
	if err != nil {
		return hd.fail(w, r, err)
	}
	switch {
	case !form:
		answer := struct {
			LogoutURL *string `json:"logout_url"`
		}{}
		if target != "" {
			answer.LogoutURL = &target
		}
		return writeJSON(w, "application/json", http.StatusOK, answer)
	case target == "":
		return hd.redirect(w, r, http.StatusSeeOther, returnTo)
	}
	return hd.redirectAway(w, r, http.StatusSeeOther, target)
}

// ownFormPost reports a form that a page of this very site sent. Browsers put
// the true Origin on a post.
func (hd *handle) ownFormPost(r *http.Request) bool {
	origin, present := only(r, "Origin")
	fetchSite, told := only(r, "Sec-Fetch-Site")
	mode, modeTold := only(r, "Sec-Fetch-Mode")
	return formBody(r) && present && origin == hd.origin &&
		(!told || fetchSite == "same-origin") && (!modeTold || mode == "navigate") && !hd.from.csrfHeader
}

// serveLogoutLink ends the session by a plain link, which has to carry the
// proof that was made for it.
func (hd *handle) serveLogoutLink(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nothing(w)
	}
	if prefetch(r) {
		return hd.fail(w, r, badParameter("a logout link is not to be fetched ahead"))
	}
	params, err := hd.queryParams()
	if err != nil {
		return hd.fail(w, r, err)
	}
	returnTo, err := hd.returnTo(params, hd.bff.afterLogout)
	if err != nil {
		return hd.fail(w, r, err)
	}
	proof, err := oneParam(params, "sid")
	if err != nil {
		return hd.fail(w, r, err)
	}
	if proof == "" {
		return hd.fail(w, r, badParameter("sid is missing"))
	}
	s, err := hd.open(r.Context())
	if err != nil {
		if _, sure := noSession(err); !sure {
			return hd.fail(w, r, err)
		}
		return hd.redirect(w, r, http.StatusSeeOther, returnTo) // signed out already
	}
	if !s.CheckLogoutProof(proof) {
		return hd.fail(w, r, badParameter("sid is not the one of this session"))
	}
	target, err := hd.endSession(w, r, s, returnTo)
	if err != nil {
		return hd.fail(w, r, err)
	}
	if target == "" {
		return hd.redirect(w, r, http.StatusSeeOther, returnTo)
	}
	return hd.redirectAway(w, r, http.StatusSeeOther, target)
}

// endSession ends the session if there is one, clears its cookie, and gives the
// address where the authorization server ends its own; empty if there is none.
func (hd *handle) endSession(w http.ResponseWriter, r *http.Request, s *session.Session, returnTo string) (target string, err error) {
	if s == nil {
		http.SetCookie(w, hd.site.ClearSession())
		return "", nil
	}
	ended, err := s.Logout(r.Context())
	if err != nil {
		return "", err
	}
	hd.bff.logger.Info("signed out", "session", sessionLog(s), "subject", ended.Subject)
	http.SetCookie(w, hd.site.ClearSession())
	ctx, cancel := context.WithTimeout(r.Context(), endSessionWait)
	defer cancel()
	start, err := hd.bff.manager.StartLogout(ctx, hd.site, session.StartLogoutRequest{
		Ended: ended, RedirectURI: hd.redirectURI("logout/callback"), ReturnTo: returnTo,
	})
	if err != nil {
		// The user is signed out here; that is what was asked for first.
		hd.bff.logger.Warn("the session at the authorization server is not ended", "error", err)
		return "", nil
	}
	setCookies(w, start.Cookies)
	return start.URL, nil
}

// serveLogoutCallback is where the authorization server sends the browser after
// it has ended its session. A state that is not known does no harm.
func (hd *handle) serveLogoutCallback(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nothing(w)
	}
	params, err := hd.queryParams()
	if err != nil {
		return hd.fail(w, r, err)
	}
	if state, err := oneParam(params, "state"); err == nil {
		if returnTo, cookies, ok := hd.bff.manager.FinishLogout(r.Context(), hd.site, hd.cookies, state); ok {
			setCookies(w, cookies)
			return hd.redirect(w, r, http.StatusSeeOther, returnTo)
		}
	}
	return hd.redirect(w, r, http.StatusSeeOther, hd.bff.afterLogout)
}
