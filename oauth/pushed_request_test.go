// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// authorizationRequest is one that is complete.
func authorizationRequest() AuthorizationRequest {
	return AuthorizationRequest{RedirectURI: redirectURI, State: NewState(), Nonce: NewNonce(), CodeVerifier: NewCodeVerifier()}
}

// BFF-01, PR-01, PR-02: all of the request goes to the server, authenticated as at the
// token endpoint, and the browser carries two parameters beside those of the endpoint.
func TestPushedAuthorizationRequest(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{PAR: true, AuthMethod: "client_secret_basic"})
	c := newClient(t, as, func(cfg *Config) {
		cfg.Params, cfg.Resource = url.Values{"audience": {"x y&z"}}, []string{"https://a.test", "https://b.test"}
	})
	r := authorizationRequest()
	r.Params, r.ResponseMode = url.Values{"max_age": {"60"}}, "form_post"
	raw, err := c.AuthorizationURL(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if q := u.Query(); len(q) != 2 || q.Get("client_id") != "app" || !strings.HasPrefix(q.Get("request_uri"), "urn:ietf:params:oauth:request_uri:") {
		t.Errorf("the browser carries %v", q)
	}
	pushed := as.Requests(astest.PAR)
	if len(pushed) != 1 {
		t.Fatalf("%d requests were pushed", len(pushed))
	}
	form := pushed[0].Form
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "app", "redirect_uri": redirectURI, "scope": "openid profile offline_access", "state": r.State.Reveal(),
		"nonce": r.Nonce.Reveal(), "code_challenge_method": "S256", "max_age": "60", "audience": "x y&z", "response_mode": "form_post",
	} {
		if got := form[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if form.Has("request_uri") || form.Has("client_secret") || form.Has("code_verifier") || len(form["resource"]) != 2 || pushed[0].ClientAuth != "client_secret_basic" {
		t.Errorf("pushed by %s: %v", pushed[0].ClientAuth, form)
	}
	if q, _ := url.ParseQuery(u.RawQuery); q.Has("state") || strings.Contains(raw, r.State.Reveal()) {
		t.Error("the state is in the browser's hands")
	}
}

// AR-07: the endpoint's own parameters stay, unless the request has them.
func TestPushedRequestKeepsTheEndpointsQuery(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{RequirePAR: true, MetadataDoc: func(doc map[string]any) {
		doc["authorization_endpoint"] = "https://as.test/authorize?tenant=1&scope=evil&client_id=evil"
	}})
	raw, err := newClient(t, as).AuthorizationURL(t.Context(), authorizationRequest())
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(raw)
	if q := u.Query(); len(q) != 3 || q.Get("tenant") != "1" || len(q["client_id"]) != 1 || q.Get("client_id") != "app" || !q.Has("request_uri") {
		t.Error(raw)
	}
}

// PR-01: every method of client authentication pushes, and each login has a
// request_uri of its own (PR-03).
func TestPushedRequestsOfEveryClient(t *testing.T) {
	t.Parallel()
	for name, make := range assertionClients(t) {
		as, c := make()
		as.Configure(func(o *astest.Options) { o.RequirePAR = true })
		seen := map[string]bool{}
		for range 3 {
			params, tx := authorize(t, c, as)
			if code, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: tx.state}); err != nil || code == "" {
				t.Errorf("%s: %v, %s", name, err, lastAuthError(as))
			}
		}
		for _, r := range as.Requests(astest.Authorize) {
			seen[r.Form.Get("request_uri")] = true
		}
		if len(seen) != 3 || as.Count(astest.PAR) != 3 {
			t.Errorf("%s: %d requests pushed, %d references", name, as.Count(astest.PAR), len(seen))
		}
	}
	public := astest.New(astest.Options{RequirePAR: true, PublicClient: true})
	c := newClient(t, public, func(cfg *Config) { cfg.AuthMethod, cfg.ClientSecret = AuthNone, nil })
	if params, _ := authorize(t, c, public); !params.Has("code") {
		t.Errorf("public client: %v", params)
	}
}

// When a request is pushed, and when there is none at all.
func TestPARMode(t *testing.T) { // PR-01
	t.Parallel()
	for name, tc := range map[string]struct {
		mode   PARMode
		server astest.Options
		doc    func(map[string]any)
		pushed int
		err    error
	}{
		"auto, not offered":            {PARAuto, astest.Options{}, nil, 0, nil},
		"default is auto":              {"", astest.Options{PAR: true}, nil, 1, nil},
		"auto, demanded":               {PARAuto, astest.Options{RequirePAR: true}, nil, 1, nil},
		"auto, demanded, no endpoint":  {PARAuto, astest.Options{RequirePAR: true}, func(doc map[string]any) { delete(doc, "pushed_authorization_request_endpoint") }, 0, ErrUnsupported},
		"required, not offered":        {PARRequired, astest.Options{}, nil, 0, ErrUnsupported},
		"required":                     {PARRequired, astest.Options{PAR: true}, nil, 1, nil},
		"off":                          {PAROff, astest.Options{PAR: true}, nil, 0, nil},
		"off, demanded: no second way": {PAROff, astest.Options{RequirePAR: true}, nil, 0, nil},
		"demanded by a text, not true": {PARAuto, astest.Options{}, func(doc map[string]any) { doc["require_pushed_authorization_requests"] = "true" }, 0, nil},
	} {
		tc.server.MetadataDoc = tc.doc
		as := astest.New(tc.server)
		raw, err := newClient(t, as, func(cfg *Config) { cfg.PAR = tc.mode }).AuthorizationURL(t.Context(), authorizationRequest())
		if !errors.Is(err, tc.err) || (err == nil) == (raw == "") || as.Count(astest.PAR) != tc.pushed || strings.Contains(raw, "request_uri=") != (tc.pushed > 0) {
			t.Errorf("%s: %s, %v, %d pushed", name, raw, err, as.Count(astest.PAR))
		}
	}
	if _, err := New(Config{Issuer: "https://as.test", ClientID: "app", AuthMethod: AuthNone, PAR: "on"}); err == nil {
		t.Error("an unknown mode is taken")
	}
}

