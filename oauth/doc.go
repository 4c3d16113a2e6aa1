// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package oauth is the client side of OAuth 2.0 and the relying party side of
// OpenID Connect: authorization server metadata, authorization request and
// response, client authentication, token requests, revocation, logout, and the
// validation of ID tokens and access tokens.
//
// It talks to exactly one authorization server, the one whose issuer
// identifier is configured, and takes its endpoints and keys from that
// server's metadata alone. It knows no cookies, no sessions and no HTTP
// handlers. A [Client] is safe for concurrent use.
//
// Nothing here repeats a request that carries a code or a refresh token:
// whoever calls decides, with the [Class] of the error in hand.
package oauth
