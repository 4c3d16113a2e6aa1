// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

// stepUpParam is the parameter of `login` that carries a sealed step-up request.
const stepUpParam = "step_up"

// unmetRequirements is the error code of an authorization server that cannot
// authenticate the end user as was asked (OpenID Connect Core Error Code
// unmet_authentication_requirements 1.0).
const unmetRequirements = "unmet_authentication_requirements"

// errUnreachable: a login for it has just been, and the resource server asks again.
var errUnreachable = errors.New("the resource server asks for what the last login has brought already")

// stepUp makes the answer for a request whose resource server asks for a stronger,
// or a more recent, authentication of the user, or for more scope (RFC 9470). Nil:
// no login could help, and the resource server's own answer stands.
func (p *Protect) stepUp(hd *handle, r *http.Request, s *session.Session, asked upstream.StepUp) *http.Response {
	if !p.purpose.MayHave(asked.Scope) {
		return nil // the tokens for this upstream never have it, whatever is granted
	}
	wanted := &session.StepUp{ACRValues: asked.ACRValues, MaxAge: asked.MaxAge, Scope: asked.Scope}
	request, err := s.SealStepUp(r.Context(), wanted)
	switch {
	case errors.Is(err, session.ErrSteppedUp):
		return hd.answerFor(r, &httpError{code: codeStepUpFailed, err: errUnreachable})
	case err != nil:
		return hd.answerFor(r, err)
	}
	query := wanted.Params()
	query.Set(stepUpParam, request)
	if p.sendsToLogin(hd, r) {
		hd.result = resultLogin
		rec := &answerRecorder{header: make(http.Header)}
		if err := hd.redirect(rec, r, http.StatusFound, hd.stepUpURL(query, hd.pageURL)); err != nil {
			return nil
		}
		return rec.response(r)
	}
	return hd.answerFor(r, &httpError{code: codeStepUpRequired, stepUp: query, err: errors.New("the resource server asks for more")})
}

// stepUpURL is where a step-up starts, and returns to the page if one is given.
func (hd *handle) stepUpURL(query url.Values, returnTo string) string {
	if returnTo != "" {
		query.Set("return_to", returnTo)
	}
	return hd.endpointURL("login") + "?" + query.Encode()
}

// wantStepUp reads the step-up request of a login. One that was not sealed for the
// live session asks for nothing: the login is one like any other.
func (hd *handle) wantStepUp(r *http.Request, params url.Values, wanted *loginWanted) error {
	request, err := oneParam(params, stepUpParam)
	if err != nil || request == "" || wanted.live == nil {
		return err
	}
	if wanted.stepUp, err = wanted.live.OpenStepUp(r.Context(), request); err != nil || wanted.stepUp == nil {
		return err
	}
	wanted.force = true // a resource server was not content with this very session
	for name := range wanted.stepUp.Params() {
		wanted.params.Del(name) // what is sealed has the say
	}
	return nil
}

// stepUpFailed reports that a login which did not end well was a step-up that cannot
// be reached by asking again.
func stepUpFailed(e *session.LoginError) bool {
	if e.StepUp == nil {
		return false
	}
	switch e.Kind {
	case session.LoginInsufficient:
		return true
	case session.LoginRefused:
		return e.Code == unmetRequirements || e.Code == "invalid_scope" || oauth.ClassOf(e.Err) == oauth.ClassSessionOver
	}
	return false
}
