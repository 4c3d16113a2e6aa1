// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func introspect(t *testing.T, s *Server, secret, query string, form url.Values) (int, map[string]any, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer()+"/introspect"+query, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", IntrospectionType)
	r.SetBasicAuth("app", secret)
	res, err := s.HTTPClient().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	_ = json.Unmarshal(body, &claims)
	return res.StatusCode, claims, res.Header.Get("Content-Type")
}

// The introspection endpoint is strict, and says of a token what there is to say.
func TestIntrospectionEndpoint(t *testing.T) {
	t.Parallel()
	s := New(Options{})
	tokens := s.Issue("alice", "openid", "")
	for name, tc := range map[string]struct {
		secret, query string
		form          url.Values
		status        int
		active        any
	}{
		"access token":  {"secret", "", url.Values{"token": {tokens.AccessToken}}, 200, true},
		"refresh token": {"secret", "", url.Values{"token": {tokens.RefreshToken}}, 200, true},
		"ID token":      {"secret", "", url.Values{"token": {tokens.IDToken}}, 200, false},
		"made up":       {"secret", "", url.Values{"token": {"x"}}, 200, false},
		"none":          {"secret", "", url.Values{}, 400, nil},
		"two":           {"secret", "", url.Values{"token": {"x", "y"}}, 400, nil},
		"in the query":  {"secret", "?token=x", url.Values{}, 400, nil},
		"wrong secret":  {"wrong", "", url.Values{"token": {tokens.AccessToken}}, 401, nil},
	} {
		if status, claims, _ := introspect(t, s, tc.secret, tc.query, tc.form); status != tc.status || claims["active"] != tc.active {
			t.Errorf("%s: %d %v", name, status, claims)
		}
	}
	if _, claims, _ := introspect(t, s, "secret", "", url.Values{"token": {tokens.RefreshToken}}); claims["token_type"] != nil {
		t.Error("a refresh token has no token_type")
	}
	s.RevokeAccessToken(tokens.AccessToken)
	if _, claims, _ := introspect(t, s, "secret", "", url.Values{"token": {tokens.AccessToken}}); claims["active"] != false || len(claims) != 1 {
		t.Errorf("revoked: %v", claims)
	}
	s.Configure(func(o *Options) { o.SignedIntrospection = true })
	if _, _, contentType := introspect(t, s, "secret", "", url.Values{"token": {tokens.AccessToken}}); contentType != IntrospectionType {
		t.Errorf("signed: %s", contentType)
	}
}

// The UserInfo endpoint takes live access tokens in the header, and nothing else.
func TestUserInfoEndpoint(t *testing.T) {
	t.Parallel()
	s := New(Options{})
	tokens := s.Issue("alice", "openid", "")
	plain := s.Issue("bob", "profile", "")
	ask := func(query, authorization string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Issuer()+"/userinfo"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization)
		res, err := s.HTTPClient().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	if status := ask("", "Bearer "+tokens.AccessToken); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	for name, status := range map[string]int{
		"none": ask("", ""), "ID token": ask("", "Bearer "+tokens.IDToken), "refresh token": ask("", "Bearer "+tokens.RefreshToken),
		"without openid": ask("", "Bearer "+plain.AccessToken), "another scheme": ask("", "DPoP "+tokens.AccessToken),
	} {
		if status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, status)
		}
	}
	if status := ask("?access_token="+tokens.AccessToken, "Bearer "+tokens.AccessToken); status != http.StatusBadRequest {
		t.Errorf("in the query: status %d", status)
	}
}
