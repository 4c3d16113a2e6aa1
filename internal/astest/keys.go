// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // SHA-384 and SHA-512 for crypto.Hash
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
)

// Key is a signing key.
type Key struct {
	ID        string // kid; "" leaves it out of headers and key set
	Algorithm string // RS256..PS512, ES256..ES512, EdDSA
	Private   crypto.Signer
}

// NewKey makes a key for an algorithm. RSA keys have 2048 bits.
func NewKey(algorithm, id string) *Key {
	k := &Key{ID: id, Algorithm: algorithm}
	var err error
	switch algorithm {
	case "ES256":
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		k.Private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		k.Private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, k.Private, err = ed25519.GenerateKey(rand.Reader)
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("unknown algorithm %q", algorithm)
	}
	if err != nil {
		panic(err)
	}
	return k
}

// JWK returns the public key as a member of a key set (RFC 7517).
func (k *Key) JWK() map[string]any {
	jwk := map[string]any{"use": "sig", "alg": k.Algorithm}
	if k.ID != "" {
		jwk["kid"] = k.ID
	}
	switch pub := k.Private.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"] = "RSA"
		jwk["n"] = b64(pub.N.Bytes())
		jwk["e"] = b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		jwk["kty"] = "EC"
		jwk["crv"] = pub.Curve.Params().Name
		jwk["x"] = b64(point[1 : 1+half])
		jwk["y"] = b64(point[1+half:])
	case ed25519.PublicKey:
		jwk["kty"] = "OKP"
		jwk["crv"] = "Ed25519"
		jwk["x"] = b64(pub)
	}
	return jwk
}

// Header returns the usual protected header for a typ; typ "-" leaves it out.
func (k *Key) Header(typ string) map[string]any {
	h := map[string]any{"alg": k.Algorithm}
	if k.ID != "" {
		h["kid"] = k.ID
	}
	if typ != "-" {
		h["typ"] = typ
	}
	return h
}

// Sign makes a JWT (JWS compact serialization). claims may be a value to marshal
// or a json.RawMessage, which is taken as it is. The signature is of the key's
// algorithm whatever the header claims.
func (k *Key) Sign(header map[string]any, claims any) string {
	return k.SignRaw(mustJSON(header), mustJSON(claims))
}

// SignRaw makes a JWS of raw header and payload bytes.
func (k *Key) SignRaw(header, payload []byte) string {
	input := b64(header) + "." + b64(payload)
	return input + "." + b64(k.signature([]byte(input)))
}

func (k *Key) signature(input []byte) []byte {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[k.Algorithm[max(0, len(k.Algorithm)-3):]]
	digest := input
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	var sig []byte
	var err error
	switch {
	case strings.HasPrefix(k.Algorithm, "RS"):
		sig, err = k.Private.Sign(rand.Reader, digest, hash)
	case strings.HasPrefix(k.Algorithm, "PS"):
		sig, err = k.Private.Sign(rand.Reader, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash})
	case strings.HasPrefix(k.Algorithm, "ES"):
		private := k.Private.(*ecdsa.PrivateKey)
		r, sv, signErr := ecdsa.Sign(rand.Reader, private, digest)
		err = signErr
		if err == nil {
			size := (private.Params().BitSize + 7) / 8
			sig = make([]byte, 2*size)
			r.FillBytes(sig[:size])
			sv.FillBytes(sig[size:])
		}
	default:
		sig, err = k.Private.Sign(rand.Reader, digest, crypto.Hash(0))
	}
	if err != nil {
		panic(err)
	}
	return sig
}

// SignHMAC makes a JWT with HMAC-SHA256 under secret: the attack that offers a
// public key as a shared secret.
func SignHMAC(secret []byte, header map[string]any, claims any) string {
	input := b64(mustJSON(header)) + "." + b64(mustJSON(claims))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(input))
	return input + "." + b64(mac.Sum(nil))
}

// SigningKey returns the key that signs at the moment.
func (s *Server) SigningKey() *Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[0]
}

// SetKeys publishes keys, the first of which signs. Keys that are no longer
// published stay known to the resource server.
func (s *Server) SetKeys(keys ...*Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = append(s.retired, s.keys...)
	s.keys = keys
}

// RotateKey makes a new signing key with the given kid and the algorithm of the
// old one. With overlap the old keys stay published.
func (s *Server) RotateKey(id string, overlap bool) *Key {
	old := s.SigningKey()
	k := NewKey(old.Algorithm, id)
	keys := []*Key{k}
	if overlap {
		s.mu.Lock()
		keys = append(keys, s.keys...)
		s.mu.Unlock()
	}
	s.SetKeys(keys...)
	return k
}

func (s *Server) jwks(*Request) *response {
	list := make([]any, 0, len(s.keys))
	for _, k := range s.keys {
		list = append(list, k.JWK())
	}
	doc := map[string]any{"keys": list}
	if s.opts.JWKSDoc != nil {
		s.opts.JWKSDoc(doc)
	}
	return jsonResponse(http.StatusOK, doc)
}

// verify checks the signature of a JWT made by this server and returns its claims.
func (s *Server) verify(token string) (map[string]any, bool) {
	at := strings.LastIndexByte(token, '.')
	parts := strings.Split(token, ".")
	if at < 0 || len(parts) != 3 {
		return nil, false
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, false
	}
	for _, keys := range [][]*Key{s.keys, s.retired} {
		for _, k := range keys {
			if k.verifies([]byte(token[:at]), sig) {
				var claims map[string]any
				return claims, json.Unmarshal(payload, &claims) == nil
			}
		}
	}
	return nil, false
}

func (k *Key) verifies(input, sig []byte) bool {
	return signatureVerifies(k.Algorithm, k.Private.Public(), input, sig)
}

func b64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
