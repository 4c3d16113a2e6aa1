// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"slices"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// MetadataOptions are authorization server metadata by hand, under the names of RFC
// 8414 and where else they are registered. Endpoints are https, or http on loopback;
// with a client certificate those where the client authenticates are the ones for
// mutual TLS. Placeholders as in Issuer.
type MetadataOptions struct {
	// AuthorizationEndpoint is where users sign in. Required.
	AuthorizationEndpoint string `json:"authorization_endpoint,omitempty"`
	// TokenEndpoint gives tokens. Required.
	TokenEndpoint string `json:"token_endpoint,omitempty"`
	// JWKSURI has the keys that ID tokens are signed with. Required.
	JWKSURI string `json:"jwks_uri,omitempty"`
	// RevocationEndpoint (RFC 7009). Default: none, tokens are not revoked.
	RevocationEndpoint string `json:"revocation_endpoint,omitempty"`
	// IntrospectionEndpoint (RFC 7662). Default: none.
	IntrospectionEndpoint string `json:"introspection_endpoint,omitempty"`
	// PushedAuthorizationRequestEndpoint (RFC 9126). Default: none.
	PushedAuthorizationRequestEndpoint string `json:"pushed_authorization_request_endpoint,omitempty"`
	// EndSessionEndpoint is where users sign out (OpenID Connect RP-Initiated Logout).
	// Default: none, they sign out here alone.
	EndSessionEndpoint string `json:"end_session_endpoint,omitempty"`
	// UserInfoEndpoint (OpenID Connect Core section 5.3). Default: none.
	UserInfoEndpoint string `json:"userinfo_endpoint,omitempty"`
	// ScopesSupported are scopes that it knows; offline_access among them makes it part
	// of the default scope. Default: none is known.
	ScopesSupported []string `json:"scopes_supported,omitempty"`
	// IDTokenSigningAlgValuesSupported are the only algorithms for ID tokens and logout
	// tokens. Default: all that are accepted anywhere.
	IDTokenSigningAlgValuesSupported []string `json:"id_token_signing_alg_values_supported,omitempty"`
	// AuthorizationSigningAlgValuesSupported are those for signed authorization
	// responses (JARM). Default: as before.
	AuthorizationSigningAlgValuesSupported []string `json:"authorization_signing_alg_values_supported,omitempty"`
	// IntrospectionSigningAlgValuesSupported: introspection answers are signed (RFC
	// 9701). Default: they are not.
	IntrospectionSigningAlgValuesSupported []string `json:"introspection_signing_alg_values_supported,omitempty"`
	// AuthorizationResponseIssParameterSupported: every authorization response has iss,
	// and one without is refused (RFC 9207). Default: false, one that is there is checked.
	AuthorizationResponseIssParameterSupported bool `json:"authorization_response_iss_parameter_supported,omitempty"`
}

func (m *MetadataOptions) unmarshalOption(o *options) error {
	for _, e := range m.endpoints() {
		if o.name == e.name {
			return o.text(e.to)
		}
	}
	for _, l := range m.lists() {
		if o.name == l.name {
			return o.list(l.to)
		}
	}
	if o.name == "authorization_response_iss_parameter_supported" {
		m.AuthorizationResponseIssParameterSupported = true
		return o.flag()
	}
	return o.unrecognized()
}

type metadataEndpoint struct {
	name string
	to   *string
}

func (m *MetadataOptions) endpoints() []metadataEndpoint {
	return []metadataEndpoint{
		{"authorization_endpoint", &m.AuthorizationEndpoint},
		{"token_endpoint", &m.TokenEndpoint},
		{"jwks_uri", &m.JWKSURI},
		{"revocation_endpoint", &m.RevocationEndpoint},
		{"introspection_endpoint", &m.IntrospectionEndpoint},
		{"pushed_authorization_request_endpoint", &m.PushedAuthorizationRequestEndpoint},
		{"end_session_endpoint", &m.EndSessionEndpoint},
		{"userinfo_endpoint", &m.UserInfoEndpoint},
	}
}

// lacks reports an endpoint that is not there.
func (m *MetadataOptions) lacks(name string) bool {
	return slices.ContainsFunc(m.endpoints(), func(e metadataEndpoint) bool { return e.name == name && *e.to == "" })
}

