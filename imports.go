// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddybff

import _ "github.com/caddy-bff/caddy-bff/caddymodule" // registers the Caddy modules
