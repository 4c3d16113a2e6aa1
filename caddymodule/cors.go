// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxPreflightHeaders bounds what a preflight may ask for, in bytes.
const maxPreflightHeaders = 1024

// corsHeaders lets scripts of a trusted origin read the answer, whichever it
// turns out to be. Nothing is said to other origins.
func (s site) corsHeaders(h http.Header, r *http.Request) {
	if len(s.trusted) == 0 {
		return
	}
	addVary(h, "Origin")
	origin, _ := only(r, "Origin")
	if !slices.Contains(s.trusted, origin) {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
}

// preflight reports a CORS preflight (Fetch standard, section 4.8). It never
// carries credentials and gets neither session nor token work.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// servePreflight answers a preflight. It reports false, and has written
// nothing, for an origin that is not trusted.
func (s site) servePreflight(w http.ResponseWriter, r *http.Request) bool {
	origin, _ := only(r, "Origin")
	if !slices.Contains(s.trusted, origin) {
		return false
	}
	h := w.Header()
	s.corsHeaders(h, r)
	addVary(h, "Access-Control-Request-Method", "Access-Control-Request-Headers")
	if method := r.Header.Get("Access-Control-Request-Method"); httpguts.ValidHeaderFieldName(method) && len(method) <= 32 {
		h.Set("Access-Control-Allow-Methods", method)
	}
	if names := r.Header.Get("Access-Control-Request-Headers"); names != "" && len(names) <= maxPreflightHeaders && validNames(names) {
		h.Set("Access-Control-Allow-Headers", names)
	}
	h.Set("Access-Control-Max-Age", "600")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return true
}

func validNames(list string) bool {
	for name := range strings.SplitSeq(list, ",") {
		if !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) {
			return false
		}
	}
	return true
}

// addVary names request headers that the answer depends on, in one line.
func addVary(h http.Header, names ...string) {
	line := strings.Join(h["Vary"], ", ")
	for _, name := range names {
		if !httpguts.HeaderValuesContainsToken([]string{line}, name) {
			if line != "" {
				line += ", "
			}
			line += name
		}
	}
	h.Set("Vary", line)
}
