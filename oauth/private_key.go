// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// maxPrivateKeys bounds the keys of one file: the one in use, the one before, the
// next one, and some patience.
const maxPrivateKeys = 10

// privateKey is one private key of a file.
type privateKey struct {
	signer crypto.Signer
	kid    string // "" when the file does not say
	alg    string // likewise
	// certificate is the SHA-256 thumbprint, in base64url, of the certificate of
	// this key that stands beside it in a PEM file; "" for none.
	certificate string
}

// parsePrivateKeys reads the private keys of a file: PEM (PKCS#8, SEC 1, PKCS#1),
// a JWK, or a JWK Set. Every key has to be usable. No error quotes the file.
func parsePrivateKeys(data []byte) ([]privateKey, error) {
	var list []privateKey
	var err error
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		list, err = parseJWKFile(trimmed)
	} else {
		list, err = parsePEMFile(data)
	}
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, errors.New("no private key in it")
	case len(list) > maxPrivateKeys:
		return nil, fmt.Errorf("more than %d private keys", maxPrivateKeys)
	}
	for i := range list {
		if err := list[i].check(); err != nil {
			if len(list) > 1 {
				return nil, fmt.Errorf("key number %d: %w", i+1, err)
			}
			return nil, err
		}
	}
	return list, nil
}

func parsePEMFile(data []byte) ([]privateKey, error) {
	var list []privateKey
	var certificates []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			// What is left of a file that is just being written looks like this.
			if bytes.Contains(data, []byte("-----BEGIN")) {
				return nil, errors.New("a PEM block is malformed or cut off")
			}
			break
		}
		data = rest
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, errEncrypted
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("certificate: %w", err)
			}
			certificates = append(certificates, c)
			continue
		default: // EC PARAMETERS, PUBLIC KEY
			continue
		}
		if block.Headers["DEK-Info"] != "" {
			return nil, errEncrypted
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, fmt.Errorf("%w: PEM block %q", errKey, errorText(block.Type, 40))
		}
		list = append(list, privateKey{signer: signer})
	}
	for i := range list {
		for _, c := range certificates {
			if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(list[i].signer.Public()) {
				sum := sha256.Sum256(c.Raw)
				list[i].certificate = base64.RawURLEncoding.EncodeToString(sum[:])
			}
		}
	}
	return list, nil
}

var errEncrypted = errors.New("the private key is encrypted, and nobody is there to type a passphrase")

func parseJWKFile(data []byte) ([]privateKey, error) {
	o, err := parseObject(data, true)
	if err != nil {
		return nil, err
	}
	members := []any{o.members}
	if o.has("keys") {
		var ok bool
		if members, ok = o.members["keys"].([]any); !ok {
			return nil, errors.New("keys is not an array")
		}
	}
	var list []privateKey
	for i, m := range members {
		fields, ok := m.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("key number %d is not an object", i+1)
		}
		key, wanted, err := parsePrivateKeyOf(&object{members: fields})
		if err != nil {
			return nil, fmt.Errorf("key number %d: %w", i+1, err)
		}
		if wanted {
			list = append(list, key)
		}
	}
	return list, nil
}

// parsePrivateKeyOf reads a JWK; one that is for encryption is not wanted.
func parsePrivateKeyOf(o *object) (key privateKey, wanted bool, err error) {
	var use, kty string
	for _, p := range []struct {
		name string
		to   *string
	}{{"kid", &key.kid}, {"alg", &key.alg}, {"use", &use}, {"kty", &kty}} {
		if *p.to, err = o.text(p.name); err != nil {
			return key, false, err
		}
	}
	switch {
	case use != "" && use != "sig", o.has("key_ops") && !slices.Contains(o.texts("key_ops"), "sign"):
		return key, false, nil
	case kty == "oct":
		return key, false, errors.New("it is a symmetric key, which is a secret and no private key")
	case !o.has("d"):
		return key, false, errors.New("it is a public key")
	case o.has("oth"):
		return key, false, errors.New("it has more than two primes")
	}
	if key.alg == "Ed25519" { // RFC 9864
		key.alg = "EdDSA"
	}
	key.signer, err = parsePrivateJWK(o)
	return key, true, err
}

// check refuses keys that are weak, of an unknown kind, or do not sign what their
// public part verifies.
func (k *privateKey) check() error {
	switch key := k.signer.(type) {
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("%w: RSA of %d bits, should have %d to %d", errKey, bits, minRSABits, maxRSABits)
		}
		if err := key.Validate(); err != nil {
			return fmt.Errorf("%w: %w", errKey, err)
		}
	case *ecdsa.PrivateKey, ed25519.PrivateKey:
	default:
		return fmt.Errorf("%w: unknown kind", errKey)
	}
	if err := CheckKeyID(k.kid); err != nil {
		return err
	}
	alg, err := k.algorithm("")
	if err != nil {
		return err
	}
	var s *signed
	sample, err := signJWS(alg, k.signer, map[string]any{"alg": alg}, map[string]any{"check": true})
	if err == nil {
		s, err = parseJWS(sample.Reveal())
	}
	if err != nil || !verifySignature(alg, s.input, s.signature, k.signer.Public()) {
		return fmt.Errorf("%w: its private and public part do not belong together", errKey)
	}
	return nil
}

// algorithm returns the algorithm that the key signs with: the one asked for, else
// the one that its JWK names, else the usual one for its kind. RS256 is what every
// server knows (OpenID Connect Core section 15.1).
func (k *privateKey) algorithm(asked string) (string, error) {
	pub := k.signer.Public()
	alg := asked
	if alg == "" {
		alg = k.alg
	}
	if alg == "" {
		for _, usual := range []string{"RS256", "ES256", "ES384", "ES512", "EdDSA"} {
			if keyFits(usual, pub) {
				return usual, nil
			}
		}
		return "", fmt.Errorf("%w: no algorithm for this kind", errKey)
	}
	if _, ok := algorithms[alg]; !ok {
		return "", fmt.Errorf("alg %q is not one that a private key signs with", errorText(alg, 40))
	}
	if !keyFits(alg, pub) {
		return "", fmt.Errorf("the key is not of the kind that alg %s takes", alg)
	}
	return alg, nil
}
