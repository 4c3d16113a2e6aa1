// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// The other file that knows the JOSE library: of it, signing uses the reading of
// one private key, the writing of one public key, and one signature.

// macAlgorithms are those of client_secret_jwt, where the key is the client
// secret, with the number of bytes that such a key has at least (RFC 7518 section
// 3.2). Nothing else is ever signed, and nothing is ever verified, with them.
var macAlgorithms = map[string]struct {
	name     jwa.SignatureAlgorithm
	keyBytes int
}{
	"HS256": {jwa.HS256, 32}, "HS384": {jwa.HS384, 48}, "HS512": {jwa.HS512, 64},
}

// privateJWKMembers are the members of a private JWK that make the key (RFC 7518
// section 6, RFC 8037 section 2).
var privateJWKMembers = []string{"kty", "crv", "n", "e", "d", "p", "q", "dp", "dq", "qi", "x", "y"}

// parsePrivateJWK reads the key of a private JWK. What it returns still has to be
// checked.
func parsePrivateJWK(o *object) (crypto.Signer, error) {
	minimal := map[string]string{}
	for _, name := range privateJWKMembers {
		v, err := o.text(name)
		if err != nil {
			return nil, err
		}
		if v != "" {
			minimal[name] = v
		}
	}
	data, err := json.Marshal(minimal)
	if err != nil {
		return nil, err
	}
	key, err := jwk.ParseKey(data)
	if err != nil {
		return nil, errKey // the library's text may quote the key
	}
	var raw any
	if err := key.Raw(&raw); err != nil {
		return nil, errKey
	}
	signer, ok := raw.(crypto.Signer)
	if !ok {
		return nil, errKey
	}
	return signer, nil
}

// publicJWK returns the members of a public key as a JWK, and its thumbprint (RFC
// 7638) in base64url.
func publicJWK(key crypto.PublicKey) (members map[string]any, thumbprint string, err error) {
	k, err := jwk.FromRaw(key)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errKey, err)
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errKey, err)
	}
	data, err := json.Marshal(k)
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, "", err
	}
	return members, base64.RawURLEncoding.EncodeToString(sum), nil
}

// signJWS makes a JWS in compact serialization (RFC 7515 section 7.1). alg is the
// algorithm whatever header says, and has to fit the key.
func signJWS(alg string, key crypto.Signer, header, claims map[string]any) (Secret, error) {
	name, ok := algorithms[alg]
	if !ok || !keyFits(alg, key.Public()) {
		return "", fmt.Errorf("%w: not for %s", errKey, alg)
	}
	return serialize(name, key, header, claims)
}

// macJWS is signJWS with one of macAlgorithms.
func macJWS(alg string, secret Secret, header, claims map[string]any) (Secret, error) {
	if err := checkMACKey(alg, secret); err != nil {
		return "", err
	}
	return serialize(macAlgorithms[alg].name, []byte(secret.Reveal()), header, claims)
}

// checkMACKey says whether a secret is long enough for an HMAC algorithm.
func checkMACKey(alg string, secret Secret) error {
	mac, ok := macAlgorithms[alg]
	if !ok {
		return fmt.Errorf("unknown algorithm %q", alg)
	}
	if n := len(secret.Reveal()); n < mac.keyBytes {
		return fmt.Errorf("client secret has %d bytes, %s needs at least %d", n, alg, mac.keyBytes)
	}
	return nil
}

func serialize(alg jwa.SignatureAlgorithm, key any, header, claims map[string]any) (Secret, error) {
	head, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return signInput(alg, key, base64.RawURLEncoding.EncodeToString(head)+"."+base64.RawURLEncoding.EncodeToString(payload))
}

// signInput makes a JWS of its signing input (RFC 7515 section 5.1).
func signInput(alg jwa.SignatureAlgorithm, key any, input string) (Secret, error) {
	signer, err := jws.NewSigner(alg)
	if err != nil {
		return "", err
	}
	signature, err := signer.Sign([]byte(input), key)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return Secret(input + "." + base64.RawURLEncoding.EncodeToString(signature)), nil
}
