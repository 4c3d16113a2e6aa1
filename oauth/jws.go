// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of a token. An ID token with many groups has some 10 kB.
const (
	maxToken        = 64 << 10
	maxHeader       = 8 << 10
	maxHeaderValues = 256
	maxKeyID        = 1 << 10
)

var errMalformed = errors.New("not a JWT in compact serialization")

// signed is a JWS in compact serialization (RFC 7515 section 7.1), taken apart
// but not verified.
type signed struct {
	alg, kid, typ string
	input         []byte // what is signed
	payload       []byte
	signature     []byte
}

// parseJWS takes a JWS apart. Only the compact serialization is known, only
// signatures of the accepted algorithms, and no header parameter that changes
// what a signature means (crit, b64) or brings its own key (jwk). Header
// parameters that point elsewhere (jku, x5u) or carry certificates (x5c) are
// ignored: keys come from the issuer's key set alone.
func parseJWS(raw string) (*signed, error) {
	if len(raw) == 0 || len(raw) > maxToken || strings.Count(raw, ".") != 2 {
		return nil, errMalformed
	}
	header, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	if len(header) > maxHeader {
		return nil, errMalformed
	}
	s := &signed{input: []byte(raw[:len(header)+1+len(payload)])}
	var head []byte
	for _, part := range []struct {
		text string
		to   *[]byte
	}{{header, &head}, {payload, &s.payload}, {signature, &s.signature}} {
		data, err := decodeBase64URL(part.text)
		if err != nil || len(data) == 0 {
			return nil, errMalformed
		}
		*part.to = data
	}
	o, err := parseSmallObject(head, true, maxHeaderValues)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for _, name := range []string{"crit", "b64", "jwk", "enc", "zip"} {
		if _, there := o.members[name]; there {
			return nil, fmt.Errorf("header parameter %s is not accepted", name)
		}
	}
	for _, p := range []struct {
		name string
		to   *string
	}{{"alg", &s.alg}, {"kid", &s.kid}, {"typ", &s.typ}} {
		if *p.to, err = o.text(p.name); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
	}
	if s.alg == "Ed25519" { // RFC 9864: the fully-specified name of the same algorithm
		s.alg = "EdDSA"
	}
	if _, ok := algorithms[s.alg]; !ok {
		return nil, errors.New("signature algorithm is not accepted")
	}
	if len(s.kid) > maxKeyID {
		return nil, errors.New("key ID is too long")
	}
	return s, nil
}

// decodeBase64URL decodes base64url without padding. It refuses what the
// standard library skips (line breaks) and non-zero trailing bits, so that a
// token has one spelling.
func decodeBase64URL(s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return nil, errMalformed
		}
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// isType compares the typ header parameter with a media type, without case and
// with or without "application/" (RFC 7515 section 4.1.9).
func (s *signed) isType(name string) bool {
	typ := strings.ToLower(s.typ)
	return strings.TrimPrefix(typ, "application/") == name
}

// checkAlg refuses an algorithm that is not among those of the server; none listed:
// any that is accepted at all.
func (s *signed) checkAlg(listed []string) error {
	if len(listed) == 0 || slices.Contains(listed, s.alg) || s.alg == "EdDSA" && slices.Contains(listed, "Ed25519") {
		return nil
	}
	return errors.New("signature algorithm is none of the authorization server's")
}

// claimedIssuer returns the iss of a payload that nobody has verified; "" when it has
// none.
func (s *signed) claimedIssuer() string {
	cl, err := parseClaims(s.payload)
	if err != nil {
		return ""
	}
	iss, err := cl.text("iss")
	if err != nil {
		return ""
	}
	return iss
}
