// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
)

// userClaim is one entry of `user`: an element of a claim, as applications
// written for Duende's BFF expect.
type userClaim struct {
	Type  string `json:"type"`
	Value any    `json:"value"`
}

// serveUser lists the claims of the user. It never extends the session,
// whatever `slide` says.
func (hd *handle) serveUser(w http.ResponseWriter, r *http.Request) error {
	s, err := hd.open(r.Context())
	if err != nil {
		return hd.fail(w, r, err)
	}
	out := []userClaim{}
	visible := hd.bff.visibleClaims(s)
	for _, name := range slices.Sorted(maps.Keys(visible)) {
		list, isList := visible[name].([]any)
		if !isList {
			list = []any{visible[name]}
		}
		for _, v := range list {
			out = append(out, userClaim{Type: name, Value: flat(v)})
		}
	}
	out = append(out,
		userClaim{Type: "bff:session_expires_in", Value: secondsUntil(s.End())},
		userClaim{Type: "bff:logout_url", Value: hd.logoutURL(s)},
	)
	addVary(w.Header(), "Cookie")
	return writeJSON(w, "application/json", http.StatusOK, out)
}

// flat writes what is deeper than a value as JSON text.
func flat(v any) any {
	switch v.(type) {
	case map[string]any, []any:
		if b, err := json.Marshal(v); err == nil {
			return string(b)
		}
	}
	return v
}
