// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// signingKey signs ID tokens and access tokens. A new one is made at each start.
type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

func newSigningKey() (*signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	return &signingKey{id: rand.Text(), key: key}, nil
}

func (k *signingKey) ID() string                                  { return k.id }
func (k *signingKey) Key() any                                    { return k.key }
func (k *signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }

// verificationKey is the public part, for the JWK Set.
type verificationKey struct{ *signingKey }

func (k verificationKey) Key() any                           { return k.key.Public() }
func (k verificationKey) Use() string                        { return "sig" }
func (k verificationKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }

var (
	_ op.SigningKey = (*signingKey)(nil)
	_ op.Key        = verificationKey{}
)
