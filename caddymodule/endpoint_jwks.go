// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// publicKeys gives the keys by which the authorization server knows the client, for
// its jwks_uri: those of the signing key, and a self-signed certificate (RFC 8705
// section 2.2.2).
func (h *Handler) publicKeys() []json.RawMessage {
	var keys []json.RawMessage
	if h.ClientAuth.method() == oauth.AuthSelfSignedTLS {
		keys = h.credentials.certificate.PublicKeys()
	}
	if h.credentials.signingKey != nil {
		keys = append(keys, h.credentials.signingKey.PublicKeys()...)
	}
	return keys
}

// hasPublicKeys reports whether the endpoint exists.
func (h *Handler) hasPublicKeys() bool {
	return h.credentials.signingKey != nil || h.ClientAuth.method() == oauth.AuthSelfSignedTLS
}

// serveJWKS serves the client's JWK Set (RFC 7517 section 5). It may be kept for a
// minute: a new key has to be seen soon.
func (hd *handle) serveJWKS(w http.ResponseWriter, r *http.Request) error {
	body, err := json.Marshal(map[string]any{"keys": hd.bff.publicKeys()})
	if err != nil {
		return hd.fail(w, r, err)
	}
	sum := sha256.Sum256(body)
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=60")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	return nil
}
