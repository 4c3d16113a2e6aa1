// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"reflect"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// byHand is the metadata of an astest server without discovery.
func byHand(issuer string) *Metadata {
	return &Metadata{
		AuthorizationEndpoint: issuer + "/authorize", TokenEndpoint: issuer + "/token", JWKSURI: issuer + "/jwks",
		RevocationEndpoint: issuer + "/revoke", EndSessionEndpoint: issuer + "/logout",
	}
}

// An authorization server without discovery is never asked for its metadata, and all
// else is as ever. MD-03.
func TestConfiguredMetadata(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{WellKnown: "none", Algorithm: "ES256"})
	md := byHand(as.Issuer())
	c := newClient(t, as, func(cfg *Config) { cfg.Metadata = md })
	md.TokenEndpoint = "https://evil.test/" // what was configured is a copy
	tokens, tx := login(t, c, as)
	if _, err := c.VerifyIDToken(t.Context(), tokens.IDToken, IDTokenCheck{Nonce: tx.nonce}); err != nil {
		t.Error(err)
	}
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken}); err != nil {
		t.Error(err)
	}
	if _, err := c.CheckAccessToken(t.Context(), tokens.AccessToken, ValidateIntrospection); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without introspection endpoint: %v", err)
	}
	if n := as.Count(astest.Metadata); n != 0 {
		t.Errorf("metadata was asked for %d times", n)
	}
	if got, err := c.Metadata(t.Context()); err != nil || got.Issuer != as.Issuer() {
		t.Errorf("%+v %v", got, err)
	}
}

// What is announced counts, as it does where it was fetched. CB-02, ID-05.
func TestConfiguredMetadataMembers(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{WellKnown: "none", NoIssParameter: true})
	with := func(change func(*Metadata)) *Client {
		md := byHand(as.Issuer())
		change(md)
		return newClient(t, as, func(cfg *Config) { cfg.Metadata = md })
	}
	c := with(func(md *Metadata) { md.AuthorizationResponseIssParameterSupported = true })
	params, tx := authorize(t, c, as)
	if _, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: tx.state}); !errors.Is(err, ErrResponse) {
		t.Errorf("response without iss: %v", err)
	}
	c = with(func(md *Metadata) { md.IDTokenSigningAlgValuesSupported = []string{"RS256"} })
	if _, err := c.VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"}); !errors.Is(err, ErrIDToken) {
		t.Errorf("ID token with another algorithm: %v", err)
	}
}

func TestConfiguredMetadataIsChecked(t *testing.T) { // MD-03, C308
	t.Parallel()
	for member, change := range map[string]func(md *Metadata){
		"authorization_endpoint":                     func(md *Metadata) { md.AuthorizationEndpoint = "" },
		"token_endpoint":                             func(md *Metadata) { md.TokenEndpoint = "" },
		"jwks_uri":                                   func(md *Metadata) { md.JWKSURI = "http://as.test/jwks" },
		"revocation_endpoint":                        func(md *Metadata) { md.RevocationEndpoint = "/revoke" },
		"introspection_endpoint":                     func(md *Metadata) { md.IntrospectionEndpoint = "https://as.test/x#y" },
		"pushed_authorization_request_endpoint":      func(md *Metadata) { md.PushedAuthorizationRequestEndpoint = "https://u:p@as.test/x" },
		"end_session_endpoint":                       func(md *Metadata) { md.EndSessionEndpoint = "https://as.test:x" },
		"userinfo_endpoint":                          func(md *Metadata) { md.UserInfoEndpoint = "ftp://as.test/x" },
		"scopes_supported":                           func(md *Metadata) { md.ScopesSupported = []string{"a b"} },
		"id_token_signing_alg_values_supported":      func(md *Metadata) { md.IDTokenSigningAlgValuesSupported = []string{"ES256", "none"} },
		"introspection_signing_alg_values_supported": func(md *Metadata) { md.IntrospectionSigningAlgValuesSupported = []string{"HS256"} },
		"userinfo_signing_alg_values_supported":      func(md *Metadata) { md.UserInfoSigningAlgValuesSupported = []string{"none"} },
		"authorization_signing_alg_values_supported": func(md *Metadata) { md.AuthorizationSigningAlgValuesSupported = []string{"es256"} },
	} {
		md := byHand("https://as.test")
		change(md)
		_, err := New(Config{Issuer: "https://as.test", ClientID: "app", AuthMethod: AuthNone, Metadata: md})
		if e, ok := errors.AsType[*MemberError](err); !ok || e.Member != member {
			t.Errorf("%s: %v", member, err)
		}
	}
	_, err := New(Config{
		Issuer: "https://as.test/common/v2.0", ClientID: "app", AuthMethod: AuthNone, Metadata: byHand("https://as.test"), Tenants: []string{AnyTenant},
	})
	if err == nil {
		t.Error("beside tenants")
	}
}

// No list of what was configured is shared with whoever configured it.
func TestConfiguredMetadataIsCopied(t *testing.T) { // MD-03
	t.Parallel()
	md := byHand("https://as.test")
	lists := map[string][]string{}
	for field, v := range reflect.ValueOf(md).Elem().Fields() {
		if v.Kind() == reflect.Slice {
			lists[field.Name] = []string{"ES256"}
			v.Set(reflect.ValueOf(lists[field.Name]))
		}
	}
	own, err := md.configured("https://as.test")
	if err != nil || len(lists) == 0 {
		t.Fatal(len(lists), err)
	}
	for name, list := range lists {
		list[0] = "changed"
		if got := reflect.ValueOf(own).Elem().FieldByName(name).Index(0).String(); got != "ES256" {
			t.Errorf("%s is %s", name, got)
		}
	}
}
