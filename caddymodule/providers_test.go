// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// The tests of this file are of authorization servers that do things their own way,
// as far as their documentation or their source says so.

// Every Caddyfile of docs/providers.md is one, and every provider has one.
func TestProviderSnippets(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "providers.md"))
	if err != nil {
		t.Fatal(err)
	}
	snippet := regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	found := map[string]int{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		for _, m := range snippet.FindAllStringSubmatch(body, -1) {
			found[name]++
			config := m[1]
			if !strings.Contains(config, "app.example.com {") {
				config = "app.example.com {\n" + config + "}\n"
			}
			if _, err := adaptConfig(config); err != nil {
				t.Errorf("%s: %v\n%s", name, err, config)
			}
		}
	}
	for _, name := range []string{
		"Keycloak", "Entra ID", "Auth0", "Okta", "Google", "Amazon Cognito", "Zitadel", "authentik", "Dex", "Ory Hydra", "GitHub",
	} {
		if found[name] == 0 {
			t.Errorf("%s has no Caddyfile", name)
		}
	}
}

// alive makes sure that a session works, and goes on after a refresh.
func (c *browser) alive(name string) {
	c.t.Helper()
	for i := range 2 {
		if i > 0 && c.as.RevokeAccessTokens("alice") == 0 {
			c.t.Fatalf("%s: no access token to revoke", name)
		}
		if a := c.get("/api/x", script...); a.StatusCode != http.StatusOK {
			c.t.Fatalf("%s: API: %d %s\n%s", name, a.StatusCode, a.body, c.log())
		}
	}
}

// Each of these is a login, a call, a refresh after the resource server has refused
// the access token, and another call.
func TestProviderHabits(t *testing.T) {
	for name, tt := range map[string]struct {
		as  astest.Options
		bff string
	}{
		"Google: no rotation, no ID token with a refresh, opaque tokens, no offline_access": {as: astest.Options{
			Rotation: astest.RotateSame, NoRefreshedIDToken: true, AccessTokenType: "opaque", NoIssParameter: true, Claims: map[string]any{"sid": nil},
			MetadataDoc: func(doc map[string]any) {
				doc["scopes_supported"] = []string{"openid", "email", "profile"}
				delete(doc, "end_session_endpoint")
			},
		}, bff: "authorization_param access_type offline\nauthorization_param prompt consent\nlogin_param login_hint\nrefresh {\nrotation none\n}"},
		"Entra ID: no revocation endpoint, no sid, keys without alg, tokens of version 2.0": {as: astest.Options{
			AccessTokenType: "JWT", NoIssParameter: true, Algorithm: "RS256", Claims: map[string]any{"sid": nil},
			MetadataDoc: func(doc map[string]any) {
				delete(doc, "revocation_endpoint")
				delete(doc, "introspection_endpoint")
				delete(doc, "code_challenge_methods_supported")
			},
			JWKSDoc: func(doc map[string]any) {
				for _, k := range doc["keys"].([]any) {
					delete(k.(map[string]any), "alg")
				}
			},
		}},
		"Amazon Cognito: no aud and no typ in access tokens, no sid, no rotation": {as: astest.Options{
			Rotation: astest.RotateSame, AccessTokenType: "-", NoIssParameter: true, Claims: map[string]any{"sid": nil},
			AccessTokenClaims: func(_, claims map[string]any) { delete(claims, "aud"); claims["token_use"] = "access" },
		}, bff: "refresh {\nrotation none\n}"},
		"Zitadel: the project and its other applications in aud, older access tokens revoked": {as: astest.Options{
			RevokeOnRefresh: true, AccessTokenType: "JWT", Audience: "project",
			IDTokenClaims: func(_ string, claims map[string]any) {
				claims["aud"], claims["azp"] = []string{"app", "sibling", "project"}, "app"
			},
		}, bff: "access_token {\naudience project sibling\n}"},
		"authentik: access tokens made of ID tokens": {as: astest.Options{
			AccessTokenType: "JWT",
			AccessTokenClaims: func(_, claims map[string]any) {
				delete(claims, "scope")
				delete(claims, "client_id")
				claims["aud"], claims["azp"], claims["nonce"], claims["uid"] = "app", "app", "n", "u"
			},
		}},
		"Dex: access tokens made of ID tokens, no revocation endpoint, no sid": {as: astest.Options{
			AccessTokenType: "-", Rotation: astest.RotateGrace, Claims: map[string]any{"sid": nil},
			AccessTokenClaims: func(_, claims map[string]any) {
				claims["aud"], claims["nonce"], claims["at_hash"] = "app", "n", "bi96gOXZShvlWYtal9Eqiw"
			},
			MetadataDoc: func(doc map[string]any) {
				delete(doc, "revocation_endpoint")
				delete(doc, "end_session_endpoint")
			},
		}, bff: "refresh {\nrotation grace 10s\n}"},
		"Hydra: opaque tokens, lower-case token_type": {as: astest.Options{
			AccessTokenType: "opaque", Rotation: astest.RotateGrace,
			TokenResponse: func(_ string, body map[string]any) { body["token_type"] = "bearer" },
		}, bff: "refresh {\nrotation grace 10s\n}"},
		"Keycloak: refresh_expires_in of 0 for offline tokens": {as: astest.Options{
			AccessTokenType: "JWT",
			TokenResponse: func(_ string, body map[string]any) {
				body["refresh_expires_in"], body["not-before-policy"], body["session_state"] = 0, 0, "s"
			},
		}},
		"expires_in: a string":   {as: astest.Options{TokenResponse: func(_ string, body map[string]any) { body["expires_in"] = "300" }}},
		"expires_in: a fraction": {as: astest.Options{TokenResponse: func(_ string, body map[string]any) { body["expires_in"] = 299.9 }}},
		"expires_in: absent":     {as: astest.Options{TokenResponse: func(_ string, body map[string]any) { delete(body, "expires_in") }}},
		"expires_in: 0":          {as: astest.Options{TokenResponse: func(_ string, body map[string]any) { body["expires_in"] = 0 }}},
		"expires_in: huge":       {as: astest.Options{TokenResponse: func(_ string, body map[string]any) { body["expires_in"] = 1e18 }}},
		"expires_in: a word, and tokens are opaque": {as: astest.Options{AccessTokenType: "opaque", TokenResponse: func(_ string, body map[string]any) {
			body["expires_in"] = "soon"
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, benchOptions{as: tt.as, bff: tt.bff})
			c := b.browser().login()
			c.alive(name)
			if a := c.do(http.MethodPost, "/bff/logout", "", script...); a.StatusCode != http.StatusOK || c.signedIn() {
				t.Errorf("logout: %d %s", a.StatusCode, a.body)
			}
		})
	}
}

