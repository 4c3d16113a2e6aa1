// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/ed25519"
	"encoding/base64"
	"testing"
)

// JW-12: for each of these keys there is a signature of everything, or of one message
// in eight, that needs no private key; so they are no keys.
func TestKeysOfSmallOrderAreNoKeys(t *testing.T) {
	t.Parallel()
	for _, y := range smallOrderPoints {
		for _, sign := range []byte{0, 0x80} {
			key := y
			key[31] |= sign
			if !forgeable(key[:]) {
				t.Errorf("%x does no harm", key)
			}
			jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(key[:])}
			if pub, err := parsePublicKey(&object{members: jwk}); err == nil {
				t.Errorf("%x is taken as a key: %v", key, pub)
			}
		}
	}
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil || smallOrder(pub) || forgeable(pub) {
		t.Errorf("an honest key is refused: %x %v", pub, err)
	}
}

// forgeable looks for a signature with S = 0, which nobody's private key is in.
func forgeable(key ed25519.PublicKey) bool {
	for i := range 64 {
		for _, r := range smallOrderPoints {
			for _, sign := range []byte{0, 0x80} {
				signature := make([]byte, ed25519.SignatureSize)
				copy(signature, r[:])
				signature[31] |= sign
				if ed25519.Verify(key, []byte{byte(i)}, signature) {
					return true
				}
			}
		}
	}
	return false
}
