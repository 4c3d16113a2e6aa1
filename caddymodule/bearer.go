// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// Error codes of a Bearer challenge (RFC 6750 section 3.1).
const (
	bearerInvalidRequest    = "invalid_request"
	bearerInvalidToken      = "invalid_token"
	bearerInsufficientScope = "insufficient_scope"
)

// bearerCredentials are those of RFC 6750 section 2.1.
var bearerCredentials = regexp.MustCompile(`^(?i:bearer) +([A-Za-z0-9._~+/-]+=*)$`)

// judgesBearers reports whether access tokens are judged in a way that does for
// the tokens of clients without a session.
func (h *Handler) judgesBearers() bool {
	a := h.AccessToken
	return a != nil && (a.Validate == string(oauth.ValidateIntrospection) || a.Validate == string(oauth.ValidateJWT) && len(a.Audience) > 0)
}

// errBearerJudgement is what is wrong with a configuration that does not.
var errBearerJudgement = errors.New("accept_bearer needs a bff with access_token { validate jwt } and an audience, or with access_token { validate introspection }")

// bearer gives the access token that a client without a session brings, judged;
// nil: the request brings none. Beside a cookie of ours it is taken off: whose
// request is it, if the two disagree?
func (p *Protect) bearer(hd *handle, r *http.Request) (*session.Bearer, error) {
	if !p.AcceptBearer {
		return nil, nil
	}
	if hd.sentOwnCookie() {
		delete(r.Header, "Authorization")
		return nil, nil
	}
	fields := r.Header["Authorization"]
	if !slices.ContainsFunc(fields, func(f string) bool { return len(f) >= 6 && strings.EqualFold(f[:6], "bearer") }) {
		return nil, nil
	}
	if !hd.bff.judgesBearers() { // a named route has brought the two together
		return nil, &httpError{code: codeMisconfigured, err: errBearerJudgement}
	}
	if len(fields) > 1 {
		return nil, &httpError{code: codeInvalidParameter, bearer: bearerInvalidRequest, err: errors.New("more than one Authorization field")}
	}
	credentials := bearerCredentials.FindStringSubmatch(fields[0])
	if credentials == nil {
		return nil, &httpError{code: codeInvalidParameter, bearer: bearerInvalidRequest, err: errors.New("malformed Bearer credentials")}
	}
	b, err := hd.bff.manager.Bearer(r.Context(), oauth.Secret(credentials[1]), p.purpose)
	switch {
	case errors.Is(err, oauth.ErrAccessToken):
		return nil, &httpError{code: codeInvalidToken, bearer: bearerInvalidToken, err: err}
	case err != nil:
		return nil, err
	}
	return b, p.admitBearer(b)
}

// admitBearer asks whether the token is enough for what is asked.
func (p *Protect) admitBearer(b *session.Bearer) error {
	lacking := func(what string) error {
		return &httpError{code: codeForbidden, bearer: bearerInsufficientScope, err: fmt.Errorf("the access token lacks %s", what)}
	}
	for _, token := range p.Scope {
		if !slices.Contains(b.Scope(), token) {
			return lacking("scope " + token)
		}
	}
	claims := b.Claims()
	for _, rule := range p.Require {
		switch {
		case rule.holds(claims):
		case rule.Claim == "scope":
			return lacking("a required scope")
		default:
			return &httpError{code: codeForbidden, err: fmt.Errorf("claim %s of the access token does not have a required value", rule.Claim)}
		}
	}
	return nil
}

// sentOwnCookie reports a cookie of ours, in whatever spelling.
func (hd *handle) sentOwnCookie() bool {
	_, changed := stripCookies(hd.cookies.Header["Cookie"])
	return changed
}

// bearerScope is what a token needs here, as far as one list can say it.
func (p *Protect) bearerScope() []string {
	scope := slices.Clone(p.Scope)
	for _, rule := range p.Require {
		if rule.Claim == "scope" && len(rule.Values) == 1 && oauth.CheckScope(rule.Values[0]) == nil && !slices.Contains(scope, rule.Values[0]) {
			scope = append(scope, rule.Values[0])
		}
	}
	return scope
}

// bearerChallenge is the challenge (RFC 6750 section 3, RFC 9728 section 5.1) of
// an error where tokens of clients without a session are taken; "" for none. Who
// brought no token is told of no error.
func (hd *handle) bearerChallenge(e *httpError) string {
	if hd.bearerOf == nil || problems[e.code].status != http.StatusUnauthorized && e.bearer == "" {
		return ""
	}
	var params []string
	add := func(name, value string) {
		if value != "" {
			params = append(params, name+`="`+value+`"`)
		}
	}
	add("error", e.bearer)
	if e.bearer != bearerInvalidRequest {
		add("scope", strings.Join(hd.bearerOf.bearerScope(), " "))
	}
	add("resource_metadata", hd.resourceMetadata())
	return strings.TrimSpace("Bearer " + strings.Join(params, ", "))
}
