// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// maxLogoutBody bounds what the authorization server sends at a logout, in bytes.
const maxLogoutBody = oauth.MaxLogoutToken

// serveBackchannel takes the logout token that the authorization server sends
// (OpenID Connect Back-Channel Logout 1.0 section 2.5). What it proves, it proves by
// its signature: no cookie, header or origin matters. The answer is 200 when the
// sessions are over, however many there were; 400 for a token that does not pass;
// 429 and 503 for one that should be sent again.
func (hd *handle) serveBackchannel(w http.ResponseWriter, r *http.Request) error {
	token, err := logoutToken(w, r)
	if err != nil {
		return hd.failLogout(w, r, err)
	}
	ended, err := hd.bff.manager.BackchannelLogout(r.Context(), token)
	if err != nil {
		return hd.failLogout(w, r, err)
	}
	hd.bff.logger.Info("signed out by the authorization server", "sessions", ended)
	return nothing(w)
}

// logoutToken reads the one parameter that counts. The query, which logs tend to
// have, is not looked at.
func logoutToken(w http.ResponseWriter, r *http.Request) (oauth.Secret, error) {
	if !formBody(r) {
		return "", badParameter("the body is not a form")
	}
	body, err := readBody(w, r, maxLogoutBody)
	if err != nil {
		return "", err
	}
	form, err := parseBody(r, body)
	if err != nil {
		return "", err
	}
	token, err := oneParam(form, "logout_token")
	if err == nil && token == "" {
		err = badParameter("logout_token is missing")
	}
	return oauth.Secret(token), err
}

// failLogout answers the authorization server, and tells operators of logout tokens
// that do not pass: while nobody looks, users who believe to be signed out are not.
func (hd *handle) failLogout(w http.ResponseWriter, r *http.Request, err error) error {
	e := &httpError{toServer: true}
	var own *httpError
	switch {
	case errors.Is(err, oauth.ErrLogoutToken):
		e.code = codeInvalidParameter
		e.err = errors.New(strings.TrimPrefix(err.Error(), oauth.ErrLogoutToken.Error()+": "))
	case errors.Is(err, oauth.ErrKeysUnavailable):
		e.code, e.retryAfter, e.err = codeServerUnavailable, 5*time.Second, err
	case errors.As(err, &own):
		e.code, e.err = own.code, own.err
		if e.err == nil {
			e.err = errors.New("logout token is too long") // the one code without a text
		}
	default:
		mapped := asHTTPError(err)
		e.code, e.retryAfter, e.err = mapped.code, mapped.retryAfter, err
	}
	if problems[e.code].status < http.StatusInternalServerError {
		if ok, suppressed, _ := hd.bff.failures.allow("logout_token", time.Now()); ok {
			hd.bff.logger.Warn("a back-channel logout was refused", "reason", e.err, "suppressed", suppressed)
		}
	}
	return hd.fail(w, r, e)
}
