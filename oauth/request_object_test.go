// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// signingClient is a client with a key that the server knows, and a secret.
func signingClient(t testing.TB, o astest.Options, change ...func(*Config)) (*astest.Server, *Client) {
	t.Helper()
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	o.ClientKeys = func() []byte { return keySetOf(key.PublicKeys()) }
	as := astest.New(o)
	return as, newClient(t, as, append([]func(*Config){func(cfg *Config) { cfg.SigningKey = key }}, change...)...)
}

// PR-05, PR-06: a strict server takes signed requests, pushed or not, and sees in
// them what was asked.
func TestSignedAuthorizationRequest(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		server astest.Options
		mode   RequestObjectMode
		outer  []string // what the browser carries
	}{
		"required":           {astest.Options{}, RequestObjectRequired, []string{"client_id", "request", "response_type", "scope"}},
		"required, pushed":   {astest.Options{RequirePAR: true}, RequestObjectRequired, []string{"client_id", "request_uri"}},
		"auto, demanded":     {astest.Options{RequireSignedRequest: true}, "", []string{"client_id", "request", "response_type", "scope"}},
		"both demanded":      {astest.Options{RequireSignedRequest: true, RequirePAR: true}, RequestObjectAuto, []string{"client_id", "request_uri"}},
		"issuer with a path": {astest.Options{RequireSignedRequest: true, Path: "/tenant"}, RequestObjectAuto, []string{"client_id", "request", "response_type", "scope"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as, c := signingClient(t, tc.server, func(cfg *Config) {
				cfg.RequestObject, cfg.Resource = tc.mode, []string{"https://a.test", "https://b.test"}
				cfg.Params = url.Values{"claims": {`{"id_token":{"acr":null}}`}}
			})
			r := authorizationRequest()
			r.Params = url.Values{"max_age": {"0060"}, "login_hint": {"bob"}}
			raw, err := c.AuthorizationURL(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			back, err := as.Login(raw)
			if err != nil {
				all := as.Requests("")
				t.Fatalf("%v: %s", err, all[len(all)-1].RequestError)
			}
			if _, err := c.ValidateAuthorizationResponse(t.Context(), back.Query(), AuthorizationResponseCheck{State: r.State}); err != nil {
				t.Error(err)
			}
			u, _ := url.Parse(raw)
			q := u.Query()
			for _, name := range tc.outer {
				if len(q[name]) != 1 {
					t.Errorf("%s is missing: %s", name, raw)
				}
			}
			if len(q) != len(tc.outer) {
				t.Errorf("the browser carries %v", q)
			}
			object := q.Get("request")
			if as.Count(astest.PAR) > 0 {
				object = as.Requests(astest.PAR)[0].Form.Get("request")
			}
			s, err := parseJWS(object)
			if err != nil {
				t.Fatal(err)
			}
			var claims map[string]any
			if err := json.Unmarshal(s.payload, &claims); err != nil {
				t.Fatal(err)
			}
			now := float64(time.Now().Unix())
			nbf, exp := claims["nbf"].(float64), claims["exp"].(float64)
			list, _ := claims["resource"].([]any)
			if claims["max_age"] != 60.0 || claims["login_hint"] != "bob" || claims["state"] != r.State.Reveal() || claims["nonce"] != r.Nonce.Reveal() || len(list) != 2 {
				t.Errorf("%v", claims)
			}
			if claims["iss"] != "app" || claims["client_id"] != "app" || claims["aud"] != as.Issuer() || nbf > now-4 || exp != nbf+300 || s.typ != "oauth-authz-req+jwt" {
				t.Errorf("%s: %v", s.typ, claims)
			}
			for _, name := range []string{"sub", "request", "request_uri", "code_verifier"} {
				if _, there := claims[name]; there {
					t.Errorf("%s is in the request object", name)
				}
			}
		})
	}
}

