// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/ed25519"
	"slices"
)

// smallOrderPoints are the encodings, sign bit aside, of the points of edwards25519
// whose order divides 8, those that are not reduced included. For such a key anybody
// makes signatures, most easily one of zeros (RFC 8725 section 3.4: inputs to
// elliptic curve operations are validated).
var smallOrderPoints = [...][ed25519.PublicKeySize]byte{
	{},           // y = 0, order 4
	{1},          // y = 1, order 1
	modulus(236), // y = p-1, order 2
	modulus(237), // y = p, which is 0
	modulus(238), // y = p+1, which is 1
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	}, // order 8
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	}, // order 8
}

// modulus is an encoding near p = 2^255-19, whose first byte is 237.
func modulus(first byte) (y [ed25519.PublicKeySize]byte) {
	for i := range y {
		y[i] = 0xff
	}
	y[0], y[31] = first, 0x7f
	return y
}

// smallOrder says whether a key of the right length is one of those points.
func smallOrder(key ed25519.PublicKey) bool {
	y := [ed25519.PublicKeySize]byte(key)
	y[31] &= 0x7f
	return slices.Contains(smallOrderPoints[:], y)
}
