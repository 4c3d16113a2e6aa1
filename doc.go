// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package caddybff is a backend-for-frontend gateway for Caddy.
package caddybff
