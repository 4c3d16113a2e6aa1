// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

const (
	tenantA = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
	tenantB = "82229342-1101-4ab6-817b-70c0747630f3"
)

func tenantIssuer(tenant string) string { return "https://as.test/" + tenant + "/v2.0" }

// newTenantServer is an authorization server for many tenants, as Entra ID is:
// whoever signs in is of tenant.
func newTenantServer(tenant string) *astest.Server {
	return astest.New(astest.Options{
		Path: "/organizations/v2.0", NoIssParameter: true,
		MetadataDoc: func(doc map[string]any) { doc["issuer"] = tenantIssuer("{tenantid}") },
		IDTokenClaims: func(_ string, claims map[string]any) {
			claims["iss"], claims["tid"] = tenantIssuer(tenant), tenant
		},
		AccessTokenType:   "JWT",
		AccessTokenClaims: func(_, claims map[string]any) { claims["iss"] = tenantIssuer(tenant) },
	})
}

func allow(tenants ...string) func(*Config) { return func(c *Config) { c.Tenants = tenants } }

// Entra ID: metadata for several tenants has a template as its issuer, and is of use
// with an allow-list alone. MD-01, ID-02, C308.
func TestEntraMetadataTemplate(t *testing.T) {
	t.Parallel()
	as := newTenantServer(tenantA)
	if _, err := newClient(t, as).Metadata(t.Context()); !errors.Is(err, ErrMetadata) {
		t.Errorf("without tenants: %v", err)
	}
	if _, err := newClient(t, as, allow(tenantA)).Metadata(t.Context()); err != nil {
		t.Errorf("with tenants: %v", err)
	}
	for _, issuer := range []string{
		as.Issuer(), tenantIssuer(tenantA), "https://evil.test/{tenantid}/v2.0", "https://as.test/{tenantid}/v2.0/", "https://as.test/{tenantid}",
		"https://as.test/organizations/{tenantid}", "https://as.test/{tenant}/v2.0", "{tenantid}",
	} {
		as.Configure(func(o *astest.Options) { o.MetadataDoc = func(doc map[string]any) { doc["issuer"] = issuer } })
		if _, err := newClient(t, as, allow(AnyTenant)).Metadata(t.Context()); !errors.Is(err, ErrMetadata) {
			t.Errorf("metadata of %s: %v", issuer, err)
		}
	}
}

// The issuer of an ID token is that of its own tenant, which the operator has
// allowed and tid names too. ID-02.
func TestEntraIDTokenOfATenant(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		allowed []string
		change  map[string]any
		fails   bool
	}{
		"allowed":             {[]string{tenantB, tenantA}, nil, false},
		"any":                 {[]string{AnyTenant}, nil, false},
		"another":             {[]string{tenantB}, nil, true},
		"tid of another":      {[]string{tenantA, tenantB}, map[string]any{"tid": tenantB}, true},
		"no tid":              {[]string{tenantA}, map[string]any{"tid": nil}, true},
		"tid is a number":     {[]string{tenantA}, map[string]any{"tid": 7}, true},
		"the template":        {[]string{AnyTenant}, map[string]any{"iss": tenantIssuer("{tenantid}"), "tid": "{tenantid}"}, true},
		"the issuer for all":  {[]string{AnyTenant}, map[string]any{"iss": tenantIssuer("organizations"), "tid": "organizations"}, true},
		"no tenant at all":    {[]string{AnyTenant}, map[string]any{"iss": tenantIssuer(""), "tid": ""}, true},
		"upper case":          {[]string{AnyTenant}, map[string]any{"iss": tenantIssuer(strings.ToUpper(tenantA)), "tid": strings.ToUpper(tenantA)}, true},
		"a path more":         {[]string{AnyTenant}, map[string]any{"iss": tenantIssuer(tenantA + "/x"), "tid": tenantA + "/x"}, true},
		"another host":        {[]string{tenantA}, map[string]any{"iss": "https://evil.test/" + tenantA + "/v2.0"}, true},
		"slash at the end":    {[]string{tenantA}, map[string]any{"iss": tenantIssuer(tenantA) + "/"}, true},
		"former version":      {[]string{tenantA}, map[string]any{"iss": "https://sts.windows.net/" + tenantA + "/"}, true},
		"iss is not a string": {[]string{tenantA}, map[string]any{"iss": []any{tenantIssuer(tenantA)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := newTenantServer(tenantA)
			claims := map[string]any{"iss": tenantIssuer(tenantA), "tid": tenantA}
			for name, v := range tt.change {
				claims[name] = v
			}
			id, err := newClient(t, as, allow(tt.allowed...)).VerifyIDToken(t.Context(), idToken(as, claims), IDTokenCheck{Nonce: "n"})
			if tt.fails != errors.Is(err, ErrIDTokenMismatch) || tt.fails != (err != nil) {
				t.Fatal(err)
			}
			if err == nil && id.Issuer != tenantIssuer(tenantA) {
				t.Errorf("issuer %q", id.Issuer)
			}
		})
	}
}

