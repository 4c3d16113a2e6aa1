// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// SigningKeyConfig describes a private key of the client.
type SigningKeyConfig struct {
	// File is the path of the key: PEM (PKCS#8, SEC 1 or PKCS#1, not encrypted), a
	// JWK, or a JWK Set; RSA of 2048 bits or more, EC on P-256, P-384 or P-521, or
	// Ed25519. Of several keys the first signs and all are published. It is read
	// again when it changes. Required.
	File string
	// KeyID is the key that signs, where a JWK of the file has this kid; else the
	// name of the file's first key, which must have no other. Default: the first
	// key with its own kid, or with its thumbprint (RFC 7638).
	KeyID string
	// Alg is the signature algorithm: RS256 to RS512 or PS256 to PS512 with RSA,
	// ES256, ES384 or ES512 by the curve, EdDSA. Default: the alg of the JWK, else
	// RS256, or what the kind of key says.
	Alg string
	// Logger is told when the file changes. Default: nothing is logged.
	Logger *slog.Logger
}

// SigningKey is a private key of the client, kept in a file that may change at any
// time. It signs what the client says to its authorization server. A new key signs
// when its public key has been among [SigningKey.PublicKeys] for two minutes, or
// when the old one is refused. Safe for concurrent use.
type SigningKey struct {
	cfg      SigningKeyConfig
	file     watched[*signer]
	rollover rollover[*signer]
}

// signer is what a SigningKey signs with, made of one state of the file.
type signer struct {
	key       crypto.Signer
	alg, kid  string
	header    map[string]any // alg and kid, and where there is a certificate its thumbprint
	published []publishedKey
}

// NewSigningKey reads the key. An error names the file and nothing that is in it.
func NewSigningKey(cfg SigningKeyConfig) (*SigningKey, error) {
	if err := CheckKeyID(cfg.KeyID); err != nil {
		return nil, fmt.Errorf("oauth: %w", err)
	}
	k := &SigningKey{cfg: cfg}
	k.file = watched[*signer]{what: "the signing key of the client", paths: []string{cfg.File}, parse: k.parse, changed: k.changed, log: cfg.Logger}
	if err := k.file.start(); err != nil {
		return nil, fmt.Errorf("oauth: signing key: %w", err)
	}
	k.rollover.start(k.file.current, k.file.current.published)
	return k, nil
}

// CheckKeyID says what is wrong with a key ID, if anything is. The empty one is
// right.
func CheckKeyID(id string) error {
	if len(id) > maxKeyID || !visible(id, true) {
		return errors.New("key ID is too long or has characters other than printable ASCII")
	}
	return nil
}

// SigningAlgorithms lists what a private key can sign with, in order.
func SigningAlgorithms() []string { return slices.Sorted(maps.Keys(algorithms)) }

func (k *SigningKey) parse(contents [][]byte) (*signer, error) {
	list, err := parsePrivateKeys(contents[0])
	if err != nil {
		return nil, err
	}
	at, err := k.choose(list)
	if err != nil {
		return nil, err
	}
	s := &signer{key: list[at].signer}
	if s.alg, err = list[at].algorithm(k.cfg.Alg); err != nil {
		return nil, err
	}
	for i := range list {
		p, err := list[i].publish(k.cfg.Alg)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.published, func(other publishedKey) bool { return other.kid == p.kid }) {
			return nil, fmt.Errorf("two keys have the key ID %q", p.kid)
		}
		s.published = append(s.published, p)
	}
	s.kid = s.published[at].kid
	s.header = map[string]any{"alg": s.alg, "kid": s.kid}
	if sum := list[at].certificate; sum != "" {
		s.header["x5t#S256"] = sum
	}
	return s, nil
}

// choose returns which key signs, and gives it the configured key ID.
func (k *SigningKey) choose(list []privateKey) (int, error) {
	if k.cfg.KeyID == "" {
		return 0, nil
	}
	at := slices.IndexFunc(list, func(p privateKey) bool { return p.kid == k.cfg.KeyID })
	if at < 0 && list[0].kid == "" {
		at = 0
	}
	if at < 0 {
		return 0, fmt.Errorf("no key has the key ID %q", k.cfg.KeyID)
	}
	list[at].kid = k.cfg.KeyID
	return at, nil
}

// publish makes the public JWK of a key. Its alg is that which the key would sign
// with.
func (k *privateKey) publish(asked string) (publishedKey, error) {
	alg, err := k.algorithm(asked)
	if err != nil { // asked for another key of the file
		if alg, err = k.algorithm(""); err != nil {
			return publishedKey{}, err
		}
	}
	members, thumbprint, err := publicJWK(k.signer.Public())
	if err != nil {
		return publishedKey{}, err
	}
	kid := k.kid
	if kid == "" {
		kid = thumbprint
	}
	members["kid"], members["alg"], members["use"] = kid, alg, "sig"
	data, err := json.Marshal(members)
	return publishedKey{kid: kid, jwk: data}, err
}

// changed notes a new state of the file.
func (k *SigningKey) changed(s *signer) {
	from := k.rollover.change(s, s.kid, s.published, time.Now())
	k.file.log.Info("the signing key of the client has changed", "file", k.cfg.File, "kid", s.kid, "alg", s.alg, "used_from", from)
}

// signer returns what signs now.
func (k *SigningKey) signer() *signer {
	k.file.value()
	return k.rollover.current()
}

// sign makes a JWT of the given type: a client assertion, a request object.
func (k *SigningKey) sign(typ string, claims map[string]any) (Secret, error) {
	s := k.signer()
	header := maps.Clone(s.header)
	if typ != "" {
		header["typ"] = typ
	}
	return signJWS(s.alg, s.key, header, claims)
}

// algorithm returns what the key signs with at the moment.
func (k *SigningKey) algorithm() string { return k.signer().alg }

// PublicKeys returns the public keys as JWKs (RFC 7517 section 4), for a JWK Set
// that the authorization server fetches: those of the file, and for an hour those
// that were in it before. None has a private member.
func (k *SigningKey) PublicKeys() []json.RawMessage {
	k.file.value()
	return k.rollover.published.jwks(time.Now())
}