// Google gives a refresh token with the consent alone: a login without one has a
// session that ends with its access token, and its scopes are what was asked for.
func TestGoogleWithoutRefreshToken(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{Rotation: astest.RotateNone, AccessTokenType: "opaque"}, bff: "authorization_param access_type offline"})
	c := b.browser()
	if got := c.startLogin("/x").Query().Get("access_type"); got != "offline" {
		t.Errorf("access_type %q", got)
	}
	c.login()
	ends, _ := c.get("/bff/session", script...).json(t)["session"].(map[string]any)
	if left, _ := ends["absolute_expires_in"].(float64); left <= 0 || left > 300 {
		t.Errorf("the session lasts %v s, its access token 300", left)
	}
}

// Entra ID, many upstreams: a token for each by scope alone, which names the resource.
// The plain refresh sends no scope, and gets what was granted.
func TestEntraScopeNamesTheResource(t *testing.T) {
	b := newBench(t, benchOptions{
		as:  astest.Options{AccessTokenType: "JWT"},
		bff: "scope openid offline_access api://orders/.default",
		site: `
	handle /orders/* {
		bff_proxy {$API} {
			scope api://orders/.default
		}
	}
	handle {
		bff_proxy {$API}
	}`,
	})
	c := b.browser().login()
	if a := c.get("/orders/1", script...); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s\n%s", a.StatusCode, a.body, b.log())
	}
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	var plain, scoped int
	for _, r := range b.as.Requests(astest.Token) {
		switch {
		case r.GrantType != "refresh_token":
		case r.Form.Has("scope") && r.Form.Get("scope") == "api://orders/.default" && !r.Form.Has("resource"):
			scoped++
		case !r.Form.Has("scope"):
			plain++
		}
	}
	if plain == 0 || scoped == 0 {
		t.Errorf("%d refreshes without scope, %d with that of the upstream", plain, scoped)
	}
}

// Amazon Cognito sends the browser back from its logout endpoint without state: it
// ends up where the site says.
func TestCognitoLogoutComesBackWithoutState(t *testing.T) { // LO-03
	b := newBench(t, benchOptions{bff: "logout {\nreturn_to /bye\n}"})
	c := b.browser().login()
	a := c.do(http.MethodPost, "/bff/logout", url.Values{"return_to": {"/elsewhere"}}.Encode(), with(script, "Content-Type", "application/x-www-form-urlencoded")...)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := c.get("/bff/logout/callback", arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/bye" {
		t.Errorf("%d %s", a.StatusCode, a.location())
	}
}

// A server without OpenID Connect, as GitHub is, gives no ID token, and nobody is
// signed in by an access token alone.
func TestGitHubWithoutIDToken(t *testing.T) {
	as := astest.New(astest.Options{WellKnown: "none", AccessTokenType: "opaque", TokenResponse: func(_ string, body map[string]any) {
		delete(body, "id_token")
	}}).Start(t)
	b := newBench(t, benchOptions{server: as, bff: metadataOf(as)})
	c := b.browser()
	a := c.get(c.authorize(c.startLogin("/x")), arrive...)
	a.wantError(t, http.StatusBadGateway, codeTokenUnavailable)
	if c.signedIn() {
		t.Error("signed in without an ID token")
	}
}
