// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

// AuthMethod is a client authentication method, named as in the metadata
// member token_endpoint_auth_methods_supported (RFC 8414 section 2).
type AuthMethod string

// The client authentication methods.
const (
	AuthClientSecretBasic AuthMethod = "client_secret_basic"
	AuthClientSecretPost  AuthMethod = "client_secret_post"
	AuthNone              AuthMethod = "none"
)
