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
	// Claim is its name. Placeholders are replaced once, at load.
	Claim string `json:"claim,omitempty"`
	// Values are the acceptable ones. A claim that is a list needs one of them
	// among its elements. Compared exactly. Placeholders as in Claim.
	Values []string `json:"values,omitempty"`
}

func (p *Protect) unmarshalRule(o *options) error {
	var rule Rule
	if args := o.d.RemainingArgs(); len(args) > 0 {
		rule = Rule{Claim: args[0], Values: args[1:]}
	}
	if err := rule.check(); err != nil {
		return o.d.WrapErr(err)
	}
	p.Require = append(p.Require, rule)
	return nil
}

// check says what a rule has to have. An empty value would let in whoever has
// the claim without anything in it.
func (r Rule) check() error {
	switch {
	case r.Claim == "" || len(r.Values) == 0:
		return wrong("require", "require needs a claim and at least one value")
	case slices.Contains(r.Values, ""):
		return wrong("require", "require %s has an empty value", r.Claim)
	}
	return nil
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