// Nothing is signed that need not be, and nothing goes unsigned that has to be.
func TestRequestObjectMode(t *testing.T) {
	t.Parallel()
	demanding := astest.Options{RequireSignedRequest: true, PAR: true}
	for name, tc := range map[string]struct {
		server astest.Options
		change func(*Config)
		signed bool
		err    error
	}{
		"auto":                  {astest.Options{}, func(*Config) {}, false, nil},
		"off":                   {demanding, func(cfg *Config) { cfg.RequestObject, cfg.PAR = RequestObjectOff, PAROff }, false, nil},
		"demanded, without key": {demanding, func(cfg *Config) { cfg.SigningKey = nil }, false, ErrUnsupported},
	} {
		as, c := signingClient(t, tc.server, tc.change)
		raw, err := c.AuthorizationURL(t.Context(), authorizationRequest())
		if !errors.Is(err, tc.err) || (err == nil) == (raw == "") || strings.Contains(raw, "request=") != tc.signed || as.Count(astest.PAR) > 0 {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
	key := newSigningKey(t, SigningKeyConfig{File: keyFile(t, astest.NewKey("ES256", "").Files()["PKCS#8"])})
	for name, cfg := range map[string]Config{
		"no key":       {RequestObject: RequestObjectRequired},
		"unknown mode": {RequestObject: "on", SigningKey: key},
		"sub":          {RequestObject: RequestObjectRequired, SigningKey: key, Params: url.Values{"sub": {"app"}}},
	} {
		cfg.Issuer, cfg.ClientID, cfg.AuthMethod = "https://as.test", "app", AuthNone
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// RFC 9101 section 10.8: nobody can make a client assertion of a request.
	as, c := signingClient(t, astest.Options{}, func(cfg *Config) { cfg.RequestObject = RequestObjectRequired })
	r := authorizationRequest()
	r.Params = url.Values{"sub": {"app"}}
	if raw, err := c.AuthorizationURL(t.Context(), r); ClassOf(err) != ClassConfiguration || raw != "" || as.Count(astest.Authorize) > 0 {
		t.Errorf("%s, %v", raw, err)
	}
}

// A request object that the server refuses for its key makes the next key be used.
func TestRefusedRequestObjectHurriesTheNextKey(t *testing.T) {
	t.Parallel()
	path := keyFile(t, astest.NewKey("ES256", "old").Files()["PKCS#8"])
	key := newSigningKey(t, SigningKeyConfig{File: path})
	as := astest.New(astest.Options{RequirePAR: true})
	c := newClient(t, as, func(cfg *Config) { cfg.SigningKey, cfg.RequestObject = key, RequestObjectRequired })
	before := key.headerOf(t)["kid"]
	writeFile(t, path, astest.NewKey("ES256", "new").Files()["PKCS#8"])
	key.file.lookAgain()
	if now := key.headerOf(t)["kid"]; now != before {
		t.Fatalf("%v signs at once", now)
	}
	as.Script(astest.PAR, astest.OAuthError(401, "invalid_client")) // which authenticates with a secret
	if _, err := c.AuthorizationURL(t.Context(), authorizationRequest()); err == nil {
		t.Fatal("no error")
	}
	if now := key.headerOf(t)["kid"]; now != before {
		t.Errorf("%v signs before it is known, and the old key was not refused", now)
	}
	as.Script(astest.PAR, astest.OAuthError(400, "invalid_request_object"))
	if _, err := c.AuthorizationURL(t.Context(), authorizationRequest()); err == nil {
		t.Fatal("no error")
	}
	if now := key.headerOf(t)["kid"]; now == before {
		t.Error("the old key still signs")
	}
}

// A server that names other algorithms is worth a word, once.
func TestRequestObjectAlgorithmIsToldOf(t *testing.T) {
	t.Parallel()
	log := &recorder{}
	_, c := signingClient(t, astest.Options{MetadataDoc: func(doc map[string]any) {
		doc["request_object_signing_alg_values_supported"] = []string{"PS256"}
	}}, func(cfg *Config) {
		cfg.RequestObject, cfg.Logger = RequestObjectRequired, slog.New(slog.NewTextHandler(log, nil))
	})
	if _, err := c.AuthorizationURL(t.Context(), authorizationRequest()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "request objects") {
		t.Error(log.String())
	}
}

// PR-05, PR-08: what is pushed again with a DPoP nonce has a request object of its own,
// for servers that have seen the jti of the first.
func TestSignedRequestIsPushedAgain(t *testing.T) {
	t.Parallel()
	as, c := signingClient(t, astest.Options{RequireSignedRequest: true, RequirePAR: true, DPoP: true, RequireDPoP: true}, withDPoP)
	as.DemandDPoPNonce(true)
	_, err := boundLogin(t, c, as, newKey(t))
	pushed := as.Requests(astest.PAR)
	if err != nil || len(pushed) != 2 {
		t.Fatalf("%v after %d pushed requests, the last of which was refused: %q", err, len(pushed), pushed[len(pushed)-1].RequestError)
	}
	if pushed[0].Form.Get("request") == pushed[1].Form.Get("request") {
		t.Error("the request object was sent twice")
	}
}

// A parameter without a value is in no request object, as it is in no query.
func TestParameterWithoutValueIsNotSigned(t *testing.T) { // PR-05
	t.Parallel()
	as, c := signingClient(t, astest.Options{}, func(cfg *Config) {
		cfg.RequestObject, cfg.Params = RequestObjectRequired, url.Values{"prompt": nil}
	})
	r := authorizationRequest()
	r.Params = url.Values{"resource": nil, "login_hint": {"bob"}}
	raw, err := c.AuthorizationURL(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := as.Login(raw); err != nil {
		t.Error(err)
	}
	u, _ := url.Parse(raw)
	s, err := parseJWS(u.Query().Get("request"))
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(s.payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["prompt"] != nil || claims["resource"] != nil || claims["login_hint"] != "bob" {
		t.Errorf("%v", claims)
	}
}
