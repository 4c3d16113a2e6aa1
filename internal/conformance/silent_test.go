// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// silent looks at everything that the gateway sent in a scenario, as the official
// suite does in every module.
func (s *scenario) silent() {
	s.t.Helper()
	once := map[string]bool{}
	unique := func(what, value string) {
		if value == "" || once[what+value] {
			s.t.Errorf("%s %q is empty, or came before", what, value)
		}
		once[what+value] = true
	}
	for _, r := range s.as.Requests("") {
		if r.TLSVersion < tls.VersionTLS13 {
			s.t.Errorf("%s: TLS version %#x", r.Endpoint, r.TLSVersion)
		}
		if r.AuthError != "" || r.RequestError != "" {
			s.t.Errorf("%s: refused: %s %s", r.Endpoint, r.AuthError, r.RequestError)
		}
		u := parse(s.t, r.URL)
		if u.Query().Has("access_token") {
			s.t.Errorf("%s: an access token in the address", r.Endpoint)
		}
		switch r.Endpoint {
		case astest.PAR:
			if r.Form.Has("request_uri") || u.RawQuery != "" {
				s.t.Errorf("pushed: %v, query %q", r.Form, u.RawQuery)
			}
			s.authenticated(&r)
			if r.Status != http.StatusBadRequest { // a demand for a nonce, after which it comes again
				s.authorizationRequest(r.Form, unique)
			}
		case astest.Authorize:
			if !r.Form.Has("request_uri") {
				s.authorizationRequest(r.Form, unique)
			} else if len(r.Form) != 2 || r.Form.Get("client_id") != "app" {
				s.t.Errorf("beside the reference the browser carries %v", r.Form)
			} else {
				unique("request_uri", r.Form.Get("request_uri"))
			}
		case astest.Token:
			if r.Method != http.MethodPost || u.RawQuery != "" {
				s.t.Errorf("token request: %s %s", r.Method, r.URL)
			}
			s.authenticated(&r)
			if r.GrantType == "authorization_code" {
				unique("code", r.Token)
				if r.Form.Get("redirect_uri") != s.home+"/bff/callback" || r.Form.Get("code_verifier") == "" {
					s.t.Errorf("token request: %v", r.Form)
				}
			}
		case astest.UserInfo:
			scheme := "Bearer "
			if s.set.as.DPoP {
				scheme = "DPoP "
			}
			if !strings.HasPrefix(r.Header.Get("Authorization"), scheme) || r.Body != "" {
				s.t.Error("UserInfo: the access token is not in the header, or elsewhere too")
			}
		}
		if r.Assertion != "" {
			_, claims := r.AssertionParts()
			jti, _ := claims["jti"].(string)
			unique("jti", jti)
		}
	}
	s.proven(unique)
	s.published()
}

// authenticated: by the one method that is configured.
func (s *scenario) authenticated(r *astest.Request) {
	s.t.Helper()
	want := s.set.as.AuthMethod
	if want == "" {
		want = "client_secret_basic"
	}
	if r.ClientAuth != want {
		s.t.Errorf("%s: the client authenticated with %s, want %s", r.Endpoint, r.ClientAuth, want)
	}
}

// authorizationRequest looks at an authorization request, wherever it travelled.
func (s *scenario) authorizationRequest(q url.Values, unique func(what, value string)) {
	s.t.Helper()
	if q.Has("request") {
		q = requestObject(s, q.Get("request"))
	}
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "app", "redirect_uri": s.home + "/bff/callback", "code_challenge_method": "S256",
	} {
		if q.Get(name) != want {
			s.t.Errorf("%s is %q, want %q", name, q.Get(name), want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		unique(name, q.Get(name))
	}
	if !slices.Contains(strings.Fields(q.Get("scope")), "openid") {
		s.t.Errorf("scope is %q", q.Get("scope"))
	}
	if !strings.HasPrefix(q.Get("redirect_uri"), "https://") {
		s.t.Errorf("redirect_uri is %q", q.Get("redirect_uri"))
	}
}

// requestObject reads the parameters of a request object, whose signature and claims
// the authorization server has checked.
func requestObject(s *scenario, raw string) url.Values {
	s.t.Helper()
	_, claims := (&astest.Request{Assertion: raw}).AssertionParts()
	params := url.Values{}
	for name, v := range claims {
		if text, ok := v.(string); ok {
			params.Set(name, text)
		}
	}
	return params
}

// published: no key ID is there twice among the client's public keys.
func (s *scenario) published() {
	s.t.Helper()
	var doc struct{ Keys []struct{ Kid string } }
	if json.Unmarshal(s.publishedKeys(), &doc) != nil {
		return // without a key there is no such document
	}
	seen := map[string]bool{}
	for _, k := range doc.Keys {
		if k.Kid == "" || seen[k.Kid] {
			s.t.Errorf("key ID %q is empty, or there twice", k.Kid)
		}
		seen[k.Kid] = true
	}
}
