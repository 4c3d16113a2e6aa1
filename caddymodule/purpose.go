// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/upstream"
)

// ExchangeOptions say what access token an upstream gets by token exchange (RFC
// 8693). One of audience, resource and scope has to be there.
type ExchangeOptions struct {
	// Audience are the names under which the authorization server knows the
	// upstream. Placeholders are replaced once, at load.
	Audience []string `json:"audience,omitempty"`
	// Resource are resource indicators of the upstream: absolute URIs without
	// fragment. Placeholders as in Audience.
	Resource []string `json:"resource,omitempty"`
	// Scope that the token has. Placeholders as in Audience. Default: what the
	// authorization server makes of it.
	Scope []string `json:"scope,omitempty"`
	// RequestedTokenType is urn:ietf:params:oauth:token-type:access_token or
	// urn:ietf:params:oauth:token-type:jwt; access_token and jwt are short for
	// these. Default: the first.
	RequestedTokenType string `json:"requested_token_type,omitempty"`
}

func (x *ExchangeOptions) unmarshalOption(o *options) error {
	switch o.name {
	case "audience":
		return o.list(&x.Audience)
	case "resource":
		return o.list(&x.Resource)
	case "scope":
		return o.list(&x.Scope)
	case "requested_token_type":
		return o.text(&x.RequestedTokenType)
	}
	return o.unrecognized()
}

// tokenType is the requested token type as the authorization server knows it.
func (x *ExchangeOptions) tokenType() string {
	switch x.RequestedTokenType {
	case "access_token":
		return oauth.TokenTypeAccessToken
	case "jwt":
		return oauth.TokenTypeJWT
	}
	return x.RequestedTokenType
}

// checkWrittenPurpose is checkPurpose before placeholders are replaced: what they
// stand for is taken as acceptable.
func (p *Protect) checkWrittenPurpose() error {
	assume := func(values []string, acceptable string) []string {
		values = slices.Clone(values)
		for i, v := range values {
			if strings.Contains(v, "{") {
				values[i] = acceptable
			}
		}
		return values
	}
	const resource, scope = "https://resource.invalid", "scope"
	written := Protect{Token: p.Token, StepUp: p.StepUp, AcceptBearer: p.AcceptBearer, Resource: assume([]string{p.Resource}, resource)[0], Scope: assume(p.Scope, scope)}
	if x := p.Exchange; x != nil {
		written.Exchange = &ExchangeOptions{
			Audience: x.Audience, Resource: assume(x.Resource, resource), Scope: assume(x.Scope, scope), RequestedTokenType: x.RequestedTokenType,
		}
	}
	return written.checkPurpose()
}

// checkPurpose says what the options that choose an access token have to be, and
// makes what is used of them. Errors are of the type optionError.
func (p *Protect) checkPurpose() error {
	p.purpose = nil
	if p.AcceptBearer && p.Exchange != nil {
		return wrong("accept_bearer", "accept_bearer relays the token of the client as it is, and exchange is for another one")
	}
	if p.StepUp && p.Token == tokenNone {
		return wrong("step_up", "step_up asks for better access tokens, and token none sends none")
	}
	narrow := ""
	switch {
	case p.Exchange != nil:
		narrow = "exchange"
	case p.Resource != "":
		narrow = "resource"
	case len(p.Scope) > 0:
		narrow = "scope"
	default:
		return nil
	}
	if p.Token == tokenNone {
		return wrong(narrow, "%s chooses an access token, and token none sends none", narrow)
	}
	if p.Exchange != nil {
		option := ""
		switch {
		case p.Resource != "":
			option = "resource"
		case len(p.Scope) > 0:
			option = "scope"
		}
		if option != "" {
			return wrong(option, "%s stands beside exchange; it belongs into its block", option)
		}
	}
	p.purpose = &session.Purpose{Scope: p.Scope}
	if p.Resource != "" {
		p.purpose.Resource = []string{p.Resource}
	}
	prefix, resource, scope := "", p.purpose.Resource, p.Scope
	if x := p.Exchange; x != nil {
		prefix, resource, scope = "exchange ", x.Resource, x.Scope
		if len(x.Audience)+len(x.Resource)+len(x.Scope) == 0 {
			return wrong("exchange", "exchange needs an audience, a resource or a scope")
		}
		if err := oneOf("exchange requested_token_type", x.tokenType(), "", oauth.TokenTypeAccessToken, oauth.TokenTypeJWT); err != nil {
			return wrong("exchange requested_token_type", "exchange requested_token_type is %q, should be one of: access_token, jwt", x.RequestedTokenType)
		}
		p.purpose = &session.Purpose{Exchange: &session.Exchange{
			Audience: x.Audience, Resource: x.Resource, Scope: x.Scope, RequestedTokenType: x.tokenType(),
		}}
		if slices.Contains(x.Audience, "") {
			return wrong("exchange audience", "exchange audience has an empty value")
		}
	}
	for _, uri := range resource {
		if err := oauth.CheckResource(uri); err != nil {
			return wrong(prefix+"resource", "%s%w", prefix, err)
		}
	}
	for _, token := range scope {
		if err := oauth.CheckScope(token); err != nil {
			return wrong(prefix+"scope", "%sscope: %w", prefix, err)
		}
	}
	return nil
}

// replacePlaceholders replaces, at load, those in the rules and in the options that
// choose an access token.
func (p *Protect) replacePlaceholders() error {
	repl := caddy.NewReplacer()
	replace := func(option string, values ...*string) error {
		for _, v := range values {
			out, err := repl.ReplaceOrErr(*v, true, true)
			if err != nil {
				return fmt.Errorf("%s is %q: %w", option, *v, err)
			}
			*v = out
		}
		return nil
	}
	list := func(values []string) (all []*string) {
		for i := range values {
			all = append(all, &values[i])
		}
		return all
	}
	errs := []error{replace("resource", &p.Resource), replace("scope", list(p.Scope)...)}
	if x := p.Exchange; x != nil {
		errs = append(errs, replace("exchange audience", list(x.Audience)...),
			replace("exchange resource", list(x.Resource)...), replace("exchange scope", list(x.Scope)...))
	}
	for i := range p.Require {
		rule := &p.Require[i]
		errs = append(errs, replace("require", append(list(rule.Values), &rule.Claim)...))
	}
	return errors.Join(errs...)
}

// tokens is where a transport gets access tokens from.
type tokens interface {
	upstream.TokenSource
	// ExpiryUnknown reports that only a refusal tells when the token expires.
	ExpiryUnknown() bool
}

// tokensOf gives the access tokens for this upstream.
func (p *Protect) tokensOf(s *session.Session) tokens {
	if p.purpose == nil {
		return s
	}
	return s.For(p.purpose)
}
