// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package caddybff is a backend-for-frontend gateway for Caddy (RFC 10017): it
// signs browser users in at an OAuth 2.0 or OpenID Connect authorization server,
// keeps their tokens in encrypted server-side sessions, and relays API calls to
// resource servers with a live access token. The browser has one cookie and
// never a token.
//
// Importing this package registers the Caddy modules; it has nothing else to
// offer to Go programs. The packages below it:
//
//   - caddymodule: the Caddy app, handlers, transport and Caddyfile
//   - session: cookie, record, sealing, stores, login and refresh
//   - oauth: the client of the authorization server
//   - upstream: what is sent to a resource server, and what comes back
package caddybff
