// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// claims are the claims of a JWT.
type claims struct{ *object }

// parseClaims reads the payload of a JWT. Repeated members are refused at any
// depth: two readers of one token must not see two subjects.
func parseClaims(payload []byte) (claims, error) {
	o, err := parseObject(payload, true)
	if err != nil {
		return claims{}, fmt.Errorf("claims: %w", err)
	}
	return claims{o}, nil
}

// maxForeignValues bounds the claims of a token that is not verified yet.
const maxForeignValues = 1024

// parseForeignClaims is parseClaims for a payload that may still be anybody's.
func parseForeignClaims(payload []byte) (claims, error) {
	o, err := parseSmallObject(payload, true, maxForeignValues)
	if err != nil {
		return claims{}, fmt.Errorf("claims: %w", err)
	}
	return claims{o}, nil
}

// audience returns the aud claim, a string or an array of strings (RFC 7519
// section 4.1.3); nil when it is absent.
func (c claims) audience() ([]string, error) {
	switch v := c.members["aud"].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		list := c.texts("aud")
		if len(list) == len(v) {
			return list, nil
		}
	}
	return nil, errors.New("aud is neither a string nor an array of strings")
}

// hasAudience says whether one of the wanted audiences is there.
func (c claims) hasAudience(wanted []string) (bool, error) {
	aud, err := c.audience()
	return slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(wanted, a) }), err
}

// subject returns the sub claim: 1 to 255 printable ASCII characters (OpenID
// Connect Core section 2).
func (c claims) subject() (string, error) {
	sub, err := c.text("sub")
	if err == nil && (sub == "" || len(sub) > 255 || !visible(sub, true)) {
		err = errors.New("sub is missing or malformed")
	}
	return sub, err
}

// notYet refuses claims whose nbf or iat lies in the future.
func (c claims) notYet(now time.Time, leeway time.Duration) (notBefore, issuedAt time.Time, err error) {
	if notBefore, err = c.date("nbf"); err != nil {
		return
	}
	if issuedAt, err = c.date("iat"); err != nil {
		return
	}
	if notBefore.After(now.Add(leeway)) {
		err = errors.New("not valid yet")
	} else if issuedAt.After(now.Add(leeway)) {
		err = errors.New("issued in the future")
	}
	return
}
