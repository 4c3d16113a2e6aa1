// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"math"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// This file and jwx_signing.go are the only ones that know the JOSE library. Of it
// we use here the reading of one public key and the check of one signature by one
// algorithm; which key and which algorithm are decided here.

// algorithms lists the signature algorithms that are accepted anywhere, and those
// that we sign with. Neither "none" nor the HMAC ones are among them, and names
// are compared exactly (RFC 8725 section 3.1).
var algorithms = map[string]jwa.SignatureAlgorithm{
	"RS256": jwa.RS256, "RS384": jwa.RS384, "RS512": jwa.RS512,
	"PS256": jwa.PS256, "PS384": jwa.PS384, "PS512": jwa.PS512,
	"ES256": jwa.ES256, "ES384": jwa.ES384, "ES512": jwa.ES512,
	"EdDSA": jwa.EdDSA,
}

const (
	minRSABits = 2048
	maxRSABits = 8192 // a larger one only costs time, ours

	maxExponentText = 8 // characters of base64url: six bytes
)

var errKey = errors.New("unusable key")

// parsePublicKey reads the public key of a JWK (RFC 7518 section 6). Only its
// key parameters are looked at: nothing in it is ever followed (x5u) or believed
// instead (x5c). Private and symmetric keys are refused: a key that everybody
// has signs nothing.
func parsePublicKey(o *object) (crypto.PublicKey, error) {
	minimal := map[string]string{}
	for _, name := range []string{"kty", "crv", "n", "e", "x", "y"} {
		v, err := o.text(name)
		if err != nil {
			return nil, err
		}
		if v != "" {
			minimal[name] = v
		}
	}
	if o.has("d") || o.has("k") {
		return nil, errKey
	}
	data, err := json.Marshal(minimal)
	if err != nil {
		return nil, err
	}
	key, err := jwk.ParseKey(data)
	if err != nil {
		return nil, errKey
	}
	var raw any
	if err := key.Raw(&raw); err != nil {
		return nil, errKey
	}
	switch pub := raw.(type) {
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); bits < minRSABits || bits > maxRSABits || pub.N.Bit(0) == 0 {
			return nil, errKey
		}
		// The library keeps the low bits of an exponent that is too large for it.
		if len(minimal["e"]) > maxExponentText || pub.E < 3 || pub.E > math.MaxInt32 || pub.E%2 == 0 {
			return nil, errKey
		}
		return pub, nil
	case *ecdsa.PublicKey:
		if _, err := pub.ECDH(); err != nil { // not on its curve
			return nil, errKey
		}
		return pub, nil
	case ed25519.PublicKey:
		if len(pub) != ed25519.PublicKeySize || smallOrder(pub) {
			return nil, errKey
		}
		return pub, nil
	}
	return nil, errKey
}

// keyFits says whether a key is of the kind that an algorithm takes (RFC 7518
// section 3.1, RFC 8037 section 3.1).
func keyFits(alg string, key crypto.PublicKey) bool {
	switch pub := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		bits := map[string]int{"ES256": 256, "ES384": 384, "ES512": 521}[alg]
		return bits != 0 && pub.Curve.Params().BitSize == bits
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// verifySignature is the signature step of every token: does this signature of
// this input verify with this algorithm and this key?
func verifySignature(alg string, input, signature []byte, key crypto.PublicKey) bool {
	name, ok := algorithms[alg]
	if !ok || !keyFits(alg, key) {
		return false
	}
	verifier, err := jws.NewVerifier(name)
	if err != nil {
		return false
	}
	return verifier.Verify(input, signature, key) == nil
}
