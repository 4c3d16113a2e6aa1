// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"slices"
	"strconv"
)

// Rule asks a claim of the ID token for a value.
type Rule struct {
	// Claim is its name.
	Claim string `json:"claim,omitempty"`
	// Values are the acceptable ones. A claim that is a list needs one of them
	// among its elements. Compared exactly.
	Values []string `json:"values,omitempty"`
}

// holds reports whether the claim is, or has, one of the values. A claim that is
// absent, or of a kind that has no text, is never right.
func (r Rule) holds(claims map[string]any) bool {
	switch v := claims[r.Claim].(type) {
	case []any:
		return slices.ContainsFunc(v, r.accepts)
	case []string:
		return slices.ContainsFunc(v, func(s string) bool { return slices.Contains(r.Values, s) })
	default:
		return r.accepts(v)
	}
}

func (r Rule) accepts(v any) bool {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case bool:
		text = strconv.FormatBool(v)
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64)
	case json.Number:
		text = v.String()
	default:
		return false
	}
	return slices.Contains(r.Values, text)
}
