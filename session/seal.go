// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
)

// sealFormat is the first byte of everything sealed.
const sealFormat = 1

const (
	nonceSize = 12
	sealHead  = 1 + len(keyID{}) + nonceSize
)

// errSealed: what was to be opened is not what was sealed here, or not with
// this cookie, or belongs elsewhere.
var errSealed = errors.New("sealed value does not open")

// errSealedKey: the key is not in the ring.
var errSealedKey = errors.New("sealed with an unknown key")

// A purpose says what is sealed and binds it to its place. The key is derived
// for this purpose and salt alone, so that no key sees many nonces.
type purpose struct {
	kind   string // "facts", "tokens", "login": no two kinds open each other
	salt   []byte // the store key, or the digest of the state
	secret []byte // the cookie's secret, for what is sealed under it too
	bound  []byte // associated data: site, store key, generation
}

// seal encrypts and authenticates plaintext (AES-256-GCM) under the first key.
func (r *ring) seal(p purpose, plaintext []byte) []byte {
	k := r.sealing()
	out := make([]byte, sealHead, sealHead+len(plaintext)+16)
	out[0] = sealFormat
	copy(out[1:], k.id[:])
	nonce := out[sealHead-nonceSize : sealHead]
	rand.Read(nonce) //nolint:errcheck // never fails, see crypto/rand
	return k.aead(p).Seal(out, nonce, plaintext, p.associated(out[:1+len(keyID{})]))
}

// open gives the plaintext of what seal made for the same purpose.
func (r *ring) open(p purpose, sealed []byte) ([]byte, error) {
	id, ok := sealedBy(sealed)
	if !ok {
		return nil, errSealed
	}
	k := r.find(id)
	if k == nil {
		return nil, errSealedKey
	}
	plaintext, err := k.aead(p).Open(nil, sealed[sealHead-nonceSize:sealHead], sealed[sealHead:], p.associated(sealed[:1+len(keyID{})]))
	if err != nil {
		return nil, errSealed
	}
	return plaintext, nil
}

// sealedBy gives the id of the key that sealed a value.
func sealedBy(sealed []byte) (id keyID, ok bool) {
	if len(sealed) < sealHead+16 || sealed[0] != sealFormat {
		return id, false
	}
	return keyID(sealed[1 : 1+len(id)]), true
}

func (p purpose) associated(head []byte) []byte {
	return bind(string(head), p.kind, string(p.bound))
}

func (k *ringKey) aead(p purpose) cipher.AEAD {
	key := derive(slices.Concat(k.secret, p.secret), p.salt, "bff seal "+p.kind, 32)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("session: " + err.Error()) // 32 bytes is a size of AES
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("session: " + err.Error()) // AES has 128-bit blocks
	}
	return aead
}
