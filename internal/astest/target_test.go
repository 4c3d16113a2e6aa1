// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// post sends a token request and gives the answer's status and members.
func post(t *testing.T, as *astest.Server, form url.Values) (int, map[string]any) {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, as.Issuer()+"/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("app", "secret")
	w := httptest.NewRecorder()
	as.ServeHTTP(w, r)
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, body
}

func TestTargets(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{Rotation: astest.RotateSame, Resources: []string{"https://a.test", "https://b.test", "stock"}})
	tokens := as.Issue("alice", "openid orders", "")
	refresh := func(more url.Values) url.Values {
		more.Set("grant_type", "refresh_token")
		more.Set("refresh_token", tokens.RefreshToken)
		return more
	}
	exchange := func(more url.Values) url.Values {
		more.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
		if !more.Has("subject_token") {
			more.Set("subject_token", tokens.AccessToken)
		}
		more.Set("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
		return more
	}
	for name, tc := range map[string]struct {
		form     url.Values
		audience []string
		scope    string
		code     string
	}{
		"default":            {form: refresh(url.Values{}), audience: []string{"https://api.test"}, scope: "openid orders"},
		"resource":           {form: refresh(url.Values{"resource": {"https://a.test"}}), audience: []string{"https://a.test"}, scope: "openid orders"},
		"two and less scope": {form: refresh(url.Values{"resource": {"https://a.test", "https://b.test"}, "scope": {"orders"}}), audience: []string{"https://a.test", "https://b.test"}, scope: "orders"},
		"unknown":            {form: refresh(url.Values{"resource": {"https://c.test"}}), code: "invalid_target"},
		"fragment":           {form: refresh(url.Values{"resource": {"https://a.test#x"}}), code: "invalid_target"},
		"more scope":         {form: refresh(url.Values{"scope": {"admin"}}), code: "invalid_scope"},
		"exchange":           {form: exchange(url.Values{"audience": {"stock"}, "scope": {"orders"}}), audience: []string{"stock"}, scope: "orders"},
		"exchange, unknown":  {form: exchange(url.Values{"audience": {"x"}}), code: "invalid_target"},
		"exchange of what":   {form: exchange(url.Values{"audience": {"stock"}, "subject_token": {"x"}}), code: "invalid_request"},
	} {
		status, body := post(t, as, tc.form)
		token, _ := body["access_token"].(string)
		if tc.code != "" {
			if status != http.StatusBadRequest || body["error"] != tc.code {
				t.Errorf("%s: %d %v", name, status, body)
			}
			continue
		}
		if status != http.StatusOK || !slices.Equal(as.Audience(token), tc.audience) || as.Scope(token) != tc.scope || as.Subject(token) != "alice" {
			t.Errorf("%s: %d %v for %q", name, status, body, as.Audience(token))
		}
		rs := as.ResourceServer()
		if !rs.Accepts(token) || !rs.ForAudience(tc.audience[0]).Accepts(token) || rs.ForAudience("https://else.test").Accepts(token) {
			t.Errorf("%s: not for %q alone", name, tc.audience)
		}
	}
	as.RevokeAccessToken(tokens.AccessToken)
	if status, _ := post(t, as, exchange(url.Values{"audience": {"stock"}})); status != http.StatusBadRequest {
		t.Errorf("a revoked subject token: %d", status)
	}
	if n := len(as.ExchangeRequests()); n != 4 {
		t.Errorf("%d exchange requests", n)
	}
}
