// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// metadataOf is the metadata block of a server without discovery.
func metadataOf(as *astest.Server) string {
	return strings.ReplaceAll(`metadata {
		authorization_endpoint {issuer}/authorize
		token_endpoint {issuer}/token
		jwks_uri {issuer}/jwks
		revocation_endpoint {issuer}/revoke
		end_session_endpoint {issuer}/logout
	}
	scope openid profile offline_access`, "{issuer}", as.Issuer())
}

// Without discovery everything works that the metadata block has an endpoint for,
// and nobody asks for metadata.
func TestMetadataByHand(t *testing.T) {
	as := astest.New(astest.Options{WellKnown: "none"}).Start(t)
	b := newBench(t, benchOptions{server: as, bff: metadataOf(as)})
	c := b.browser().login()
	if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK {
		t.Errorf("API: %d %s", a.StatusCode, a.body)
	}
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusOK {
		t.Errorf("refresh: %d %s", a.StatusCode, a.body)
	}
	a := c.do(http.MethodPost, "/bff/logout", "", script...)
	if target, _ := a.json(t)["logout_url"].(string); !strings.HasPrefix(target, as.Issuer()+"/logout?") {
		t.Errorf("logout: %d %s", a.StatusCode, a.body)
	}
	if n := as.Count(astest.Metadata); n != 0 {
		t.Errorf("metadata was asked for %d times", n)
	}
}

// Configuration in JSON is checked when it is loaded, with the same words.
func TestMetadataByHandInJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		options map[string]any
		want    string
	}{
		{map[string]any{"metadata": map[string]any{"authorization_endpoint": "https://as/a", "token_endpoint": "https://as/t"}}, "metadata jwks_uri is missing"},
		{map[string]any{"metadata": map[string]any{"authorization_endpoint": "http://as/a", "token_endpoint": "https://as/t", "jwks_uri": "https://as/k"}}, "authorization_endpoint is not https"},
		{map[string]any{"metadata": map[string]any{}}, "metadata authorization_endpoint is missing"},
		{map[string]any{"tenants": []string{"*"}}, "the issuer is not one for several of them"},
	} {
		tt.options["issuer"], tt.options["client_id"], tt.options["client_auth"] = "https://as.example.com", "app", map[string]any{"method": "none"}
		var h Handler
		text, err := json.Marshal(tt.options)
		if err == nil {
			err = json.Unmarshal(text, &h)
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		err = h.Provision(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

const (
	tenantA = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
	tenantB = "82229342-1101-4ab6-817b-70c0747630f3"
)

// tenants is an authorization server for the users of several tenants, as Entra ID
// is. Who signs in next is of the tenant that of gives.
type tenants struct{ *astest.Server }

func newTenants(t *testing.T) tenants {
	as := tenants{astest.New(astest.Options{Path: "/organizations/v2.0", NoIssParameter: true, AccessTokenType: "JWT"}).Start(t)}
	template := as.issuer("{tenantid}")
	as.Configure(func(o *astest.Options) {
		o.MetadataDoc = func(doc map[string]any) { doc["issuer"] = template }
	})
	as.of(tenantA)
	return as
}

func (as tenants) issuer(tenant string) string {
	return strings.Replace(as.Issuer(), "/organizations/", "/"+tenant+"/", 1)
}

func (as tenants) of(tenant string) {
	issuer := as.issuer(tenant)
	as.Configure(func(o *astest.Options) {
		o.IDTokenClaims = func(_ string, claims map[string]any) {
			claims["iss"], claims["tid"] = issuer, tenant
		}
		o.AccessTokenClaims = func(_, claims map[string]any) { claims["iss"] = issuer }
	})
}

// Entra ID, many tenants: those that the operator names may sign in, and users of two
// of them who have the same sub are two users. ID-09, CB-03, LO-14.
func TestEntraTenants(t *testing.T) {
	as := newTenants(t)
	b := newBench(t, benchOptions{server: as.Server, bff: "tenants " + tenantA + " " + tenantB})
	a, other := b.browser().login(), b.browser()
	a.alive("one tenant")
	as.of(tenantB)
	other.login()
	for _, c := range []*browser{a, other} {
		if got := c.get("/api/x", script...); got.StatusCode != http.StatusOK {
			t.Fatalf("API: %d %s\n%s", got.StatusCode, got.body, b.log())
		}
	}
	// A logout token is of one tenant, and so are the sub and the sid in it.
	sids := as.SIDs("alice")
	for _, tt := range []struct{ iss, sub, sid string }{
		{as.issuer("00000000-0000-0000-0000-000000000000"), "alice", ""},
		{as.Issuer(), "alice", ""},
		{as.issuer(tenantB), "", sids[0]},
	} {
		token := as.LogoutToken(tt.sub, tt.sid, map[string]any{"iss": tt.iss})
		_ = b.browser().do(http.MethodPost, "/bff/backchannel", url.Values{"logout_token": {token}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		if !a.signedIn() || !other.signedIn() {
			t.Fatalf("logout token %+v ended a session", tt)
		}
	}
	token := as.LogoutToken("alice", "", map[string]any{"iss": as.issuer(tenantB)})
	if got := b.browser().do(http.MethodPost, "/bff/backchannel", url.Values{"logout_token": {token}}.Encode(), "Content-Type", "application/x-www-form-urlencoded"); got.StatusCode != http.StatusOK {
		t.Fatalf("logout token: %d %s", got.StatusCode, got.body)
	}
	if !a.signedIn() || other.signedIn() {
		t.Errorf("after the logout of one tenant's alice: %v, the other's: %v", a.signedIn(), other.signedIn())
	}
	// A refresh that brings another tenant's ID token ends the session. C311.
	a.do(http.MethodPost, "/bff/refresh", "", script...)
	if a.signedIn() {
		t.Error("a session of one tenant went on with the tokens of another")
	}
}

// A tenant that is not named gets no session, and one that is taken off the list has
// none any more. The iss of an authorization response is that of the ID token.
func TestEntraTenantThatMayNot(t *testing.T) {
	as := newTenants(t)
	b := newBench(t, benchOptions{server: as.Server, bff: "tenants " + tenantA + " " + tenantB})
	c := b.browser().login()
	as.of("00000000-0000-0000-0000-000000000000")
	stranger := b.browser()
	if a := stranger.get(stranger.authorize(stranger.startLogin("/x")), arrive...); a.StatusCode == http.StatusSeeOther || stranger.signedIn() {
		t.Errorf("another tenant: %d %s", a.StatusCode, a.body)
	}
	as.of(tenantA)
	mixed := b.browser()
	callback := mixed.authorize(mixed.startLogin("/x")) + "&iss=" + url.QueryEscape(as.issuer(tenantB))
	if a := mixed.get(callback, arrive...); a.StatusCode == http.StatusSeeOther || mixed.signedIn() {
		t.Errorf("iss of another tenant than that of the ID token: %d %s", a.StatusCode, a.body)
	}
	b.config = []byte(strings.Replace(string(b.config), fmt.Sprintf("%q,", tenantA), "", 1))
	b.load()
	if c.signedIn() {
		t.Error("a session of a tenant that was taken off the list")
	}
}

// Without tenants an issuer for all of them is of no use: nobody gets as far as its
// login page. MD-01.
func TestEntraWithoutTenants(t *testing.T) {
	as := newTenants(t)
	b := newBench(t, benchOptions{server: as.Server})
	if a := b.browser().get("/bff/login", navigate...); a.StatusCode == http.StatusFound || as.Count(astest.Authorize) != 0 {
		t.Errorf("%d %s", a.StatusCode, a.location())
	}
}
