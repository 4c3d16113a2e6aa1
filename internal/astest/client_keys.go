// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// clientKey is a public key out of a client's JWK Set.
type clientKey struct {
	kid, alg    string
	key         crypto.PublicKey
	certificate *x509.Certificate // x5c; nil: none
}

// parseClientKeys reads a client's JWK Set the way a strict server does: no member
// may be private, no two keys may have the same key ID, and every key needs one.
func parseClientKeys(data []byte) ([]clientKey, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("JWK Set of the client: %w", err)
	}
	var list []clientKey
	seen := map[string]bool{}
	for _, jwk := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k", "oth"} {
			if _, there := jwk[private]; there {
				return nil, fmt.Errorf("JWK Set of the client has a private member %s", private)
			}
		}
		k, err := parseClientKey(jwk)
		if err != nil {
			return nil, err
		}
		if k.kid == "" || seen[k.kid] || jwk["use"] != "sig" {
			return nil, fmt.Errorf("JWK Set of the client: key ID %q is missing or there twice, or use is not sig", k.kid)
		}
		seen[k.kid] = true
		list = append(list, k)
	}
	return list, nil
}

func parseClientKey(jwk map[string]any) (k clientKey, err error) {
	text := func(name string) string { s, _ := jwk[name].(string); return s }
	number := func(name string) *big.Int {
		data, decodeErr := base64.RawURLEncoding.DecodeString(text(name))
		if decodeErr != nil || len(data) == 0 {
			err = fmt.Errorf("JWK of the client: %s is missing or malformed", name)
		}
		return new(big.Int).SetBytes(data)
	}
	k.kid, k.alg = text("kid"), text("alg")
	switch text("kty") {
	case "RSA":
		k.key = &rsa.PublicKey{N: number("n"), E: int(number("e").Int64())}
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[text("crv")]
		if curve == nil {
			return k, errors.New("JWK of the client: unknown curve")
		}
		k.key = &ecdsa.PublicKey{Curve: curve, X: number("x"), Y: number("y")}
	case "OKP":
		k.key = ed25519.PublicKey(number("x").FillBytes(make([]byte, ed25519.PublicKeySize)))
	default:
		return k, errors.New("JWK of the client: unknown kty")
	}
	if chain, ok := jwk["x5c"].([]any); ok && len(chain) > 0 && err == nil {
		leaf, _ := chain[0].(string)
		der, decodeErr := base64.StdEncoding.DecodeString(leaf)
		if decodeErr != nil {
			return k, decodeErr
		}
		if k.certificate, err = x509.ParseCertificate(der); err != nil {
			return k, err
		}
		if public, ok := k.certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(k.key) || text("x5t#S256") != thumbprint(k.certificate) {
			return k, errors.New("JWK of the client: the certificate is of another key")
		}
	}
	return k, err
}

// signatureVerifies checks a signature by one algorithm with one key.
func signatureVerifies(alg string, key crypto.PublicKey, input, sig []byte) bool {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[max(0, len(alg)-3):]]
	digest := input
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	switch pub := key.(type) {
	case *rsa.PublicKey:
		switch {
		case strings.HasPrefix(alg, "PS"):
			return rsa.VerifyPSS(pub, hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		case strings.HasPrefix(alg, "RS"):
			return rsa.VerifyPKCS1v15(pub, hash, digest, sig) == nil
		}
	case *ecdsa.PublicKey:
		bits := map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}[alg]
		size := (pub.Params().BitSize + 7) / 8
		if bits != pub.Params().BitSize || len(sig) != 2*size {
			return false
		}
		return ecdsa.Verify(pub, digest, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
	case ed25519.PublicKey:
		return alg == "EdDSA" && ed25519.Verify(pub, digest, sig)
	}
	return false
}
