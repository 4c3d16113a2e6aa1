// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// PrivateJWK returns the whole key as a JWK.
func (k *Key) PrivateJWK() map[string]any {
	jwk := k.JWK()
	switch private := k.Private.(type) {
	case *rsa.PrivateKey:
		private.Precompute()
		for name, v := range map[string]*big.Int{
			"d": private.D, "p": private.Primes[0], "q": private.Primes[1],
			"dp": private.Precomputed.Dp, "dq": private.Precomputed.Dq, "qi": private.Precomputed.Qinv,
		} {
			jwk[name] = b64(v.Bytes())
		}
	case *ecdsa.PrivateKey:
		d, err := private.Bytes()
		if err != nil {
			panic(err)
		}
		jwk["d"] = b64(d)
	case ed25519.PrivateKey:
		jwk["d"] = b64(private.Seed())
	}
	return jwk
}

// PrivateKeySet returns keys as a private JWK Set.
func PrivateKeySet(keys ...*Key) []byte {
	var list []any
	for _, k := range keys {
		list = append(list, k.PrivateJWK())
	}
	return mustJSON(map[string]any{"keys": list})
}

// Files returns the private key in every form that it can have in a file, by name
// of the form; "JWK" and "JWK Set" have no alg.
func (k *Key) Files() map[string][]byte {
	block := func(typ string, der []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	jwk := k.PrivateJWK()
	delete(jwk, "alg")
	der, err := x509.MarshalPKCS8PrivateKey(k.Private)
	files := map[string][]byte{
		"PKCS#8":  block("PRIVATE KEY", der, err),
		"JWK":     mustJSON(jwk),
		"JWK Set": mustJSON(map[string]any{"keys": []any{jwk}}),
	}
	switch private := k.Private.(type) {
	case *rsa.PrivateKey:
		files["PKCS#1"] = block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private), nil)
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(private)
		// As openssl ecparam -genkey writes it.
		files["SEC 1"] = append(block("EC PARAMETERS", []byte{5, 0}, nil), block("EC PRIVATE KEY", der, err)...)
	}
	return files
}

// RSAFromPrimes makes the PKCS#1 form of an RSA key that no library would make.
func RSAFromPrimes(p, q *big.Int) []byte {
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537},
		D:         new(big.Int).ModInverse(big.NewInt(65537), phi), Primes: []*big.Int{p, q},
	}
	return x509.MarshalPKCS1PrivateKey(key)
}

// CheckSignature says whether a key of a client's JWK Set made the signature of a
// JWT: the one that the header names, with the algorithm that both name.
func CheckSignature(jwks []byte, token string) error {
	keys, err := parseClientKeys(jwks)
	if err != nil {
		return err
	}
	header, _, err := assertionParts(token)
	if err != nil {
		return err
	}
	at := strings.LastIndexByte(token, '.')
	sig, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil {
		return err
	}
	alg, _ := header["alg"].(string)
	if !slices.ContainsFunc(keys, func(k clientKey) bool {
		return k.kid == header["kid"] && k.alg == alg && signatureVerifies(alg, k.key, []byte(token[:at]), sig)
	}) {
		return fmt.Errorf("no key %v of %d made the signature", header["kid"], len(keys))
	}
	return nil
}
