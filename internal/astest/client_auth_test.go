// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The server is strict: every assertion that is not as it has to be is refused,
// and says why, so that the tests of clients can fail.
func TestAssertionsAreChecked(t *testing.T) {
	t.Parallel()
	key, other := NewKey("ES256", "one"), NewKey("ES256", "one")
	s := New(Options{AuthMethod: "private_key_jwt", AssertionAlgs: []string{"ES256"}, ClientKeys: func() []byte {
		return mustJSON(map[string]any{"keys": []any{key.JWK()}})
	}})
	now := time.Now().Unix()
	send := func(assertion string, form url.Values) (status int, why string) {
		t.Helper()
		if form == nil {
			form = url.Values{}
		}
		if !form.Has("client_assertion_type") {
			form.Set("client_assertion_type", clientAssertionType)
		}
		form.Set("client_assertion", assertion)
		form.Set("token", "x")
		res, err := s.HTTPClient().Post(s.Issuer()+"/revoke", "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		requests := s.Requests(Revoke)
		return res.StatusCode, requests[len(requests)-1].AuthError
	}
	good := func() map[string]any {
		return map[string]any{"iss": "app", "sub": "app", "aud": s.Issuer(), "jti": random(), "iat": now - 5, "exp": now + 50}
	}
	for name, tt := range map[string]struct {
		header, claims map[string]any // changes; nil removes
		key            *Key
		form           url.Values
		want           string
	}{
		"good":             {},
		"good, client_id":  {form: url.Values{"client_id": {"app"}}},
		"iss of another":   {claims: map[string]any{"iss": "x"}, want: "iss is x"},
		"sub of another":   {claims: map[string]any{"sub": "x"}, want: "sub is x"},
		"aud an endpoint":  {claims: map[string]any{"aud": s.Issuer() + "/token"}, want: "aud is"},
		"aud an array":     {claims: map[string]any{"aud": []string{s.Issuer()}}, want: "aud is"},
		"no jti":           {claims: map[string]any{"jti": nil}, want: "jti"},
		"expired":          {claims: map[string]any{"iat": now - 50, "exp": now - 1}, want: "exp is"},
		"not yet":          {claims: map[string]any{"iat": now + 30}, want: "iat is"},
		"long life":        {claims: map[string]any{"exp": now + 3600}, want: "exp is"},
		"no exp":           {claims: map[string]any{"exp": nil}, want: "exp is"},
		"no typ":           {header: map[string]any{"typ": nil}, want: "typ is"},
		"other typ":        {header: map[string]any{"typ": "JWT"}, want: "typ is"},
		"other kid":        {header: map[string]any{"kid": "two"}, want: "made the signature"},
		"other key":        {key: other, want: "made the signature"},
		"alg none":         {header: map[string]any{"alg": "none"}, want: "alg is none"},
		"other client_id":  {form: url.Values{"client_id": {"x"}}, want: "client_id is another"},
		"other type":       {form: url.Values{"client_assertion_type": {"x"}}, want: "client_assertion_type is"},
		"a secret as well": {form: url.Values{"client_secret": {"secret"}}, want: "client authentication is both"},
	} {
		header, claims := key.Header("client-authentication+jwt"), good()
		maps.Copy(header, tt.header)
		maps.Copy(claims, tt.claims)
		for _, m := range []map[string]any{header, claims} {
			maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
		}
		signer := key
		if tt.key != nil {
			signer = tt.key
		}
		assertion := signer.Sign(header, claims)
		status, why := send(assertion, tt.form)
		if tt.want == "" && status != http.StatusOK || tt.want != "" && (status != http.StatusUnauthorized || !strings.Contains(why, tt.want)) {
			t.Errorf("%s: %d %q, want %q", name, status, why, tt.want)
		}
		if tt.want == "" {
			if status, why := send(assertion, tt.form); status != http.StatusUnauthorized || !strings.Contains(why, "used before") {
				t.Errorf("%s, again: %d %q", name, status, why)
			}
		}
	}
	if status, why := send("x.y", nil); status != http.StatusUnauthorized || !strings.Contains(why, "no JWT") {
		t.Errorf("no JWT: %d %q", status, why)
	}
	// The secret's assertion, where a key's is demanded.
	header := map[string]any{"alg": "HS256", "typ": "client-authentication+jwt"}
	if status, why := send(SignHMAC([]byte("secret"), header, good()), nil); status != http.StatusUnauthorized || !strings.Contains(why, "client_secret_jwt") {
		t.Errorf("HS256: %d %q", status, why)
	}
}

func TestPublishedKeysAreChecked(t *testing.T) {
	t.Parallel()
	key := NewKey("RS256", "one")
	twice := mustJSON(map[string]any{"keys": []any{key.JWK(), NewKey("ES256", "one").JWK()}})
	for name, set := range map[string][]byte{"private": PrivateKeySet(key), "kid twice": twice, "no JSON": []byte("x")} {
		if _, err := parseClientKeys(set); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if keys, err := parseClientKeys(mustJSON(map[string]any{"keys": []any{key.JWK(), NewKey("EdDSA", "two").JWK()}})); err != nil || len(keys) != 2 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}
