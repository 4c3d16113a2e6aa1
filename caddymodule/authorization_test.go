// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
)

// PR-01, PR-02, PR-03: where the server wants pushed requests, every login is one,
// with a reference of its own, that works once.
func TestLoginByPushedRequest(t *testing.T) {
	b := newBench(t, benchOptions{as: astest.Options{RequirePAR: true}})
	c := b.browser()
	request := c.startLogin("/after")
	if q := request.Query(); len(q) != 2 || q.Get("client_id") != "app" || q.Get("request_uri") == "" {
		t.Errorf("the browser carries %v", request)
	}
	callback := c.authorize(request)
	if a := c.get(callback, arrive...); a.StatusCode != http.StatusSeeOther || a.location() != "/after" {
		t.Fatalf("%d %q %s", a.StatusCode, a.location(), a.body)
	}
	if _, err := b.as.Login(request.String()); err == nil {
		t.Error("the authorization server of the test takes a reference twice")
	}
	if again := c.get("/bff/login?force=true", navigate...); again.location() == request.String() || b.as.Count(astest.PAR) != 2 {
		t.Errorf("%q, %d requests pushed", again.location(), b.as.Count(astest.PAR))
	}
	// For an application that navigates by itself.
	a := b.browser().do(http.MethodPost, "/bff/login", "", script...)
	if got, _ := a.json(t)["authorization_url"].(string); !strings.Contains(got, "request_uri=") || b.as.Count(astest.PAR) != 3 {
		t.Errorf("%s, %d requests pushed", a.body, b.as.Count(astest.PAR))
	}
	if log := b.log(); strings.Contains(log, request.Query().Get("request_uri")) {
		t.Error("the reference is in the log")
	}
}

// PR-03, PR-04: a request that is not taken is an error page, without half a login,
// and the next attempt works.
func TestPushedRequestThatIsNotTaken(t *testing.T) {
	b := newBench(t, benchOptions{bff: "par required", as: astest.Options{PAR: true}})
	c := b.browser()
	for _, tc := range []struct {
		answer astest.Answer
		status int
		code   string
		wait   string
	}{
		{astest.OAuthError(400, "invalid_request"), http.StatusBadGateway, codeTokenUnavailable, ""},
		{astest.OAuthError(401, "invalid_client"), http.StatusBadGateway, codeTokenUnavailable, ""},
		{astest.Answer{Status: 404}, http.StatusBadGateway, codeTokenUnavailable, ""},
		{astest.Answer{Status: 413}, http.StatusBadGateway, codeTokenUnavailable, ""},
		{astest.JSON(201, map[string]any{"expires_in": 60}), http.StatusBadGateway, codeTokenUnavailable, ""},
		{astest.Answer{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, http.StatusServiceUnavailable, codeServerUnavailable, "7"},
		{astest.Answer{Status: 503, Header: http.Header{"Retry-After": {"9"}}}, http.StatusServiceUnavailable, codeServerUnavailable, "9"},
		{astest.Answer{Cut: true}, http.StatusServiceUnavailable, codeServerUnavailable, "5"},
	} {
		b.as.Script(astest.PAR, tc.answer)
		a := c.get("/bff/login", navigate...)
		a.wantError(t, tc.status, tc.code)
		if a.Header.Get("Retry-After") != tc.wait || len(a.Cookies()) > 0 || a.location() != "" {
			t.Errorf("%d: Retry-After %q, %v, Location %q", tc.answer.Status, a.Header.Get("Retry-After"), a.Cookies(), a.location())
		}
	}
	c.login()
}

// PR-05: a client that authenticates with a secret signs its requests with a key that
// the server knows by the endpoint jwks; pushed or in the address.
func TestLoginBySignedRequest(t *testing.T) {
	for _, par := range []string{"auto", "off"} {
		keyFile := filepath.Join(t.TempDir(), "key.json")
		writeKey(t, keyFile, astest.NewKey("ES256", "signs"))
		var b *bench
		b = newBench(t, benchOptions{
			as: astest.Options{
				PAR: true, RequireSignedRequest: true, AuthMethod: "client_secret_basic", ClientKeys: func() []byte { return b.fetch("/bff/jwks") },
			},
			bff: "client_auth client_secret_basic {\nkey_file " + keyFile + "\n}\nrequest_object required\npar " + par,
		})
		c := b.browser().login()
		if got := c.get("/bff/session", script...).json(t)["authenticated"]; got != true {
			t.Errorf("par %s: not signed in", par)
		}
		request := b.as.Requests(astest.Authorize)[0]
		if pushed := request.Form.Has("request_uri"); pushed != (par == "auto") || request.Form.Has("redirect_uri") || request.Form.Has("state") {
			t.Errorf("par %s: %v", par, request.Form)
		}
		b.stop()
	}
	// Demanded, and no key to sign with.
	b := newBench(t, benchOptions{as: astest.Options{RequireSignedRequest: true}})
	b.browser().get("/bff/login", navigate...).wantError(t, http.StatusBadGateway, codeTokenUnavailable)
}

// RFC 8705 section 2.2.2: the certificate and the key that signs requests are both
// published, under names of their own though they may be of one key pair.
func TestPublicKeysOfCertificateAndSigningKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	public, private := astest.SelfSigned("app").PEM()
	certificate, own := writeFile(t, filepath.Join(dir, "cert.pem"), public), writeFile(t, filepath.Join(dir, "cert.key"), private)
	a := &ClientAuthOptions{Method: string(oauth.AuthSelfSignedTLS), Certificate: certificate, PrivateKey: own, KeyFile: own}
	c, err := a.newCredentials()
	if err != nil {
		t.Fatal(err)
	}
	kids := map[string]bool{}
	for _, jwk := range (&Handler{ClientAuth: a, credentials: c}).publicKeys() {
		var key struct{ Kid string }
		if err := json.Unmarshal(jwk, &key); err != nil {
			t.Fatal(err)
		}
		kids[key.Kid] = true
	}
	if len(kids) != 2 {
		t.Errorf("key IDs: %v", kids)
	}
}

