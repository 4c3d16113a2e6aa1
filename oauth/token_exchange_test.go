// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/url"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestTokenExchangeForm(t *testing.T) { // TX-01
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	token := as.Issue("alice", "openid orders", "").AccessToken
	for _, tc := range []struct {
		request TokenExchangeRequest
		want    url.Values
	}{
		{TokenExchangeRequest{Audience: []string{"a", "b"}}, url.Values{"audience": {"a", "b"}, "requested_token_type": {TokenTypeAccessToken}}},
		{
			TokenExchangeRequest{Resource: []string{"https://x", "https://y"}, Scope: []string{"openid", "orders"}, RequestedTokenType: TokenTypeJWT},
			url.Values{"resource": {"https://x", "https://y"}, "scope": {"openid orders"}, "requested_token_type": {TokenTypeJWT}},
		},
	} {
		as.ForgetRequests()
		tc.request.SubjectToken = Secret(token)
		answer, err := c.ExchangeToken(t.Context(), tc.request)
		if err != nil || answer.AccessToken == "" || answer.Expiry.IsZero() || answer.IssuedTokenType != TokenTypeAccessToken {
			t.Fatalf("%+v, %v", answer, err)
		}
		tc.want.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
		tc.want.Set("subject_token", token)
		tc.want.Set("subject_token_type", TokenTypeAccessToken)
		if r := as.Requests(astest.Token)[0]; r.Form.Encode() != tc.want.Encode() || r.ClientAuth != "client_secret_basic" {
			t.Errorf("%v, %s", r.Form, r.ClientAuth)
		}
	}
	if _, err := c.ExchangeToken(t.Context(), TokenExchangeRequest{Audience: []string{"a"}}); err == nil || as.Count(astest.Token) != 1 {
		t.Error("exchanged nothing")
	}
}

func TestTokenExchangeAnswer(t *testing.T) { // TX-02
	t.Parallel()
	const head = `{"access_token":"at","token_type":"Bearer","expires_in":60,`
	for name, tc := range map[string]struct {
		body string
		ok   bool
	}{
		"access token":           {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, true},
		"jwt":                    {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:jwt"}`, true},
		"with a refresh token":   {head + `"refresh_token":"rt","id_token":"x.y.z","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, true},
		"refresh token":          {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token"}`, false},
		"id token":               {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:id_token"}`, false},
		"saml":                   {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:saml2"}`, false},
		"nothing said":           {head + `"scope":"a"}`, false},
		"said twice":             {head + `"issued_token_type":"urn:ietf:params:oauth:token-type:access_token","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, false},
		"not a string":           {head + `"issued_token_type":["urn:ietf:params:oauth:token-type:access_token"]}`, false},
		"not to be used as such": {`{"access_token":"at","token_type":"N_A","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := astest.New(astest.Options{})
			as.Script(astest.Token, astest.Answer{Body: tc.body})
			answer, err := newClient(t, as).ExchangeToken(t.Context(), TokenExchangeRequest{SubjectToken: "at", Audience: []string{"a"}})
			if tc.ok {
				if err != nil || answer.AccessToken != "at" || answer.RefreshToken != "" || answer.IDToken != "" {
					t.Errorf("%+v, %v", answer, err)
				}
			} else if !errors.Is(err, ErrUnusable) || ClassOf(err) != ClassOutage {
				t.Errorf("%+v, %v", answer, err)
			}
		})
	}
}
