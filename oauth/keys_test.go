// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// accessToken signs an access token of as with key.
func accessToken(as *astest.Server, key *astest.Key, change ...func(header, claims map[string]any)) Secret {
	now := time.Now()
	header := key.Header("at+jwt")
	claims := map[string]any{
		"iss": as.Issuer(), "sub": "alice", "aud": "https://api.test", "client_id": "app", "jti": "1",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for _, f := range change {
		f(header, claims)
	}
	return Secret(key.Sign(header, claims))
}

func accepts(c *Client, token Secret) error {
	_, err := c.CheckAccessToken(context.Background(), token, ValidateJWT)
	return err
}

func TestKeySelection(t *testing.T) { // C1, JW-01, JW-02, JW-03, JW-11, JW-12
	t.Parallel()
	ec, other := astest.NewKey("ES256", "k"), astest.NewKey("ES256", "other")
	rs := astest.NewKey("RS256", "k")
	ed := astest.NewKey("EdDSA", "k")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := &astest.Key{ID: "weak", Algorithm: "RS256", Private: small}
	with := func(k *astest.Key, name string, v any) map[string]any {
		jwk := k.JWK()
		if v == nil {
			delete(jwk, name)
		} else {
			jwk[name] = v
		}
		return jwk
	}
	bare := func(k *astest.Key) map[string]any {
		jwk := k.JWK()
		delete(jwk, "alg")
		delete(jwk, "use")
		return jwk
	}
	offCurve := with(ec, "x", ec.JWK()["y"])
	noKid := func(header, _ map[string]any) { delete(header, "kid") }
	for name, tc := range map[string]struct {
		set    []any
		key    *astest.Key
		change func(header, claims map[string]any)
		ok     bool
	}{
		"plain":                           {set: []any{ec.JWK()}, key: ec, ok: true},
		"decoys share the kid":            {set: []any{rs.JWK(), ed.JWK(), with(other, "kid", "k"), ec.JWK()}, key: ec, ok: true},
		"no kid, one key":                 {set: []any{ec.JWK()}, key: ec, change: noKid, ok: true},
		"no kid, several keys":            {set: []any{rs.JWK(), other.JWK(), ec.JWK()}, key: ec, change: noKid, ok: true},
		"key without kid":                 {set: []any{with(ec, "kid", nil)}, key: ec, ok: true},
		"key without alg and use":         {set: []any{bare(rs)}, key: rs, ok: true},
		"unknown, malformed, and good":    {set: []any{map[string]any{"kty": "XYZ"}, "x", nil, 7, map[string]any{"kty": "EC"}, map[string]any{"kty": "oct", "k": "AAAA", "kid": "k"}, with(ec, "kid", 7), with(ec, "alg", "ES999"), ec.JWK()}, key: ec, ok: true},
		"key for encryption":              {set: []any{with(ec, "use", "enc")}, key: ec},
		"key whose operations lack it":    {set: []any{with(ec, "key_ops", []string{"sign"})}, key: ec},
		"RS256 by a key that says PS256":  {set: []any{with(rs, "alg", "PS256")}, key: rs},
		"another kid":                     {set: []any{other.JWK()}, key: ec},
		"same kid, another key":           {set: []any{with(other, "kid", "k")}, key: ec},
		"RSA key of 1024 bits":            {set: []any{weak.JWK()}, key: weak},
		"point off the curve":             {set: []any{offCurve}, key: ec},
		"private key in the set":          {set: []any{with(ec, "d", "AAAA")}, key: ec},
		"empty set":                       {set: []any{}, key: ec},
		"ES256 by a key for another size": {set: []any{with(astest.NewKey("ES384", "k"), "alg", nil)}, key: ec},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := astest.New(astest.Options{JWKSDoc: func(doc map[string]any) { doc["keys"] = tc.set }})
			change := tc.change
			if change == nil {
				change = func(_, _ map[string]any) {}
			}
			if err := accepts(newClient(t, as), accessToken(as, tc.key, change)); (err == nil) != tc.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestPointsOffTheCurveAreNoKeys(t *testing.T) { // JW-12
	t.Parallel()
	for _, alg := range []string{"ES256", "ES384", "ES512"} {
		jwk := astest.NewKey(alg, "k").JWK()
		if _, err := parsePublicKey(&object{members: jwk}); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		jwk["x"] = jwk["y"]
		if key, err := parsePublicKey(&object{members: jwk}); err == nil {
			t.Errorf("%s: %v", alg, key)
		}
	}
}

func TestKeySetIsBounded(t *testing.T) { // C309, H106
	t.Parallel()
	key := astest.NewKey("ES256", "k")
	many := make([]any, maxKeys+1)
	for i := range many {
		many[i] = key.JWK()
	}
	for name, doc := range map[string]map[string]any{
		"101 keys":    {"keys": many},
		"513 KiB":     {"keys": []any{key.JWK()}, "x": strings.Repeat("x", maxJWKS)},
		"no array":    {"keys": map[string]any{}},
		"no keys":     {},
		"nested deep": {"keys": []any{key.JWK()}, "x": json.RawMessage(strings.Repeat("[", 40) + strings.Repeat("]", 40))},
	} {
		as := astest.New(astest.Options{JWKSDoc: func(d map[string]any) {
			clear(d)
			for k, v := range doc {
				d[k] = v
			}
		}})
		if err := accepts(newClient(t, as), accessToken(as, key)); !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	as := astest.New(astest.Options{JWKSDoc: func(d map[string]any) { d["keys"] = many[:maxKeys] }})
	if err := accepts(newClient(t, as), accessToken(as, key)); err != nil {
		t.Errorf("100 keys: %v", err)
	}
}

func TestKeyRotation(t *testing.T) { // ID-20, F407, C309
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		first := accessToken(as, as.SigningKey())
		verdict, err := c.CheckAccessToken(t.Context(), first, ValidateJWT)
		if err != nil {
			t.Fatal(err)
		}
		second := accessToken(as, as.RotateKey("key-2", false))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := accepts(c, second); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := as.Count(astest.JWKS); n != 2 {
			t.Errorf("%d key set fetches for one rotation and 50 tokens", n)
		}
		if c.VerdictCurrent(verdict, time.Now()) {
			t.Error("a verdict by the old key set still holds")
		}
		if err := accepts(c, first); !errors.Is(err, ErrAccessToken) {
			t.Errorf("a token of a withdrawn key: %v", err)
		}

		// A second rotation has to wait a moment.
		third := accessToken(as, as.RotateKey("key-3", false))
		if err := accepts(c, third); !errors.Is(err, ErrAccessToken) {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(refetchSoon)
		if err := accepts(c, third); err != nil {
			t.Errorf("after a moment: %v", err)
		}
	})
}

func TestFloodOfUnknownKeyIDs(t *testing.T) { // JW-10
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		good := accessToken(as, as.SigningKey())
		forger := astest.NewKey("ES256", "")
		flood := func(i int) {
			forged := accessToken(as, forger, func(h, _ map[string]any) { h["kid"] = strings.Repeat("k", i%100+1) })
			if err := accepts(c, forged); err == nil {
				t.Fatal("forged token accepted")
			}
		}
		for i := range 1000 {
			flood(i)
			time.Sleep(10 * time.Millisecond)
		}
		if err := accepts(c, good); err != nil {
			t.Error(err)
		}
		if n := as.Count(astest.JWKS); n > 2 {
			t.Errorf("%d key set fetches in ten seconds", n)
		}
		before := as.Count(astest.JWKS)
		for i := range 600 {
			flood(i)
			time.Sleep(time.Second)
		}
		if n := as.Count(astest.JWKS) - before; n > 13 {
			t.Errorf("%d key set fetches in ten minutes", n)
		}
	})
}

func TestKnownKeysServeThroughAnOutage(t *testing.T) { // JW-10, F401, H213
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		day := func(_, claims map[string]any) { claims["exp"] = time.Now().Add(48 * time.Hour).Unix() }
		good := accessToken(as, as.SigningKey(), day)
		if err := accepts(c, good); err != nil {
			t.Fatal(err)
		}
		verdict, err := c.CheckAccessToken(t.Context(), good, ValidateJWT)
		if err != nil {
			t.Fatal(err)
		}
		as.Script(astest.JWKS, astest.Answer{Status: 500, Times: -1})
		for range 23 {
			time.Sleep(time.Hour)
			if err := accepts(c, good); err != nil {
				t.Fatal(err)
			}
			if err := accepts(c, accessToken(as, astest.NewKey("ES256", "new"))); !errors.Is(err, ErrKeysUnavailable) || errors.Is(err, ErrAccessToken) {
				t.Fatalf("unknown key: %v", err)
			}
			synctest.Wait()
		}
		if !c.VerdictCurrent(verdict, time.Now()) {
			t.Error("the outage ended a verdict")
		}
		time.Sleep(2 * time.Hour)
		if err := accepts(c, good); !errors.Is(err, ErrKeysUnavailable) || errors.Is(err, ErrAccessToken) {
			t.Fatalf("keys of the day before yesterday: %v", err)
		}
		as.ClearScript(astest.JWKS)
		time.Sleep(keySetBackOff)
		if err := accepts(c, good); err != nil {
			t.Fatalf("no recovery: %v", err)
		}
	})
}

func TestWithdrawnKeyIsNoticedWithinTheHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		day := func(_, claims map[string]any) { claims["exp"] = time.Now().Add(48 * time.Hour).Unix() }
		token := accessToken(as, as.SigningKey(), day)
		if err := accepts(c, token); err != nil {
			t.Fatal(err)
		}
		as.RotateKey("key-2", false)
		time.Sleep(keySetAge)
		_ = accepts(c, token) // starts the fetch
		synctest.Wait()
		if err := accepts(c, token); !errors.Is(err, ErrAccessToken) {
			t.Fatalf("a withdrawn key still verifies: %v", err)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	for _, alg := range []string{"ES256", "EdDSA"} {
		data, err := json.Marshal(map[string]any{"keys": []any{astest.NewKey(alg, "k").JWK()}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"","y":""},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"X25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var list []verificationKey
		var err error
		bounded(t, len(data), func() { list, err = parseKeySet(data) })
		if err == nil && (len(list) == 0 || len(list) > maxKeys) {
			t.Fatalf("%d keys", len(list))
		}
		s := &signed{alg: "ES256", input: []byte("x"), signature: make([]byte, 64)}
		if (&keys{list: list}).verify(s) {
			t.Fatal("an all-zero signature verifies")
		}
	})
}
