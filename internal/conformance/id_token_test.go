// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// What the authorization server does to ID tokens, before or after it signs them.

func idTokenClaims(change func(claims map[string]any)) func(*astestOptions) {
	return func(o *astestOptions) {
		o.IDTokenClaims = func(_ string, claims map[string]any) { change(claims) }
	}
}

// refreshedIDTokenClaims leaves the ID token of the login as it is.
func refreshedIDTokenClaims(change func(claims map[string]any)) func(*astestOptions) {
	return func(o *astestOptions) {
		o.IDTokenClaims = func(grantType string, claims map[string]any) {
			if grantType == "refresh_token" {
				change(claims)
			}
		}
	}
}

func idTokenHeader(change func(header map[string]any)) func(*astestOptions) {
	return func(o *astestOptions) { o.IDTokenHeader = change }
}

// idToken changes what has been signed.
func idToken(change func(raw string) string) func(*astestOptions) {
	return func(o *astestOptions) {
		o.TokenResponse = func(_ string, body map[string]any) {
			if raw, ok := body["id_token"].(string); ok {
				body["id_token"] = change(raw)
			}
		}
	}
}

// alsoPublished puts further keys before those of the authorization server.
func alsoPublished(keys ...*astest.Key) func(*astestOptions) {
	return func(o *astestOptions) {
		o.JWKSDoc = func(doc map[string]any) {
			var list []any
			for _, k := range keys {
				list = append(list, k.JWK())
			}
			own, _ := doc["keys"].([]any)
			doc["keys"] = append(list, own...)
		}
	}
}

// parts takes a JWT apart that this run has made.
func parts(raw string) (header, claims map[string]any) {
	header, claims = map[string]any{}, map[string]any{}
	for i, to := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[i])
		if err == nil {
			err = json.Unmarshal(data, to)
		}
		if err != nil {
			panic(err)
		}
	}
	return header, claims
}

// unsigned is the same JWT with alg none and no signature.
func unsigned(raw string) string {
	header, claims := parts(raw)
	header["alg"] = "none"
	signed := anyKey.Sign(header, claims)
	return signed[:strings.LastIndexByte(signed, '.')+1]
}

// tampered is the same JWT with another signature of the same length.
func tampered(raw string) string {
	at := strings.LastIndexByte(raw, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(raw[at:])
	if err != nil {
		panic(err)
	}
	sig[0] ^= 0x5a
	return raw[:at] + base64.RawURLEncoding.EncodeToString(sig)
}

// anyKey signs what nobody is to verify.
var anyKey = astest.NewKey("ES256", "")
