// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package caddymodule is the Caddy side of the gateway: the app, the handlers,
// the reverse proxy transport and the Caddyfile. It is the only package that
// knows Caddy.
package caddymodule
