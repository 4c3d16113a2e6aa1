// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import "net/http"

type refreshed struct {
	// AccessTokenExpiresIn is in seconds, null where nobody said.
	AccessTokenExpiresIn *int64 `json:"access_token_expires_in"`
	ClaimsChanged        bool   `json:"claims_changed"`
}

// serveRefresh gets new tokens on request, for new claims or new roles. It does
// not count as activity.
func (hd *handle) serveRefresh(w http.ResponseWriter, r *http.Request) error {
	s, err := hd.open(r.Context())
	if err != nil {
		return hd.fail(w, r, err)
	}
	result, err := s.ForceRefresh(r.Context())
	if err != nil {
		return hd.fail(w, r, err)
	}
	out := refreshed{ClaimsChanged: result.ClaimsChanged}
	if !result.AccessTokenExpiry.IsZero() {
		seconds := secondsUntil(result.AccessTokenExpiry)
		out.AccessTokenExpiresIn = &seconds
	}
	addVary(w.Header(), "Cookie")
	return writeJSON(w, "application/json", http.StatusOK, out)
}