// postBack posts an authorization response as the page of the authorization server
// makes the browser do it.
func (c *browser) postBack(form url.Values) *answer {
	c.t.Helper()
	return c.do(http.MethodPost, "/bff/callback", form.Encode(), with(arrive, "Origin", c.as.Issuer(), "Content-Type", "application/x-www-form-urlencoded")...)
}

// CB-10, CK-06, CS-12, PR-07: in every response mode a login succeeds, the response
// counts by that mode alone, and an error that comes by it is shown.
func TestResponseModes(t *testing.T) {
	for _, mode := range oauth.ResponseModes() {
		b := newBench(t, benchOptions{
			bff: "response_mode " + mode + "\npublic_origin https://app.example.com", as: astest.Options{JARM: true, PAR: true},
		})
		posted, signed := strings.HasPrefix(mode, "form_post"), strings.HasSuffix(mode, "jwt")
		respond := func(c *browser) (url.Values, *answer) {
			t.Helper()
			a := c.get("/bff/login?return_to=/x", navigate...)
			if posted {
				form, err := b.as.LoginByForm(a.location())
				if err != nil {
					t.Fatal(err)
				}
				return form, a
			}
			back, err := b.as.Login(a.location())
			if err != nil {
				t.Fatal(err)
			}
			return back.Query(), a
		}
		deliver := func(c *browser, params url.Values, byPost bool) *answer {
			if byPost {
				return c.postBack(params)
			}
			return c.get("/bff/callback?"+params.Encode(), arrive...)
		}
		c := b.browser()
		params, begun := respond(c)
		want := http.SameSiteLaxMode
		if posted {
			want = http.SameSiteNoneMode
		}
		if k := begun.Cookies()[0]; k.SameSite != want || !k.Secure || !k.HttpOnly {
			t.Errorf("%s: login cookie %v", mode, k)
		}
		if params.Has("response") != signed || params.Has("code") == signed {
			t.Errorf("%s: the response is %v", mode, params)
		}
		if a := deliver(c, params, posted); a.StatusCode != http.StatusSeeOther || a.location() != "/x" {
			t.Errorf("%s: %d %q %s", mode, a.StatusCode, a.location(), a.body)
		}
		// The other way round, and signed where it must not be, or the reverse.
		b.as.ForgetRequests()
		c = b.browser()
		params, _ = respond(c)
		deliver(c, params, !posted).wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
		if signed {
			c = b.browser()
			params, _ = respond(c)
			state := oauth.ResponseState(params).Reveal()
			deliver(c, url.Values{"code": {"evil"}, "state": {state}, "iss": {b.as.Issuer()}}, posted).wantError(t, http.StatusBadRequest, codeLoginStateInvalid)
		}
		if n := b.as.Count(astest.Token); n != 0 {
			t.Errorf("%s: %d token requests", mode, n)
		}
		b.as.Configure(func(o *astest.Options) { o.AuthorizeError = "access_denied" })
		c = b.browser()
		params, _ = respond(c)
		deliver(c, params, posted).wantError(t, http.StatusForbidden, codeForbidden)
		c.do(http.MethodPost, "/bff/callback", "x", with(arrive, "Content-Type", "text/plain")...).wantError(t, http.StatusBadRequest, codeInvalidParameter)
		if jwt := params.Get("response"); jwt != "" && strings.Contains(b.log(), jwt) {
			t.Errorf("%s: the response is in the log", mode)
		}
		b.stop()
	}
}

