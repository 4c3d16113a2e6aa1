// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestCheckResource(t *testing.T) { // TX-05
	t.Parallel()
	for uri, ok := range map[string]bool{
		"https://orders.example.com":             true,
		"https://orders.example.com/v1?a=b":      true,
		"api://5f9c":                             true,
		"urn:orders":                             true,
		"":                                       false,
		"orders":                                 false,
		"/orders":                                false,
		"//orders.example.com":                   false,
		"https://":                               false,
		"https://orders.example.com#":            false,
		"https://orders.example.com/#x":          false,
		"urn:orders#x":                           false,
		"https://a b":                            false,
		"https://a\n":                            false,
		`https://a"b`:                            false,
		"https://bücher.example":                 false,
		"https://a/%zz":                          false,
		"https://a/" + strings.Repeat("x", 3000): false,
	} {
		if err := CheckResource(uri); ok != (err == nil) {
			t.Errorf("%.60q: %v", uri, err)
		}
	}
}

// TX-05: the configured indicators go along with everything that asks for a default
// access token; whoever names others asks for these alone.
func TestConfiguredResource(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as, func(cfg *Config) {
		cfg.Resource = []string{"https://a", "https://b"}
		cfg.Params = url.Values{"resource": {"https://c", "https://b"}}
	})
	target, err := c.AuthorizationURL(t.Context(), AuthorizationRequest{
		RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier(),
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	if got := u.Query()["resource"]; !slices.Equal(got, []string{"https://c", "https://b", "https://a"}) {
		t.Errorf("authorization request: %q", got)
	}
	_, _ = c.Exchange(t.Context(), ExchangeRequest{Code: "c", RedirectURI: redirectURI})
	_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"})
	_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt", Scope: []string{"s"}})
	_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt", Resource: []string{"https://d"}})
	_, _ = c.ExchangeToken(t.Context(), TokenExchangeRequest{SubjectToken: "at", Audience: []string{"x"}})
	byDefault := []string{"https://a", "https://b"}
	for i, want := range [][]string{byDefault, byDefault, byDefault, {"https://d"}, nil} {
		if got := as.Requests(astest.Token)[i].Form["resource"]; !slices.Equal(got, want) {
			t.Errorf("request %d: %q, want %q", i, got, want)
		}
	}
	if got := c.cfg.Params["resource"]; len(got) != 2 {
		t.Errorf("the configuration has changed: %q", got)
	}
}

// A token of another audience than that of its purpose is refused, where audiences
// are checked at all. AT-08.
func TestAudienceOfOneToken(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	token := Secret(as.Issue("alice", "openid", "").AccessToken) // for https://api.test
	for _, tc := range []struct {
		mode       ValidateMode
		configured []string
		audience   []string
		ok         bool
	}{
		{ValidateJWT, nil, nil, true},
		{ValidateJWT, nil, []string{"https://api.test"}, true},
		{ValidateJWT, nil, []string{"https://other.test"}, false},
		{ValidateJWT, []string{"https://api.test"}, []string{"https://other.test"}, false},
		{ValidateJWT, []string{"https://other.test"}, []string{"https://api.test"}, true},
		{ValidateAuto, nil, []string{"https://other.test"}, true},
		{ValidateAuto, []string{"https://api.test"}, []string{"https://other.test"}, false},
		{ValidateAuto, []string{"https://other.test"}, []string{"https://api.test", "x"}, true},
		{ValidateAuto, []string{"https://other.test"}, nil, false},
		{ValidateExpiry, []string{"https://other.test"}, []string{"https://other.test"}, true},
	} {
		c := newClient(t, as, func(cfg *Config) { cfg.Audience = tc.configured })
		if _, err := c.CheckAccessToken(t.Context(), token, tc.mode, tc.audience...); tc.ok != (err == nil) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