// A refreshed ID token of another tenant is of another user, whatever its sub is.
func TestEntraRefreshedIDTokenOfAnotherTenant(t *testing.T) { // ID-09
	t.Parallel()
	as := newTenantServer(tenantA)
	c := newClient(t, as, allow(tenantA, tenantB))
	check := RefreshedIDTokenCheck{Issuer: tenantIssuer(tenantA), Subject: "alice"}
	if _, err := c.VerifyRefreshedIDToken(t.Context(), idToken(as, map[string]any{"iss": tenantIssuer(tenantA), "tid": tenantA}), check); err != nil {
		t.Error(err)
	}
	if _, err := c.VerifyRefreshedIDToken(t.Context(), idToken(as, map[string]any{"iss": tenantIssuer(tenantB), "tid": tenantB}), check); !errors.Is(err, ErrSubjectChanged) {
		t.Errorf("another tenant: %v", err)
	}
}

// RFC 9207: what the authorization response says has to be a tenant's issuer too, and
// the very one of the ID token. CB-03, C306.
func TestEntraIssOfTheAuthorizationResponse(t *testing.T) {
	t.Parallel()
	for iss, passes := range map[string]bool{
		tenantIssuer(tenantA): true, tenantIssuer(tenantB): true,
		tenantIssuer("organizations"): false, tenantIssuer("{tenantid}"): false, tenantIssuer("00000000-0000-0000-0000-000000000000"): false, "": false,
	} {
		as := newTenantServer(tenantA)
		c := newClient(t, as, allow(tenantA, tenantB))
		params, tx := authorize(t, c, as)
		params.Set("iss", iss)
		if _, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: tx.state}); passes != (err == nil) {
			t.Errorf("iss %q: %v", iss, err)
		}
		if got := ResponseIssuer(params); got != iss {
			t.Errorf("iss is %q, not %q", got, iss)
		}
	}
	as := newTenantServer(tenantA)
	c := newClient(t, as, allow(tenantA, tenantB))
	token := idToken(as, map[string]any{"iss": tenantIssuer(tenantA), "tid": tenantA})
	for iss, passes := range map[string]bool{"": true, tenantIssuer(tenantA): true, tenantIssuer(tenantB): false} {
		if _, err := c.VerifyIDToken(t.Context(), token, IDTokenCheck{Nonce: "n", Issuer: iss}); passes != (err == nil) {
			t.Errorf("response of %q: %v", iss, err)
		}
	}
}

// A key of the shared set that is one tenant's makes no tokens of another.
func TestEntraKeyOfOneTenant(t *testing.T) { // C1
	t.Parallel()
	for issuer, passes := range map[any]bool{
		tenantIssuer("{tenantid}"): true, tenantIssuer(tenantA): true, tenantIssuer(tenantB): false, nil: true, 7: false,
	} {
		as := newTenantServer(tenantA)
		as.Configure(func(o *astest.Options) {
			o.JWKSDoc = func(doc map[string]any) {
				for _, k := range doc["keys"].([]any) {
					if issuer != nil {
						k.(map[string]any)["issuer"] = issuer
					}
				}
			}
		})
		c := newClient(t, as, allow(tenantA, tenantB))
		_, err := c.VerifyIDToken(t.Context(), idToken(as, map[string]any{"iss": tenantIssuer(tenantA), "tid": tenantA}), IDTokenCheck{Nonce: "n"})
		if passes != (err == nil) {
			t.Errorf("key of %v: %v", issuer, err)
		}
	}
	// Without tenants the member means nothing.
	as := astest.New(astest.Options{JWKSDoc: func(doc map[string]any) {
		for _, k := range doc["keys"].([]any) {
			k.(map[string]any)["issuer"] = "https://elsewhere.test"
		}
	}})
	if _, err := newClient(t, as).VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"}); err != nil {
		t.Error(err)
	}
}

func TestEntraLogoutTokenOfATenant(t *testing.T) { // LO-10
	t.Parallel()
	as := newTenantServer(tenantA)
	c := newClient(t, as, allow(tenantA))
	for iss, passes := range map[string]bool{tenantIssuer(tenantA): true, tenantIssuer(tenantB): false, as.Issuer(): false} {
		token, err := c.VerifyLogoutToken(t.Context(), Secret(as.LogoutToken("alice", "", map[string]any{"iss": iss})))
		if passes != (err == nil) || passes && token.Issuer != iss {
			t.Errorf("%s: %v", iss, err)
		}
	}
}

