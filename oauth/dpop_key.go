// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const (
	// dpopAlg is the algorithm of our proofs: the one that every server with DPoP
	// knows, and the quickest to sign with.
	dpopAlg = "ES256"
	// dpopProofType is the typ of a proof (RFC 9449 section 4.2).
	dpopProofType = "dpop+jwt"
)

// DPoPKey is the private key that the tokens of one login are bound to (RFC 9449):
// ECDSA on P-256. It is immutable and safe for concurrent use. However it is
// printed, formatted, logged or marshalled, it shows a constant.
type DPoPKey struct {
	private    *ecdsa.PrivateKey
	header     string // of its proofs, with the public key; in base64url
	thumbprint string
}

// NewDPoPKey makes a key for one login.
func NewDPoPKey() (*DPoPKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("oauth: making a DPoP key: %w", err)
	}
	return newDPoPKey(private)
}

// ParseDPoPKey makes the key again that [DPoPKey.Secret] told.
func ParseDPoPKey(secret Secret) (*DPoPKey, error) {
	scalar, err := base64.RawURLEncoding.Strict().DecodeString(secret.Reveal())
	if err != nil {
		return nil, errDPoPKey // the text of err may quote the key
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return nil, errDPoPKey
	}
	return newDPoPKey(private)
}

var errDPoPKey = errors.New("oauth: malformed DPoP key")

func newDPoPKey(private *ecdsa.PrivateKey) (*DPoPKey, error) {
	jwk, thumbprint, err := publicJWK(private.Public())
	if err != nil {
		return nil, fmt.Errorf("oauth: DPoP key: %w", err)
	}
	header, err := json.Marshal(map[string]any{"typ": dpopProofType, "alg": dpopAlg, "jwk": jwk})
	if err != nil {
		return nil, fmt.Errorf("oauth: DPoP key: %w", err)
	}
	return &DPoPKey{private: private, header: base64.RawURLEncoding.EncodeToString(header), thumbprint: thumbprint}, nil
}

// Secret returns the private key, 43 characters long, to be kept sealed.
func (k *DPoPKey) Secret() (Secret, error) {
	scalar, err := k.private.Bytes()
	if err != nil {
		return "", fmt.Errorf("oauth: DPoP key: %w", err)
	}
	return Secret(base64.RawURLEncoding.EncodeToString(scalar)), nil
}

// Thumbprint returns the JWK thumbprint of the public key (RFC 7638), which is what
// tokens name it by: jkt.
func (k *DPoPKey) Thumbprint() string { return k.thumbprint }

// String implements [fmt.Stringer] with a constant.
func (k *DPoPKey) String() string { return redacted }

// GoString implements [fmt.GoStringer] with a constant.
func (k *DPoPKey) GoString() string { return redacted }

// Format implements [fmt.Formatter] with a constant, whatever the verb.
func (k *DPoPKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler] with a constant, which covers
// JSON too.
func (k *DPoPKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements [slog.LogValuer] with a constant.
func (k *DPoPKey) LogValue() slog.Value { return slog.StringValue(redacted) }
