// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
)

// MemberError is what is wrong with a member of metadata that was configured.
type MemberError struct {
	Member string // by its name in RFC 8414 or where it is registered
	err    error
}

// Error names the member.
func (e *MemberError) Error() string { return fmt.Sprintf("oauth: metadata: %s %v", e.Member, e.err) }

// Unwrap returns what is wrong.
func (e *MemberError) Unwrap() error { return e.err }

// CheckMetadata checks metadata for [Config].Metadata as if it had been fetched: the
// required endpoints are there, and all are https, or http on loopback. Signature
// algorithms have to be known ones. Errors: a [*MemberError].
func CheckMetadata(md *Metadata) error {
	for _, e := range md.endpoints() {
		if *e.to == "" {
			if e.required {
				return &MemberError{e.name, errors.New("is missing")}
			}
			continue
		}
		u, err := url.Parse(*e.to)
		if err != nil {
			return &MemberError{e.name, errors.New("is not a URL")}
		}
		if err := checkEndpoint(u); err != nil {
			return &MemberError{e.name, err}
		}
	}
	for _, m := range []struct {
		name string
		algs []string
	}{
		{"id_token_signing_alg_values_supported", md.IDTokenSigningAlgValuesSupported},
		{"introspection_signing_alg_values_supported", md.IntrospectionSigningAlgValuesSupported},
		{"userinfo_signing_alg_values_supported", md.UserInfoSigningAlgValuesSupported},
		{"authorization_signing_alg_values_supported", md.AuthorizationSigningAlgValuesSupported},
	} {
		for _, alg := range m.algs {
			if _, known := algorithms[alg]; !known && alg != "Ed25519" {
				return &MemberError{m.name, fmt.Errorf("has %q, which is not accepted", alg)}
			}
		}
	}
	for _, token := range md.ScopesSupported {
		if err := CheckScope(token); err != nil {
			return &MemberError{"scopes_supported", fmt.Errorf("has %w", err)}
		}
	}
	return nil
}

// configured returns a copy of configured metadata, of an issuer.
func (md *Metadata) configured(issuer string) (*Metadata, error) {
	if md == nil {
		return nil, nil
	}
	if err := CheckMetadata(md); err != nil {
		return nil, err
	}
	own := *md
	own.Issuer = issuer
	for _, list := range []*[]string{
		&own.ScopesSupported, &own.ResponseModesSupported, &own.TokenEndpointAuthMethodsSupported, &own.TokenEndpointAuthSigningAlgValuesSupported,
		&own.CodeChallengeMethodsSupported, &own.IDTokenSigningAlgValuesSupported, &own.IntrospectionSigningAlgValuesSupported,
		&own.RequestObjectSigningAlgValuesSupported, &own.AuthorizationSigningAlgValuesSupported,
		&own.UserInfoSigningAlgValuesSupported, &own.DPoPSigningAlgValuesSupported,
	} {
		*list = slices.Clone(*list)
	}
	return &own, nil
}