// Entra ID: tokens for a resource server that is registered for version 1.0 have an
// issuer of their own, and the same keys. AT-02.
func TestEntraAccessTokenOfVersion1(t *testing.T) {
	t.Parallel()
	old := func(tenant string) string { return "https://sts.windows.net/" + tenant + "/" }
	for _, tt := range []struct {
		host, path, iss string
		tenants         []string
		passes          bool
	}{
		{"login.microsoftonline.com", "/" + tenantA + "/v2.0", old(tenantA), nil, true},
		{"login.microsoftonline.com", "/" + tenantA + "/v2.0", old(tenantB), nil, false},
		{"login.microsoftonline.com", "/" + tenantA + "/v2.0", old("x/../" + tenantA), nil, false},
		{"login.microsoftonline.com", "/" + tenantA + "/v2.0", "https://sts.windows.net/" + tenantA, nil, false},
		{"login.microsoftonline.com", "/contoso/v2.0", old("contoso"), nil, false},
		{"login.microsoftonline.com", "/organizations/v2.0", old(tenantA), []string{tenantA}, true},
		{"login.microsoftonline.com", "/organizations/v2.0", old(tenantB), []string{tenantA}, false},
		{"login.microsoftonline.com", "/organizations/v2.0", old("organizations"), []string{AnyTenant}, false},
		{"as.test", "/" + tenantA + "/v2.0", old(tenantA), nil, false},
	} {
		as := astest.New(astest.Options{Host: tt.host, Path: tt.path, MetadataDoc: func(doc map[string]any) {
			if tt.tenants != nil {
				doc["issuer"] = "https://" + tt.host + "/{tenantid}/v2.0"
			}
		}})
		c := newClient(t, as, allow(tt.tenants...))
		token := accessToken(as, as.SigningKey(), func(header, claims map[string]any) { header["typ"], claims["iss"] = "JWT", tt.iss })
		v, err := c.CheckAccessToken(t.Context(), token, ValidateAuto)
		if passes := err == nil && v.JWT; passes != tt.passes {
			t.Errorf("%s%s, tenants %v, token of %s: %+v %v", tt.host, tt.path, tt.tenants, tt.iss, v, err)
		}
	}
}

// Entra ID: an access token for Microsoft Graph looks like a JWT of a known key and
// does not verify as one: it is opaque to us. AT-05.
func TestEntraAccessTokenForGraph(t *testing.T) {
	t.Parallel()
	as := newTenantServer(tenantA)
	c := newClient(t, as, allow(tenantA))
	token := accessToken(as, as.SigningKey(), func(header, _ map[string]any) {
		header["typ"], header["nonce"] = "JWT", "what was signed is the digest of this"
	})
	broken := Secret(token.Reveal()[:len(token.Reveal())-8] + "AAAAAAAA")
	if v, err := c.CheckAccessToken(t.Context(), broken, ValidateAuto); err != nil || v.JWT {
		t.Errorf("%+v %v", v, err)
	}
}

func TestTenantsAreChecked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		issuer  string
		tenants []string
		want    string
	}{
		{"https://as.test/organizations/v2.0", []string{tenantA, tenantB}, ""},
		{"https://as.test/common/v2.0", []string{AnyTenant}, ""},
		{"https://as.test/common/v2.0", []string{AnyTenant, tenantA}, "stands alone"},
		{"https://as.test/common/v2.0", []string{"contoso.onmicrosoft.com"}, "is not a tenant ID"},
		{"https://as.test/common/v2.0", []string{strings.ToUpper(tenantA)}, "is not a tenant ID"},
		{"https://as.test/common/v2.0", []string{""}, "is not a tenant ID"},
		{"https://as.test/common/v2.0", []string{tenantA[:35] + "g"}, "is not a tenant ID"},
		{"https://as.test/common/v2.0", []string{strings.ReplaceAll(tenantA, "-", "0")}, "is not a tenant ID"},
		{"https://as.test", []string{tenantA}, "is not one for several of them"},
		{"https://as.test/", []string{tenantA}, "is not one for several of them"},
		{"https://as.test/common", []string{tenantA}, "is not one for several of them"},
		{"https://as.test/" + tenantA + "/v2.0", []string{tenantA}, "is not one for several of them"},
	} {
		_, err := New(Config{Issuer: tt.issuer, ClientID: "app", AuthMethod: AuthNone, Tenants: tt.tenants})
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %q: %v", tt.issuer, tt.tenants, err)
		}
	}
}
