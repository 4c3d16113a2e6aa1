// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestEndSessionURL(t *testing.T) { // LO-01, LO-04
	t.Parallel()
	as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) {
		doc["end_session_endpoint"] = "https://as.test/logout?tenant=1"
	}})
	c := newClient(t, as)
	for name, tc := range map[string]struct {
		r    EndSessionRequest
		want url.Values
	}{
		"all": {
			EndSessionRequest{IDTokenHint: "id", LogoutHint: "sid", PostLogoutRedirectURI: "https://app.test/x?y=1", State: "st"},
			url.Values{"tenant": {"1"}, "client_id": {"app"}, "id_token_hint": {"id"}, "logout_hint": {"sid"}, "post_logout_redirect_uri": {"https://app.test/x?y=1"}, "state": {"st"}},
		},
		"nothing":             {EndSessionRequest{}, url.Values{"tenant": {"1"}, "client_id": {"app"}}},
		"state without a URI": {EndSessionRequest{State: "st"}, url.Values{"tenant": {"1"}, "client_id": {"app"}}},
	} {
		raw, err := c.EndSessionURL(t.Context(), tc.r)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(raw)
		if err != nil || u.Query().Encode() != tc.want.Encode() || u.Path != "/logout" {
			t.Errorf("%s: %s %v", name, raw, err)
		}
	}
	as = astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { delete(doc, "end_session_endpoint") }})
	if raw, err := newClient(t, as).EndSessionURL(t.Context(), EndSessionRequest{}); raw != "" || err != nil {
		t.Errorf("no endpoint: %q %v", raw, err)
	}
}

// LO-02: which servers need no ID token in a URL.
func TestLogoutHintClaim(t *testing.T) {
	t.Parallel()
	for issuer, want := range map[string]string{
		"https://shop.eu.auth0.com/":                    "sid",
		"https://SHOP.auth0.com/":                       "sid",
		"https://login.microsoftonline.com/tenant/v2.0": "login_hint",
		"https://login.microsoftonline.us/tenant/v2.0":  "login_hint",
		"https://as.test":                               "",
		"https://auth0.com.evil.test/":                  "",
		"https://evil-auth0.com/":                       "",
		"https://as.test/login.microsoftonline.com":     "",
		"https://x.login.microsoftonline.com/":          "",
	} {
		c, err := New(Config{Issuer: issuer, ClientID: "app", AuthMethod: AuthNone})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.LogoutHintClaim(); got != want {
			t.Errorf("%s: %q, want %q", issuer, got, want)
		}
	}
}

// Pages of the issuer and of the end-session endpoint hold frames, and what the
// metadata says gets no further into a header. LO-19.
func TestEndSessionOrigins(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{
		"":                              "https://as.test",
		"https://as.test/logout":        "https://as.test",
		"https://login.test:8443/x?y=z": "https://as.test https://login.test:8443",
		"https://a;script-src/logout":   "https://as.test",
		"https://a,b/logout":            "https://as.test",
	} {
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc["end_session_endpoint"] = endpoint }})
		got := strings.Join(newClient(t, as).EndSessionOrigins(t.Context()), " ")
		if got != want {
			t.Errorf("%s: %q, want %q", endpoint, got, want)
		}
	}
	as := astest.New(astest.Options{})
	as.SetDown(true)
	if got := newClient(t, as).EndSessionOrigins(t.Context()); len(got) != 1 || got[0] != as.Issuer() {
		t.Errorf("without metadata: %q", got)
	}
}

// Amazon Cognito has a logout endpoint of its own making: client_id and logout_uri,
// and never a token in its URL.
func TestCognitoLogout(t *testing.T) { // LO-01
	t.Parallel()
	for host, own := range map[string]bool{
		"cognito-idp.eu-west-1.amazonaws.com": true, "cognito-idp.us-gov-west-1.amazonaws.com": true,
		"cognito-idp.eu-west-1.amazonaws.com.evil.test": false, "evil-cognito-idp.amazonaws.com": false,
	} {
		as := astest.New(astest.Options{Host: host, Path: "/eu-west-1_AbCdEf", MetadataDoc: func(doc map[string]any) {
			doc["end_session_endpoint"] = "https://login.example.com/logout"
		}})
		target, err := newClient(t, as).EndSessionURL(t.Context(), EndSessionRequest{
			IDTokenHint: "token", PostLogoutRedirectURI: "https://app.test/bff/logout/callback", State: "s",
		})
		u, parseErr := url.Parse(target)
		if err != nil || parseErr != nil {
			t.Fatal(err, parseErr)
		}
		want := url.Values{"client_id": {"app"}, "logout_uri": {"https://app.test/bff/logout/callback"}}
		if got := u.Query(); own != reflect.DeepEqual(got, want) || u.Host != "login.example.com" {
			t.Errorf("%s: %s", host, target)
		}
	}
}
