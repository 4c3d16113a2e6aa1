// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"time"
)

// ValidateMode is how access tokens are validated.
type ValidateMode string

// The validation modes.
const (
	// ValidateAuto: a JWT that the issuer's keys verify is checked as one,
	// anything else is opaque.
	ValidateAuto ValidateMode = "auto"
	// ValidateJWT: a JWT access token as RFC 9068 describes it, or an error.
	ValidateJWT ValidateMode = "jwt"
	// ValidateExpiry: every access token is opaque and never looked into.
	ValidateExpiry ValidateMode = "expiry"
)

// Verdict is the outcome of [Client.CheckAccessToken], made to be kept beside
// the token it belongs to.
type Verdict struct {
	// JWT says that the token is a JWT of the issuer that passed every check;
	// false: the token is opaque, and the times below are zero.
	JWT bool
	// NotBefore is when the token begins to be valid; zero when not told.
	NotBefore time.Time
	// Expiry is when the token expires, without leeway.
	Expiry time.Time
	// KeySetGeneration is the generation of the key set that was asked.
	KeySetGeneration uint64
}

// CheckAccessToken validates an access token.
func (c *Client) CheckAccessToken(ctx context.Context, raw Secret, mode ValidateMode) (*Verdict, error) {
	return nil, ErrUnsupported
}

// VerdictCurrent says whether a verdict still holds at now.
func (c *Client) VerdictCurrent(v *Verdict, now time.Time) bool { return false }
