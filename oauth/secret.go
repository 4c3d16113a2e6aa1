// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
)

// redacted is all that a Secret ever prints.
const redacted = "[REDACTED]"

// Secret is a token, code, verifier or client secret. However it is printed,
// formatted, logged or marshalled, it shows a constant; [Secret.Reveal] is the
// one way to its value.
type Secret string

// Reveal returns the value. Each use of it is a place worth reviewing.
func (s Secret) Reveal() string { return string(s) }

// String implements [fmt.Stringer] with a constant.
func (s Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer] with a constant.
func (s Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter] with a constant for every verb, those that
// would print bytes or numbers included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler] with a constant, so that
// neither JSON nor XML shows the value. (As the key of a map encoding/json would
// print it: do not use it as one.)
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements [slog.LogValuer] with a constant.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// NewState returns a fresh state parameter with 256 bits of entropy (RFC 6749
// section 10.12).
func NewState() Secret { return newRandom() }

// NewNonce returns a fresh nonce with 256 bits of entropy (OpenID Connect Core
// section 15.5.2).
func NewNonce() Secret { return newRandom() }

// NewCodeVerifier returns a fresh code verifier of 43 characters with 256 bits
// of entropy (RFC 7636 section 4.1).
func NewCodeVerifier() Secret { return newRandom() }

// newRandom returns 32 random bytes in base64url. crypto/rand.Read never fails.
func newRandom() Secret {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return Secret(base64.RawURLEncoding.EncodeToString(b[:]))
}
