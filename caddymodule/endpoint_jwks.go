// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"net/http"

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

// serveJWKS serves the client's JWK Set (RFC 7517 section 5). Like all else that is
// ours it is not to be kept: a new key has to be seen soon.
func (hd *handle) serveJWKS(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, "application/jwk-set+json", http.StatusOK, map[string]any{"keys": hd.bff.publicKeys()})
}
