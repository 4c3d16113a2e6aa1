// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// reservedLoginParams are parameters of the authorization request that are the
// gateway's own to set.
var reservedLoginParams = []string{
	"response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri", "id_token_hint",
}

// bffErrorParam tells a page that a silent login found nobody signed in.
const bffErrorParam = "bff_error"

// loginWanted is a login as it was asked for.
type loginWanted struct {
	returnTo string
	params   url.Values // for the authorization request
	force    bool       // also with a live session
	live     *session.Session
	stepUp   *session.StepUp // what a resource server asks for beyond what live has
}

// serveLogin starts a login by navigation.
func (hd *handle) serveLogin(w http.ResponseWriter, r *http.Request) error {
	return hd.login(w, r, false)
}

// serveSilentLogin is serveLogin with prompt=none.
func (hd *handle) serveSilentLogin(w http.ResponseWriter, r *http.Request) error {
	return hd.login(w, r, true)
}

func (hd *handle) login(w http.ResponseWriter, r *http.Request, silent bool) error {
	if r.Method == http.MethodHead {
		return nothing(w)
	}
	if !documentRequest(r) || prefetch(r) {
		return hd.fail(w, r, &httpError{code: codeNavigationRequired})
	}
	params, err := hd.queryParams()
	if err != nil {
		return hd.fail(w, r, err)
	}
	wanted, err := hd.wantedLogin(r, params, silent)
	if err != nil {
		return hd.fail(w, r, err)
	}
	if wanted.live != nil && !wanted.force && hd.bff.satisfied(wanted) {
		return hd.redirect(w, r, http.StatusFound, wanted.returnTo)
	}
	start, err := hd.startLogin(r, wanted, false)
	if err != nil {
		return hd.fail(w, r, err)
	}
	setCookies(w, start.Cookies)
	return hd.redirectAway(w, r, http.StatusFound, start.AuthorizationURL)
}

// serveLoginStart starts a login for an application that navigates by itself.
func (hd *handle) serveLoginStart(w http.ResponseWriter, r *http.Request) error {
	params, err := hd.bodyParams(w, r)
	if err != nil {
		return hd.fail(w, r, err)
	}
	wanted, err := hd.wantedLogin(r, params, false)
	if err != nil {
		return hd.fail(w, r, err)
	}
	start, err := hd.startLogin(r, wanted, false)
	if err != nil {
		return hd.fail(w, r, err)
	}
	setCookies(w, start.Cookies)
	return writeJSON(w, "application/json", http.StatusOK, map[string]string{"authorization_url": start.AuthorizationURL})
}

func (hd *handle) wantedLogin(r *http.Request, params url.Values, silent bool) (*loginWanted, error) {
	returnTo, err := hd.returnTo(params, "/")
	if err != nil {
		return nil, err
	}
	wanted := &loginWanted{returnTo: returnTo}
	if wanted.params, err = hd.bff.passOn(params); err != nil {
		return nil, err
	}
	force, err := oneParam(params, "force")
	if err != nil {
		return nil, err
	}
	if silent {
		wanted.params.Set("prompt", "none")
	}
	wanted.force = force == "true" || wanted.params.Has("prompt")
	wanted.live, err = hd.open(r.Context())
	if _, sure := noSession(err); err != nil && !sure {
		// The session cannot be read now; that of a new login could not either.
		return nil, err
	}
	return wanted, hd.wantStepUp(r, params, wanted)
}

func (hd *handle) startLogin(r *http.Request, wanted *loginWanted, restarted bool) (*session.LoginStart, error) {
	return hd.bff.manager.StartLogin(r.Context(), hd.site, session.LoginRequest{
		RedirectURI: hd.redirectURI("callback"), ReturnTo: wanted.returnTo, Params: wanted.params,
		ResponseMode: hd.bff.ResponseMode, Restarted: restarted,
		Previous: wanted.live, StepUp: wanted.stepUp, Cookies: hd.cookies.Cookies(),
	})
}

// satisfied reports whether the live session is what the login would bring, as far as
// the request says what that is (OpenID Connect Core 1.0 section 3.1.2.1).
func (h *Handler) satisfied(wanted *loginWanted) bool {
	asked, claims := oauth.AuthenticationAsked(h.AuthorizationParam, wanted.params), wanted.live.Claims()
	if asked.MaxAge != nil {
		authTime, known := numericClaim(claims["auth_time"])
		if !known || time.Since(time.Unix(authTime, 0)) > *asked.MaxAge {
			return false
		}
	}
	if len(asked.ACRValues) > 0 {
		acr, ok := claims["acr"].(string)
		if !ok || !slices.Contains(asked.ACRValues, acr) {
			return false
		}
	}
	return true
}

func numericClaim(v any) (int64, bool) {
	switch v := v.(type) {
	case float64:
		return int64(v), true
	case int64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return int64(f), err == nil
	}
	return 0, false
}

// silentErrors are answers to prompt=none that mean "not without the user"
// (OpenID Connect Core 1.0 section 3.1.2.6).
var silentErrors = []string{"login_required", "interaction_required", "consent_required", "account_selection_required"}

// loginErrorOf gives the login error in err.
func loginErrorOf(err error) (*session.LoginError, bool) {
	var e *session.LoginError
	ok := errors.As(err, &e)
	return e, ok
}
