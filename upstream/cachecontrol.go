// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/http"
	"strings"
)

// targetedCacheControl reports whether a field tells some shared cache more than
// Cache-Control does, and would be obeyed instead of it (RFC 9213 section 2.2,
// and what was there before it).
func targetedCacheControl(name string) bool {
	switch name {
	case "Surrogate-Control", "Edge-Control", "X-Accel-Expires":
		return true
	}
	return strings.HasSuffix(name, "-Cache-Control")
}

// keepPrivate keeps an answer out of shared caches. They leave an answer alone
// when the request has an Authorization field (RFC 9111 section 3.5), but the
// request that the browser sent has a cookie instead: so the answer says it.
func keepPrivate(h http.Header) {
	if lines, ok := h["Cache-Control"]; ok {
		h["Cache-Control"] = privateCacheControl(lines)
	} else {
		h["Cache-Control"] = []string{"private, no-store"}
	}
	addVaryCookie(h)
}

// privateCacheControl returns the directives with "private" added and those that
// only speak to shared caches removed.
func privateCacheControl(lines []string) []string {
	if len(lines) == 1 && lines[0] == "private, no-store" {
		return lines
	}
	var directives []string
	stored := false
	for _, line := range lines {
		for directive := range listElements(line) {
			name, _, _ := strings.Cut(directive, "=")
			switch strings.ToLower(strings.Trim(name, " \t")) {
			case "public", "s-maxage", "private":
				// private="field" protects that field alone.
			default:
				directives = append(directives, directive)
			}
			stored = true
		}
	}
	if !stored {
		return []string{"private, no-store"}
	}
	return []string{strings.Join(append([]string{"private"}, directives...), ", ")}
}

// addVaryCookie adds Cookie to the Vary field unless it is covered already.
func addVaryCookie(h http.Header) {
	lines := h["Vary"]
	for _, line := range lines {
		for name := range listElements(line) {
			if name == "*" || strings.EqualFold(name, "Cookie") {
				return
			}
		}
	}
	h["Vary"] = append(lines[:len(lines):len(lines)], "Cookie")
}

// listElements yields the non-empty elements of a comma-separated list (RFC 9110
// section 5.6.1), commas in quoted strings left alone.
func listElements(line string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i <= len(line); i++ {
			switch {
			case i < len(line) && quoted && line[i] == '\\':
				i++
			case i < len(line) && line[i] == '"':
				quoted = !quoted
			case i >= len(line) || line[i] == ',' && !quoted:
				element := strings.Trim(line[start:min(i, len(line))], " \t")
				if element != "" && !yield(element) {
					return
				}
				start = i + 1
			}
		}
	}
}
