// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestAuthorizationURL(t *testing.T) { // AR-01, AR-05, AR-07, AR-09, RF-16
	t.Parallel()
	as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) {
		doc["authorization_endpoint"] = "https://as.test/authorize?tenant=1&scope=evil"
	}})
	c := newClient(t, as, func(cfg *Config) { cfg.Params = url.Values{"prompt": {"login"}, "audience": {"x y&z"}} })
	r := AuthorizationRequest{
		RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier(),
		Params: url.Values{"prompt": {"none"}, "max_age": {"60"}, "resource": {"https://a", "https://b"}}, ResponseMode: "form_post",
	}
	raw, err := c.AuthorizationURL(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"tenant": "1", "response_type": "code", "client_id": "app", "redirect_uri": redirectURI, "scope": "openid profile offline_access",
		"state": r.State.Reveal(), "nonce": r.Nonce.Reveal(), "code_challenge_method": "S256", "prompt": "none", "max_age": "60",
		"audience": "x y&z", "response_mode": "form_post",
	} {
		if got := q[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if len(q.Get("code_challenge")) != 43 || strings.Contains(raw, r.CodeVerifier.Reveal()) || !slices.Equal(q["resource"], []string{"https://a", "https://b"}) {
		t.Error(raw)
	}
	r.ResponseMode = ""
	if raw, err = c.AuthorizationURL(t.Context(), r); err != nil || strings.Contains(raw, "response_mode") {
		t.Errorf("%s %v", raw, err)
	}
}

// An essential acr of the request is not asked for together with acr_values of the
// configuration, which some servers would go by.
func TestEssentialACRGoesAlone(t *testing.T) { // AR-09
	t.Parallel()
	c := newClient(t, astest.New(astest.Options{}), func(cfg *Config) { cfg.Params = url.Values{"acr_values": {"silver"}} })
	for claims, want := range map[string]string{
		`{"id_token":{"acr":{"essential":true,"value":"gold"}}}`: "",
		`{"id_token":{"acr":{"value":"gold"}}}`:                  "silver",
		`{"id_token":{"acr":{"essential":true}}}`:                "silver",
		`{}`: "silver",
	} {
		raw, err := c.AuthorizationURL(t.Context(), AuthorizationRequest{
			RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier(), Params: url.Values{"claims": {claims}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if u, err := url.Parse(raw); err != nil || u.Query().Get("acr_values") != want || u.Query().Get("claims") != claims {
			t.Errorf("%s: %s, %v", claims, raw, err)
		}
	}
}

func TestScopeOfTheAuthorizationRequest(t *testing.T) { // AR-08
	t.Parallel()
	for name, tc := range map[string]struct {
		configured, supported []string
		want                  string
		nonce                 bool
	}{
		"default, offline_access listed": {nil, []string{"openid", "offline_access"}, "openid profile offline_access", true},
		"default, not listed":            {nil, []string{"openid"}, "openid profile", true},
		"configured":                     {[]string{"openid", "x"}, []string{"openid", "offline_access"}, "openid x", true},
		"without openid":                 {[]string{"x"}, nil, "x", false},
	} {
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc["scopes_supported"] = tc.supported }})
		c := newClient(t, as, func(cfg *Config) { cfg.Scope = tc.configured })
		raw, err := c.AuthorizationURL(t.Context(), AuthorizationRequest{RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier()})
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(raw)
		if u.Query().Get("scope") != tc.want || u.Query().Has("nonce") != tc.nonce {
			t.Errorf("%s: %s", name, raw)
		}
		further := AuthorizationRequest{RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier(), Scope: []string{"x", "orders:write"}}
		if raw, err = c.AuthorizationURL(t.Context(), further); err != nil {
			t.Fatal(err)
		}
		want := tc.want + " orders:write" // SU-01
		if !slices.Contains(strings.Fields(tc.want), "x") {
			want = tc.want + " x orders:write"
		}
		if u, _ = url.Parse(raw); u.Query().Get("scope") != want {
			t.Errorf("%s, and further scope: %s", name, raw)
		}
	}
}

func TestAuthorizationRequestsThatAreRefused(t *testing.T) { // AR-06, C305
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	good := AuthorizationRequest{RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier()}
	for name, change := range map[string]func(*AuthorizationRequest){
		"no redirect URI":         func(r *AuthorizationRequest) { r.RedirectURI = "" },
		"relative redirect URI":   func(r *AuthorizationRequest) { r.RedirectURI = "/cb" },
		"http redirect URI":       func(r *AuthorizationRequest) { r.RedirectURI = "http://app.test/cb" },
		"redirect URI fragment":   func(r *AuthorizationRequest) { r.RedirectURI += "#x" },
		"no state":                func(r *AuthorizationRequest) { r.State = "" },
		"no nonce":                func(r *AuthorizationRequest) { r.Nonce = "" },
		"state is nonce":          func(r *AuthorizationRequest) { r.Nonce = r.State },
		"no verifier":             func(r *AuthorizationRequest) { r.CodeVerifier = "" },
		"short verifier":          func(r *AuthorizationRequest) { r.CodeVerifier = r.CodeVerifier[1:] },
		"verifier with a space":   func(r *AuthorizationRequest) { r.CodeVerifier += " " },
		"replaced client_id":      func(r *AuthorizationRequest) { r.Params = url.Values{"client_id": {"x"}} },
		"replaced scope":          func(r *AuthorizationRequest) { r.Params = url.Values{"scope": {"admin"}} },
		"scope of two words":      func(r *AuthorizationRequest) { r.Scope = []string{"a b"} }, // SU-04
		"scope with a quote":      func(r *AuthorizationRequest) { r.Scope = []string{`a"`} },
		"request object":          func(r *AuthorizationRequest) { r.Params = url.Values{"request": {"x"}} },
		"repeated prompt":         func(r *AuthorizationRequest) { r.Params = url.Values{"prompt": {"none", "login"}} },
		"unknown response mode":   func(r *AuthorizationRequest) { r.ResponseMode = "fragment" },
		"code challenge by hand":  func(r *AuthorizationRequest) { r.Params = url.Values{"code_challenge_method": {"plain"}} },
		"challenge method absent": func(r *AuthorizationRequest) { r.Params = url.Values{"code_challenge": {"x"}} },
	} {
		r := good
		change(&r)
		if raw, err := c.AuthorizationURL(t.Context(), r); err == nil {
			t.Errorf("%s: %s", name, raw)
		}
	}
	for _, methods := range [][]string{{"plain"}, {"plain", "s256"}} { // PKCE downgrade
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc["code_challenge_methods_supported"] = methods }})
		if raw, err := newClient(t, as).AuthorizationURL(t.Context(), good); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: %s %v", methods, raw, err)
		}
	}
	as = astest.New(astest.Options{MetadataDoc: func(doc map[string]any) {
		delete(doc, "code_challenge_methods_supported")
		doc["response_modes_supported"] = []string{"query"}
	}})
	c = newClient(t, as)
	if raw, err := c.AuthorizationURL(t.Context(), good); err != nil || !strings.Contains(raw, "code_challenge_method=S256") { // MD-05
		t.Errorf("PKCE not announced: %s %v", raw, err)
	}
	good.ResponseMode = "form_post"
	if _, err := c.AuthorizationURL(t.Context(), good); !errors.Is(err, ErrUnsupported) {
		t.Errorf("form_post not supported: %v", err)
	}
}
