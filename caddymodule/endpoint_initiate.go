// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// serveInitiate is the initiate_login_uri: another party, such as a portal of the
// authorization server, sends the user here to be signed in (OpenID Connect Core
// section 4). Any site can do that, so all it gets is what a link to `login` would
// be: the browser goes there, and every check is made there, with the cookies that
// it keeps at home on a request from another site.
func (hd *handle) serveInitiate(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead {
		return nothing(w)
	}
	if !wantsPage(r) || prefetch(r) {
		return hd.fail(w, r, &httpError{code: codeNavigationRequired})
	}
	params, err := hd.arrivalParams(w, r)
	if err != nil {
		return hd.fail(w, r, err)
	}
	issuer, err := oneParam(params, "iss")
	if err == nil && issuer != hd.bff.Issuer {
		err = badParameter("iss is not the issuer that users of this site sign in at")
	}
	if err != nil {
		return hd.fail(w, r, err)
	}
	target, err := oneParam(params, "target_link_uri")
	if err != nil {
		return hd.fail(w, r, err)
	}
	hint, err := oneParam(params, "login_hint")
	if err != nil {
		return hd.fail(w, r, err)
	}
	query := url.Values{"return_to": {hd.targetLink(target)}}
	if hint != "" && slices.Contains(hd.bff.LoginParam, "login_hint") {
		query.Set("login_hint", hint)
	}
	return hd.redirect(w, r, http.StatusSeeOther, hd.endpointURL("login")+"?"+query.Encode())
}

// targetLink is the place on this site, or of return_origins, that a target_link_uri
// names; one that is not acceptable is the start page, since the party that sent the
// user is not there to be told.
func (hd *handle) targetLink(raw string) string {
	if rest, own := strings.CutPrefix(raw, hd.site.Origin()); own {
		switch {
		case rest == "" || rest[0] == '?' || rest[0] == '#':
			raw = "/" + rest
		case rest[0] == '/':
			raw = rest
		}
	}
	target, err := hd.bff.returnURLs.Parse(raw)
	if err != nil {
		return "/"
	}
	return target
}