// PR-03, PR-04: an answer that is none leads to no authorization request, be it the
// plain one, except where the endpoint is none for this client.
func TestPushedRequestIsRefused(t *testing.T) {
	t.Parallel()
	created := func(body string) astest.Answer {
		return astest.Answer{Status: 201, Body: body, Header: http.Header{"Content-Type": {"application/json"}}}
	}
	for name, tc := range map[string]struct {
		answer astest.Answer
		plain  bool // under auto, the browser carries the request
		class  Class
		wait   time.Duration
	}{
		"404":                       {astest.Answer{Status: 404}, true, ClassRefused, 0},
		"405":                       {astest.Answer{Status: 405, Body: "no"}, true, ClassRefused, 0},
		"client not allowed to":     {astest.OAuthError(400, "unauthorized_client"), true, ClassConfiguration, 0},
		"404 with a reason":         {astest.OAuthError(404, "invalid_request"), false, ClassRefused, 0},
		"400 without a reason":      {astest.Answer{Status: 400}, false, ClassRefused, 0},
		"invalid_request":           {astest.OAuthError(400, "invalid_request"), false, ClassRefused, 0},
		"invalid_scope":             {astest.OAuthError(400, "invalid_scope"), false, ClassConfiguration, 0},
		"invalid_client":            {astest.OAuthError(401, "invalid_client"), false, ClassConfiguration, 0},
		"413":                       {astest.Answer{Status: 413}, false, ClassRefused, 0},
		"429":                       {astest.Answer{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, false, ClassOutage, 7 * time.Second},
		"500":                       {astest.Answer{Status: 500}, false, ClassOutage, 0},
		"501":                       {astest.Answer{Status: 501}, false, ClassOutage, 0},
		"503":                       {astest.Answer{Status: 503, Header: http.Header{"Retry-After": {"9"}}}, false, ClassOutage, 9 * time.Second},
		"503 unauthorized_client":   {astest.OAuthError(503, "unauthorized_client"), false, ClassOutage, 0},
		"redirect":                  {astest.Answer{Status: 302, Header: http.Header{"Location": {"https://evil.test/"}}}, false, ClassOutage, 0},
		"200 with a reference":      {astest.Answer{Body: `{"request_uri":"urn:x:1","expires_in":60}`}, false, ClassOutage, 0},
		"connection cut":            {astest.Answer{Cut: true}, false, ClassAmbiguous, 0},
		"201, nothing":              {created(``), false, ClassOutage, 0},
		"201, no object":            {created(`[]`), false, ClassOutage, 0},
		"201, no request_uri":       {created(`{"expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri empty":    {created(`{"request_uri":"","expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri a number": {created(`{"request_uri":1,"expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri no URI":   {created(`{"request_uri":"x y","expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri relative": {created(`{"request_uri":"/x","expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri twice":    {created(`{"request_uri":"urn:x:1","request_uri":"urn:x:2","expires_in":60}`), false, ClassOutage, 0},
		"201, request_uri of 3 kB":  {created(`{"request_uri":"urn:x:` + strings.Repeat("a", 3000) + `","expires_in":60}`), false, ClassOutage, 0},
		"201, no expires_in":        {created(`{"request_uri":"urn:x:1"}`), false, ClassOutage, 0},
		"201, expires_in zero":      {created(`{"request_uri":"urn:x:1","expires_in":0}`), false, ClassOutage, 0},
		"201, expires_in negative":  {created(`{"request_uri":"urn:x:1","expires_in":-5}`), false, ClassOutage, 0},
		"201, body of 1 MB":         {created(`{"request_uri":"urn:x:1","expires_in":60,"x":"` + strings.Repeat("a", 1<<20) + `"}`), false, ClassOutage, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []PARMode{PARAuto, PARRequired} {
				as := astest.New(astest.Options{PAR: true})
				as.Script(astest.PAR, tc.answer)
				raw, err := newClient(t, as, func(cfg *Config) { cfg.PAR = mode }).AuthorizationURL(t.Context(), authorizationRequest())
				if as.Count(astest.PAR) != 1 {
					t.Errorf("%s: pushed %d times", mode, as.Count(astest.PAR))
				}
				if tc.plain && mode == PARAuto {
					if err != nil || !strings.Contains(raw, "code_challenge=") || strings.Contains(raw, "request_uri") {
						t.Errorf("%s: %s, %v", mode, raw, err)
					}
					continue
				}
				e, ok := errors.AsType[*Error](err)
				if !ok || raw != "" || e.Class != tc.class || e.RetryAfter != tc.wait {
					t.Errorf("%s: %q, %v (%v)", mode, raw, err, ClassOf(err))
				}
			}
			as := astest.New(astest.Options{RequirePAR: true})
			as.Script(astest.PAR, tc.answer)
			if raw, err := newClient(t, as).AuthorizationURL(t.Context(), authorizationRequest()); err == nil {
				t.Errorf("demanded by the server: %s", raw)
			}
		})
	}
	as := astest.New(astest.Options{PAR: true})
	as.Script(astest.PAR, astest.Answer{Status: 404, Times: 3})
	log := &recorder{}
	c := newClient(t, as, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	for range 3 {
		if _, err := c.AuthorizationURL(t.Context(), authorizationRequest()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "pushed authorization requests"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
}
