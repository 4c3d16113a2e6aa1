// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

const bearerSite = `
	handle /api/* {
		bff_proxy {$API} {
			accept_bearer
		}
	}
	handle /closed/* {
		bff_proxy {$API}
	}
	handle /scoped/* {
		bff_proxy {$API} {
			accept_bearer
			scope orders
		}
	}
	handle /rules/* {
		bff_protect {
			accept_bearer
			require scope read
			require sub alice bob
		}
		respond "rules {http.auth.user.id} {http.auth.user.scope}|{http.bff.session.id}|{http.request.header.Authorization}"
	}
	handle /pass/* {
		bff_protect {
			accept_bearer
			unauthenticated pass
		}
		respond "pass {http.auth.user.id}|{http.request.header.Authorization}"
	}
`

const bearerOptions = `
		public_origin https://app.example.com
		resource https://app.example.com/api https://app.example.com https://other.example.com/api/deep
		access_token {
			validate jwt
			audience https://app.example.com/api https://app.example.com https://other.example.com/api/deep
		}`

func bearerBench(t *testing.T, options string, as astest.Options) *bench {
	t.Helper()
	as.Audience = "https://app.example.com/api"
	return newBench(t, benchOptions{as: as, bff: options, site: bearerSite})
}

func challenges(a *answer) string { return strings.Join(a.Header.Values("Www-Authenticate"), " | ") }

// A client without a session passes with a token of its own, and with nothing else.
// AT-02, AT-07, AT-11, C1.
func TestAcceptBearer(t *testing.T) {
	for mode, tt := range map[string]struct {
		options string
		as      astest.Options
	}{
		"jwt":           {bearerOptions, astest.Options{}},
		"introspection": {"public_origin https://app.example.com\naccess_token {\nvalidate introspection\n}", astest.Options{AccessTokenType: "opaque"}},
	} {
		t.Run(mode, func(t *testing.T) {
			b := bearerBench(t, tt.options, tt.as)
			tokens := b.as.Issue("bob", "openid read", "")
			c := b.browser()
			bearer := []string{"Authorization", "Bearer " + tokens.AccessToken}
			a := c.do(http.MethodPost, "/api/orders", "body", bearer...)
			if a.StatusCode != http.StatusOK || a.json(t)["sub"] != "bob" {
				t.Fatalf("status %d: %s\n%s", a.StatusCode, a.body, b.log())
			}
			if a := c.get("/rules/x", bearer...); a.body != "rules bob openid,read||Bearer "+tokens.AccessToken {
				t.Errorf("rules: %d %s", a.StatusCode, a.body)
			}
			if a := c.get("/api/x", "Authorization", "bEARER  "+tokens.AccessToken); a.StatusCode != http.StatusOK {
				t.Errorf("another spelling of the scheme: %d %s", a.StatusCode, a.body)
			}
			seen := len(b.rs.Requests())
			c.get("/closed/x", bearer...).wantError(t, 401, codeSessionRequired)
			for name, value := range map[string]string{
				"made up":       "Bearer made.up.token",
				"refresh token": "Bearer " + tokens.RefreshToken,
				"ID token":      "Bearer " + tokens.IDToken,
			} {
				for _, path := range []string{"/api/x", "/pass/x", "/rules/x"} {
					a := c.get(path, "Authorization", value)
					a.wantError(t, 401, codeInvalidToken)
					if !strings.Contains(challenges(a), `Bearer error="invalid_token"`) || strings.Contains(a.body, "login_url") {
						t.Errorf("%s at %s: %s, %s", name, path, challenges(a), a.body)
					}
				}
			}
			for name, header := range map[string][]string{
				"two fields":    {"Authorization", "Bearer a", "Authorization", "Bearer b"},
				"two tokens":    {"Authorization", "Bearer a b"},
				"no token":      {"Authorization", "Bearer"},
				"odd character": {"Authorization", `Bearer a"b`},
				"joined":        {"Authorization", "Bearer " + tokens.AccessToken + ", Bearer b"},
			} {
				a := c.get("/api/x", header...)
				a.wantError(t, 400, codeInvalidParameter)
				if !strings.Contains(challenges(a), `Bearer error="invalid_request"`) {
					t.Errorf("%s: %s", name, challenges(a))
				}
			}
			for name, target := range map[string]string{"query": "/api/x?access_token=" + b.as.Issue("bob", "openid", "").AccessToken, "none": "/api/x"} {
				a := c.get(target)
				a.wantError(t, 401, codeSessionRequired)
				if !strings.Contains(challenges(a), `Session error="session_required" | Bearer`) || strings.Contains(challenges(a), "Bearer error") {
					t.Errorf("%s: %s", name, challenges(a))
				}
			}
			c.get("/api/x", "Authorization", "Basic Ym9iOmI=").wantError(t, 401, codeSessionRequired)
			if n := len(b.rs.Requests()); n != seen {
				t.Errorf("%d refused requests got to the resource server", n-seen)
			}
			a = c.get("/scoped/x", bearer...)
			a.wantError(t, 403, codeForbidden)
			if !strings.Contains(challenges(a), `Bearer error="insufficient_scope", scope="orders"`) {
				t.Errorf("scope: %s", challenges(a))
			}
			a = c.get("/rules/x", "Authorization", "Bearer "+b.as.Issue("bob", "openid", "").AccessToken)
			a.wantError(t, 403, codeForbidden)
			if !strings.Contains(challenges(a), `error="insufficient_scope", scope="read"`) {
				t.Errorf("rule about scope: %s", challenges(a))
			}
			a = c.get("/rules/x", "Authorization", "Bearer "+b.as.Issue("eve", "openid read", "").AccessToken)
			a.wantError(t, 403, codeForbidden)
			if challenges(a) != "" {
				t.Errorf("rule about sub: %s", challenges(a))
			}
			if log := b.log(); strings.Contains(log, tokens.AccessToken) || strings.Contains(log, tokens.RefreshToken) {
				t.Error("a token is in the log")
			}
			if b.as.Count(astest.Token) != 0 {
				t.Error("the token endpoint was called")
			}
		})
	}
}