// AR-09, ID-11, ID-12, NS-06: what the configuration asks of the user's authentication
// is checked in the answer, as what the browser asks is.
func TestConfiguredAuthentication(t *testing.T) {
	const claims = "`{\"id_token\":{\"acr\":{\"essential\":true,\"values\":[\"gold\"]}}}`"
	for _, tc := range []struct {
		option, query string
		acr           string
		age           time.Duration // since the user authenticated
		signedIn      bool
		straight      bool // the session is enough for another login
	}{
		{"authorization_param max_age 3600", "", "", time.Minute, true, true},
		{"authorization_param max_age 3600", "", "", 2 * time.Hour, false, false},
		{"authorization_param max_age 3600", "&max_age=60", "", 30 * time.Minute, false, false},
		{"authorization_param max_age 5", "", "", 10 * time.Second, true, false}, // within the leeway of a login
		{"authorization_param acr_values gold", "", "gold", 0, true, true},
		{"authorization_param acr_values gold", "", "pwd", 0, false, false},
		{"authorization_param claims " + claims, "", "gold", 0, true, true},
		{"authorization_param claims " + claims, "", "pwd", 0, false, false},
		{"login_param claims", "&claims=" + url.QueryEscape(strings.Trim(claims, "`")), "pwd", 0, false, false},
	} {
		b := newBench(t, benchOptions{bff: tc.option, as: astest.Options{RequirePAR: true, IDTokenClaims: func(_ string, claims map[string]any) {
			claims["auth_time"] = time.Now().Add(-tc.age).Unix()
			if tc.acr != "" {
				claims["acr"] = tc.acr
			}
		}}})
		c := b.browser()
		a := c.get("/bff/login?return_to=/after"+tc.query, navigate...)
		a = c.get(c.authorize(mustParse(t, a.location())), arrive...)
		if got := a.StatusCode == http.StatusSeeOther && a.location() == "/after"; got != tc.signedIn {
			t.Errorf("%s %s, acr %q, %s ago: %d %q", tc.option, tc.query, tc.acr, tc.age, a.StatusCode, a.location())
		}
		if !tc.signedIn {
			a.wantError(t, http.StatusBadGateway, codeTokenUnavailable)
			b.stop()
			continue
		}
		if a = c.get("/bff/login?return_to=/after", navigate...); (a.location() == "/after") != tc.straight {
			t.Errorf("%s: with a session: %q", tc.option, a.location())
		}
		b.stop()
	}
}

// A login that took too long is begun anew, and asks the same.
func TestStaleLoginAsksTheSameAgain(t *testing.T) {
	b := newBench(t, benchOptions{})
	c := b.browser()
	a := c.get("/bff/login?return_to=/after&max_age=3600&force=true", navigate...)
	callback := c.authorize(mustParse(t, a.location()))
	// Delivered on two instances: the one that is late finds the response used up.
	jar := maps.Clone(c.jar)
	if a = c.get(callback, arrive...); a.location() != "/after" {
		t.Fatalf("%d %q", a.StatusCode, a.location())
	}
	c.jar = jar
	a = c.get(callback, navigate...)
	if q := mustParse(t, a.location()).Query(); a.StatusCode != http.StatusSeeOther || q.Get("max_age") != "3600" {
		t.Errorf("%d %q", a.StatusCode, a.location())
	}
}