// lists are the options that are lists, by name.
func (m *MetadataOptions) lists() []metadataList {
	return []metadataList{
		{"scopes_supported", &m.ScopesSupported},
		{"id_token_signing_alg_values_supported", &m.IDTokenSigningAlgValuesSupported},
		{"authorization_signing_alg_values_supported", &m.AuthorizationSigningAlgValuesSupported},
		{"introspection_signing_alg_values_supported", &m.IntrospectionSigningAlgValuesSupported},
	}
}

type metadataList struct {
	name string
	to   *[]string
}

// replaced are the options with placeholders.
func (m *MetadataOptions) replaced() []replaced {
	if m == nil {
		return nil
	}
	var all []replaced
	for _, e := range m.endpoints() {
		if *e.to != "" {
			all = append(all, replaced{"metadata " + e.name, []*string{e.to}, func() { *e.to = "https://unknown.invalid" }})
		}
	}
	for _, l := range m.lists() {
		r := replaced{option: "metadata " + l.name, forget: func() { *l.to = nil }}
		for i := range *l.to {
			r.values = append(r.values, &(*l.to)[i])
		}
		all = append(all, r)
	}
	return all
}

// oauth gives the metadata; nil for nil.
func (m *MetadataOptions) oauth() *oauth.Metadata {
	if m == nil {
		return nil
	}
	return &oauth.Metadata{
		AuthorizationEndpoint: m.AuthorizationEndpoint, TokenEndpoint: m.TokenEndpoint, JWKSURI: m.JWKSURI,
		RevocationEndpoint: m.RevocationEndpoint, IntrospectionEndpoint: m.IntrospectionEndpoint,
		PushedAuthorizationRequestEndpoint: m.PushedAuthorizationRequestEndpoint,
		EndSessionEndpoint:                 m.EndSessionEndpoint, UserInfoEndpoint: m.UserInfoEndpoint,
		ScopesSupported:                            m.ScopesSupported,
		IDTokenSigningAlgValuesSupported:           m.IDTokenSigningAlgValuesSupported,
		AuthorizationSigningAlgValuesSupported:     m.AuthorizationSigningAlgValuesSupported,
		IntrospectionSigningAlgValuesSupported:     m.IntrospectionSigningAlgValuesSupported,
		AuthorizationResponseIssParameterSupported: m.AuthorizationResponseIssParameterSupported,
	}
}

// checkMetadata checks what is known of the authorization server by configuration:
// its metadata and its tenants. An option that needs an endpoint which metadata by
// hand does not have could never work.
func (h *Handler) checkMetadata() error {
	if len(h.Tenants) > 0 {
		if problem, ok := tryClient(oauth.Config{Issuer: h.Issuer, Tenants: h.Tenants}); h.Issuer != "" && !ok {
			return wrong("tenants", "%s", problem)
		}
		if h.Metadata != nil {
			return wrong("tenants", "tenants are known from metadata that is fetched, and there is a metadata block")
		}
	}
	if h.Metadata == nil {
		return nil
	}
	if err := oauth.CheckMetadata(h.Metadata.oauth()); err != nil {
		if e, ok := errors.AsType[*oauth.MemberError](err); ok {
			at := "metadata " + e.Member
			if h.Metadata.lacks(e.Member) {
				at = "metadata"
			}
			return wrong(at, "metadata %s %w", e.Member, e.Unwrap())
		}
		return wrong("metadata", "metadata: %w", err)
	}
	for _, needs := range []struct {
		what, endpoint string
		needed, there  bool
	}{
		{"userinfo on", "userinfo_endpoint", h.UserInfo == "on", h.Metadata.UserInfoEndpoint != ""},
		{"par required", "pushed_authorization_request_endpoint", h.PAR == string(oauth.PARRequired), h.Metadata.PushedAuthorizationRequestEndpoint != ""},
		{"access_token validate introspection", "introspection_endpoint", h.AccessToken.Validate == string(oauth.ValidateIntrospection), h.Metadata.IntrospectionEndpoint != ""},
	} {
		if needs.needed && !needs.there {
			return wrong("metadata", "metadata has no %s, which %s needs", needs.endpoint, needs.what)
		}
	}
	return nil
}
