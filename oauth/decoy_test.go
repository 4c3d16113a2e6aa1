// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"maps"
	"math/big"
	"slices"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// JW-01, JW-02, JW-11, JW-12: keys that share the key ID of the one that signs, and
// are of another kind, for something else or unusable, hide it wherever they stand;
// and what one of them signs is not the issuer's.
func TestDecoys(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]*astest.Key{}
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		keys[alg] = astest.NewKey(alg, "k")
	}
	type jwk = map[string]any
	with := func(k *astest.Key, change jwk) jwk {
		out := k.JWK()
		maps.Copy(out, change)
		return out
	}
	for alg, key := range keys {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			stranger := astest.NewKey(alg, "k")
			var decoys []any
			for other, k := range keys {
				if other != alg {
					decoys = append(decoys, k.JWK())
				}
			}
			kty := key.JWK()["kty"]
			decoys = append(
				decoys,
				with(stranger, jwk{"use": "enc"}),
				with(stranger, jwk{"use": "SIG"}),
				with(stranger, jwk{"key_ops": []string{"sign", "encrypt"}}),
				with(stranger, jwk{"key_ops": "verify"}),
				with(stranger, jwk{"kty": "oct", "k": "AAAA"}),
				with(stranger, jwk{"d": "AAAA"}),
				with(stranger, jwk{"alg": "HS256"}),
				with(stranger, jwk{"alg": "none"}),
				with(stranger, jwk{"kty": "XYZ"}),
				with(stranger, jwk{"alg": 7}),
				jwk{"kid": "k", "kty": kty, "alg": alg},
				jwk{"kid": "k", "alg": alg, "x5u": "https://as.test/evil"},
				(&astest.Key{ID: "k", Algorithm: "RS256", Private: small}).JWK(),
				astest.NewKey(alg, "k").JWK(), // nothing is wrong with this one
				"k", nil,
			)
			real := key.JWK()
			for name, set := range map[string][]any{
				"last": append(slices.Clone(decoys), real), "first": append([]any{real}, decoys...),
				"between": slices.Insert(slices.Clone(decoys), len(decoys)/2, any(real)),
			} {
				as := astest.New(astest.Options{JWKSDoc: func(doc map[string]any) { doc["keys"] = set }})
				c := newClient(t, as)
				if err := accepts(c, accessToken(as, key)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if err := accepts(c, accessToken(as, stranger)); err == nil {
					t.Errorf("%s: a decoy's signature counts", name)
				}
				if n := as.Count("unknown"); n != 0 {
					t.Errorf("%s: %d requests to places that a key named", name, n)
				}
			}
		})
	}
}

// JW-12, C309: a modulus is neither small nor so large that it costs more than it
// gives, and an exponent is one.
func TestRSAKeySizes(t *testing.T) {
	t.Parallel()
	text := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	odd := func(bits int) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return n.Or(n, big.NewInt(1))
	}
	e := big.NewInt(65537)
	for name, tc := range map[string]struct {
		n, e *big.Int
		ok   bool
	}{
		"2047 bits":          {odd(2047), e, false},
		"2048 bits":          {odd(2048), e, true},
		"8192 bits":          {odd(8192), e, true},
		"8193 bits":          {odd(8193), e, false},
		"300000 bits":        {odd(300_000), e, false},
		"exponent 1":         {odd(2048), big.NewInt(1), false},
		"exponent 3":         {odd(2048), big.NewInt(3), true},
		"exponent even":      {odd(2048), big.NewInt(65536), false},
		"exponent 2^31-1":    {odd(2048), big.NewInt(1<<31 - 1), true},
		"exponent 2^31+1":    {odd(2048), big.NewInt(1<<31 + 1), false},
		"exponent 2^64+3":    {odd(2048), new(big.Int).Add(odd(65), big.NewInt(2)), false},
		"exponent 2048 bits": {odd(2048), odd(2048), false},
		"even modulus":       {new(big.Int).Lsh(odd(2047), 1), e, false},
	} {
		pub, err := parsePublicKey(&object{members: map[string]any{"kty": "RSA", "n": text(tc.n), "e": text(tc.e)}})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && pub.(*rsa.PublicKey).N.Cmp(tc.n) != 0 {
			t.Errorf("%s: another modulus", name)
		}
	}
}