// Beside a cookie of ours a bearer token is ignored and taken off, be the session
// alive or not: no page gets to act as somebody else in a session's name. A302.
func TestBearerBesideACookie(t *testing.T) {
	b := bearerBench(t, strings.Replace(bearerOptions, "public_origin https://app.example.com", "", 1), astest.Options{})
	eve := []string{"Authorization", "Bearer " + b.as.Issue("eve", "openid read", "").AccessToken}
	c := b.browser().login()
	if a := c.get("/api/x", with(script, eve...)...); a.StatusCode != http.StatusOK || a.json(t)["sub"] != "alice" {
		t.Errorf("a live session: %d %s", a.StatusCode, a.body)
	}
	if a := c.get("/pass/x", with(script, eve...)...); a.body != "pass alice|" {
		t.Errorf("a live session, no upstream: %s", a.body)
	}
	// It does not make up for the CSRF check either.
	c.do(http.MethodPost, "/api/x", "x", with(eve, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com")...).wantError(t, 403, codeCSRFRejected)
	for _, name := range []string{"bff", "__Host-Http-bff", "__host-http-bff-other"} {
		other := b.browser()
		other.jar[name] = "dead"
		other.get("/api/x", with(script, eve...)...).wantError(t, 401, codeSessionRequired)
		if a := other.get("/pass/x", with(script, eve...)...); a.body != "pass |" {
			t.Errorf("%s: %s", name, a.body)
		}
	}
	plain := b.browser()
	plain.jar["theme"] = "dark"
	if a := plain.get("/api/x", eve...); a.StatusCode != http.StatusOK {
		t.Errorf("beside a cookie of somebody else: %d %s", a.StatusCode, a.body)
	}
}

// An outage of the authorization server lets nobody in, and says so. AT-07.
func TestBearerOutage(t *testing.T) {
	b := bearerBench(t, "access_token {\nvalidate introspection\n}", astest.Options{AccessTokenType: "opaque"})
	b.as.Script(astest.Introspect, astest.Answer{Status: http.StatusBadGateway, Times: -1})
	a := b.browser().get("/api/x", "Authorization", "Bearer "+b.as.Issue("bob", "openid", "").AccessToken)
	a.wantError(t, 503, codeServerUnavailable)
	if a.Header.Get("Retry-After") == "" || len(b.rs.Requests()) != 0 {
		t.Error("no Retry-After, or the resource server was asked")
	}
}

// A token that the resource server refuses is the client's own affair: no refresh,
// and its answer passes.
func TestBearerRefusedUpstream(t *testing.T) {
	b := bearerBench(t, bearerOptions, astest.Options{})
	b.rs.Refuse(-1)
	a := b.browser().get("/api/x", "Authorization", "Bearer "+b.as.Issue("bob", "openid", "").AccessToken)
	if a.StatusCode != http.StatusUnauthorized || a.Header.Get("X-BFF-Error") != "" || len(b.rs.Requests()) != 1 || b.as.Count(astest.Token) != 0 {
		t.Errorf("status %d, %d requests: %s", a.StatusCode, len(b.rs.Requests()), a.body)
	}
	if strings.Contains(b.log(), "upstream refused access token") {
		t.Error("another token was looked for, which would count as a refresh that failed")
	}
}

// Protected resource metadata, and where challenges point to. SU-07.
func TestProtectedResourceMetadata(t *testing.T) {
	b := bearerBench(t, bearerOptions, astest.Options{})
	c := b.browser()
	for path, resource := range map[string]string{
		"/.well-known/oauth-protected-resource":     "https://app.example.com",
		"/.well-known/oauth-protected-resource/api": "https://app.example.com/api",
	} {
		a := c.get(path)
		want := fmt.Sprint(map[string]any{"resource": resource, "authorization_servers": []any{b.as.Issuer()}, "bearer_methods_supported": []any{"header"}})
		if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" || fmt.Sprint(a.json(t)) != want {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
		c.do(http.MethodPost, path, "").wantError(t, 405, codeMethodNotAllowed)
	}
	for _, path := range []string{"/.well-known/oauth-protected-resource/api/deep", "/.well-known/oauth-protected-resource/", "/.well-known/oauth-protected-resource/api/", "/.well-known/oauth-protected-resources"} {
		if a := c.get(path); strings.Contains(a.body, "authorization_servers") {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	for path, want := range map[string]string{
		"/api/x":      `Bearer resource_metadata="https://app.example.com/.well-known/oauth-protected-resource/api"`,
		"/api/deep/x": `Bearer resource_metadata="https://app.example.com/.well-known/oauth-protected-resource/api"`,
		"/scoped/x":   `Bearer scope="orders", resource_metadata="https://app.example.com/.well-known/oauth-protected-resource"`,
	} {
		if got := c.get(path).Header.Values("Www-Authenticate"); !slices.Contains(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
	if got := challenges(c.get("/closed/x")); strings.Contains(got, "Bearer") {
		t.Errorf("where no bearer token is taken: %s", got)
	}
}

// RFC 9728 section 3.3: who gets the metadata makes its address of the resource
// identifier, or the identifier of the address, and takes nothing but that one. SU-07.
func TestProtectedResourceWithASlashAtItsEnd(t *testing.T) {
	b := bearerBench(t, `
		public_origin https://app.example.com
		resource https://app.example.com/ https://app.example.com/api/
		access_token {
			validate jwt
			audience https://app.example.com/ https://app.example.com/api/
		}`, astest.Options{})
	c := b.browser()
	for path, want := range map[string]string{
		"/.well-known/oauth-protected-resource":      "https://app.example.com/",
		"/.well-known/oauth-protected-resource/api/": "https://app.example.com/api/",
	} {
		if a := c.get(path); a.StatusCode != http.StatusOK || a.json(t)["resource"] != want {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if a := c.get("/.well-known/oauth-protected-resource/api"); strings.Contains(a.body, "authorization_servers") {
		t.Errorf("at the address of another resource: %s", a.body)
	}
	for path, want := range map[string]string{
		"/api/x":    `Bearer resource_metadata="https://app.example.com/.well-known/oauth-protected-resource/api/"`,
		"/scoped/x": `Bearer scope="orders", resource_metadata="https://app.example.com/.well-known/oauth-protected-resource"`,
	} {
		if got := c.get(path).Header.Values("Www-Authenticate"); !slices.Contains(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// Where nothing can be validated, accept_bearer is an error of the configuration.
func TestAcceptBearerNeedsValidation(t *testing.T) {
	const site = "bff_proxy localhost:9 {\naccept_bearer\n}\n"
	for name, tt := range map[string]struct {
		option string
		good   bool
	}{
		"nothing":            {"", false},
		"auto":               {"access_token {\nvalidate auto\naudience a\n}", false},
		"expiry":             {"access_token {\nvalidate expiry\n}", false},
		"jwt alone":          {"access_token {\nvalidate jwt\n}", false},
		"jwt with audience":  {"access_token {\nvalidate jwt\naudience a\n}", true},
		"introspection":      {"access_token {\nvalidate introspection\n}", true},
		"jwt, with resource": {"resource https://a\naccess_token {\nvalidate jwt\n}", false},
	} {
		err := validate(t, string(adaptTB(t, siteBlock("app", block("", "one", tt.option)+site))))
		if (err == nil) != tt.good || !tt.good && !strings.Contains(err.Error(), "site app.example.com: accept_bearer needs") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	inner := siteBlock("app", block("", "one")+"handle /api/* {\n"+block("", "two", "base_path /two", "access_token {\nvalidate introspection\n}")+site+"}\n")
	if err := validate(t, string(adaptTB(t, inner))); err != nil {
		t.Errorf("the bff that ran last counts: %v", err)
	}
}

// A named route may bring a guard and a bff together that do not fit: the request is
// the first to tell.
func TestBearerWithoutValidation(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/api/x", nil)
	hd := &handle{bff: &Handler{AccessToken: &AccessTokenOptions{Validate: "auto"}}, url: r.URL, cookies: &http.Request{}}
	p := &Protect{AcceptBearer: true}
	if b, err := p.bearer(hd, r); b != nil || err != nil {
		t.Errorf("without a token: %v, %v", b, err)
	}
	r.Header.Set("Authorization", "Bearer x")
	if _, err := p.bearer(hd, r); asHTTPError(err).code != codeMisconfigured {
		t.Errorf("error %v", err)
	}
}
