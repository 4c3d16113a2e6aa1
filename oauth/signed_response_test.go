// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// signedLogin has a server sign its response and returns it, with the check that it
// has to pass.
func signedLogin(t testing.TB, c *Client, as *astest.Server, mode string) (url.Values, AuthorizationResponseCheck) {
	t.Helper()
	r := authorizationRequest()
	r.ResponseMode = mode
	raw, err := c.AuthorizationURL(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	check := AuthorizationResponseCheck{State: r.State, ResponseMode: mode}
	if mode == ResponseModeFormPostJWT {
		form, err := as.LoginByForm(raw)
		if err != nil {
			t.Fatal(err)
		}
		return form, check
	}
	back, err := as.Login(raw)
	if err != nil {
		t.Fatal(err)
	}
	return back.Query(), check
}

// PR-07: a signed response brings its code, or its error, whatever signs it and
// however it comes.
func TestSignedAuthorizationResponse(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{ResponseModeJWT, ResponseModeQueryJWT, ResponseModeFormPostJWT} {
		for _, alg := range []string{"ES256", "RS256", "PS256", "EdDSA"} {
			for _, refused := range []string{"", "access_denied"} {
				as := astest.New(astest.Options{JARM: true, Algorithm: alg, AuthorizeError: refused})
				c := newClient(t, as)
				params, check := signedLogin(t, c, as, mode)
				if len(params) != 1 || ResponseState(params) != check.State {
					t.Errorf("%s: %v", mode, params)
				}
				code, err := c.ValidateAuthorizationResponse(t.Context(), params, check)
				if e, ok := errors.AsType[*Error](err); refused != "" {
					if !ok || e.Code != refused || code != "" {
						t.Errorf("%s %s: %v", mode, alg, err)
					}
				} else if err != nil || !strings.HasPrefix(code.Reveal(), "code-") {
					t.Errorf("%s %s: %v", mode, alg, err)
				}
			}
		}
	}
}

// PR-07, C306: the eight of FAPI 2.0 Message Signing (test-ensure-jarm-*), and more.
func TestSignedResponsesThatAreRefused(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, change := range map[string]func(header, claims map[string]any){
		"without iss":            func(_, claims map[string]any) { delete(claims, "iss") },
		"iss of another":         func(_, claims map[string]any) { claims["iss"] = "https://evil.test" },
		"iss with a slash":       func(_, claims map[string]any) { claims["iss"] = "https://as.test/" },
		"without aud":            func(_, claims map[string]any) { delete(claims, "aud") },
		"aud empty":              func(_, claims map[string]any) { claims["aud"] = []string{} },
		"aud another":            func(_, claims map[string]any) { claims["aud"] = "other" },
		"aud another too":        func(_, claims map[string]any) { claims["aud"] = []string{"app", "other"} },
		"without exp":            func(_, claims map[string]any) { delete(claims, "exp") },
		"exp null":               func(_, claims map[string]any) { claims["exp"] = nil },
		"exp a text":             func(_, claims map[string]any) { claims["exp"] = "9999999999" },
		"expired":                func(_, claims map[string]any) { claims["exp"] = now.Add(-31 * time.Second).Unix() },
		"not valid yet":          func(_, claims map[string]any) { claims["nbf"] = now.Add(time.Hour).Unix() },
		"issued in the future":   func(_, claims map[string]any) { claims["iat"] = now.Add(time.Hour).Unix() },
		"alg none":               func(header, _ map[string]any) { header["alg"] = "none" },
		"alg of another key":     func(header, _ map[string]any) { header["alg"] = "RS256" },
		"typ of an access token": func(header, _ map[string]any) { header["typ"] = "at+jwt" },
		"typ of a logout token":  func(header, _ map[string]any) { header["typ"] = "logout+jwt" },
		"typ of a request":       func(header, _ map[string]any) { header["typ"] = "oauth-authz-req+jwt" },
		"crit":                   func(header, _ map[string]any) { header["crit"] = []string{"x"} },
		"state of another":       func(_, claims map[string]any) { claims["state"] = "other" },
		"state missing":          func(_, claims map[string]any) { delete(claims, "state") },
		"state a number":         func(_, claims map[string]any) { claims["state"] = 1 },
		"code missing":           func(_, claims map[string]any) { delete(claims, "code") },
		"code a list":            func(_, claims map[string]any) { claims["code"] = []string{"x"} },
		"code with line break":   func(_, claims map[string]any) { claims["code"] = "a\nb" },
		"code and error":         func(_, claims map[string]any) { claims["error"] = "access_denied" },
		"code too long":          func(_, claims map[string]any) { claims["code"] = strings.Repeat("c", 9<<10) },
	} {
		as := astest.New(astest.Options{JARM: true, ResponseJWT: change})
		c := newClient(t, as)
		params, check := signedLogin(t, c, as, ResponseModeQueryJWT)
		if code, err := c.ValidateAuthorizationResponse(t.Context(), params, check); !errors.Is(err, ErrResponse) || code != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	as := astest.New(astest.Options{JARM: true})
	c := newClient(t, as)
	params, check := signedLogin(t, c, as, ResponseModeQueryJWT)
	jwt := params.Get("response")
	at := strings.LastIndexByte(jwt, '.')
	stranger := astest.NewKey("ES256", as.SigningKey().ID)
	claims := map[string]any{"iss": as.Issuer(), "aud": "app", "exp": now.Add(time.Minute).Unix(), "code": "c", "state": check.State.Reveal()}
	for name, params := range map[string]url.Values{
		"signature of another key":   {"response": {stranger.Sign(map[string]any{"alg": "ES256", "kid": stranger.ID}, claims)}},
		"no signature":               {"response": {jwt[:at+1]}},
		"signature damaged":          {"response": {jwt[:at+1] + strings.Repeat("A", len(jwt)-at-1)}},
		"shared secret":              {"response": {astest.SignHMAC([]byte("secret"), map[string]any{"alg": "HS256"}, claims)}},
		"twice":                      {"response": {jwt, jwt}},
		"beside a code":              {"response": {jwt}, "code": {"evil"}},
		"beside a state":             {"response": {jwt}, "state": {check.State.Reveal()}},
		"plain, though signed asked": {"code": {"c"}, "state": {check.State.Reveal()}, "iss": {as.Issuer()}},
		"plain error":                {"error": {"access_denied"}, "state": {check.State.Reveal()}, "iss": {as.Issuer()}},
		"empty":                      {"response": {""}},
		"no JWT":                     {"response": {"x"}},
		"too long":                   {"response": {jwt + strings.Repeat("A", maxResponseJWT)}},
	} {
		if code, err := c.ValidateAuthorizationResponse(t.Context(), params, check); !errors.Is(err, ErrResponse) || code != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	check.ResponseMode = ResponseModeQuery
	if _, err := c.ValidateAuthorizationResponse(t.Context(), params, check); !errors.Is(err, ErrResponse) {
		t.Errorf("nobody asked for a signed one: %v", err)
	}
	check.ResponseMode, check.State = ResponseModeQueryJWT, ""
	if _, err := c.ValidateAuthorizationResponse(t.Context(), url.Values{"response": {"x"}}, check); !errors.Is(err, ErrResponse) {
		t.Errorf("no state expected: %v", err)
	}
}

// The metadata says with what responses are signed, and whether.
func TestSignedResponsesByTheMetadata(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{JARM: true, MetadataDoc: func(doc map[string]any) {
		doc["authorization_signing_alg_values_supported"] = []string{"PS256"}
	}})
	c := newClient(t, as)
	params, check := signedLogin(t, c, as, ResponseModeJWT)
	if _, err := c.ValidateAuthorizationResponse(t.Context(), params, check); !errors.Is(err, ErrResponse) {
		t.Errorf("an algorithm that is not listed: %v", err)
	}
	r := authorizationRequest()
	r.ResponseMode = ResponseModeJWT
	if _, err := newClient(t, astest.New(astest.Options{})).AuthorizationURL(t.Context(), r); !errors.Is(err, ErrUnsupported) {
		t.Errorf("not offered: %v", err)
	}
}

// Nothing can be said of a signature while the keys cannot be had; the same response
// is good later.
func TestSignedResponseWithoutKeys(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{JARM: true})
	c := newClient(t, as)
	params, check := signedLogin(t, c, as, ResponseModeJWT)
	as.Script(astest.JWKS, astest.Answer{Status: 503})
	if _, err := c.ValidateAuthorizationResponse(t.Context(), params, check); !errors.Is(err, ErrKeysUnavailable) || errors.Is(err, ErrResponse) {
		t.Error(err)
	}
}

// FuzzSignedResponse: whatever the issuer, or somebody else, signs as an authorization
// response. A code comes out of what is by the issuer, for us, for this login and of now.
func FuzzSignedResponse(f *testing.F) {
	as := astest.New(astest.Options{JARM: true, Algorithm: "EdDSA"})
	c, key, stranger := newClient(f, as), as.SigningKey(), astest.NewKey("EdDSA", "key-1")
	ctx := settled(f, c)
	for _, seed := range []string{
		`{"iss":"https://as.test","aud":"app","exp":9999999999,"code":"c","state":"st"}`, `{"iss":"https://as.test","aud":["app"],"exp":9999999999,"error":"access_denied","state":"st"}`,
		`{"code":"c","state":"st","state":"x"}`, `{"exp":1e400}`, `{}`, `[]`,
	} {
		for _, header := range []string{`{"alg":"EdDSA","kid":"key-1"}`, `{"alg":"none"}`, `{"alg":"EdDSA","typ":"oauth-authz-resp+jwt"}`} {
			f.Add([]byte(header), []byte(seed), true)
			f.Add([]byte(header), []byte(seed), false)
		}
	}
	f.Fuzz(func(t *testing.T, header, payload []byte, ours bool) {
		token := stranger.SignRaw(header, payload)
		if ours {
			token = key.SignRaw(header, payload)
		}
		bounded(t, len(token), func() {
			code, err := c.ValidateAuthorizationResponse(ctx, url.Values{"response": {token}}, AuthorizationResponseCheck{State: "st", ResponseMode: ResponseModeJWT})
			if e, ok := errors.AsType[*Error](err); ok && !errors.Is(err, ErrKeysUnavailable) && (!ours || e.Code == "" || errorText(e.Code, 128) != e.Code) {
				t.Fatalf("%s.%s: %v", header, payload, err)
			}
			if err != nil {
				if code != "" || !errors.Is(err, ErrResponse) && !errors.Is(err, ErrKeysUnavailable) && ClassOf(err) != ClassRefused && ClassOf(err) != ClassOutage && ClassOf(err) != ClassConfiguration {
					t.Fatalf("%s.%s: %q, %v", header, payload, code, err)
				}
				return
			}
			told, err := readPlainly(t, payload)
			exp, _ := told["exp"].(json.Number)
			until, _ := exp.Float64()
			if err != nil || !ours || told["code"] != code.Reveal() || !visible(code.Reveal(), true) || code == "" || told["state"] != "st" ||
				told["iss"] != "https://as.test" || until < float64(time.Now().Add(-time.Minute).Unix()) {
				t.Fatalf("a code of %s.%s: %q, %v", header, payload, code, err)
			}
		})
	})
}
