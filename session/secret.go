// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import "github.com/caddy-bff/caddy-bff/oauth"

// Secret is [oauth.Secret], which prints a constant: what a [Store] signs in with
// is one as well, and a store knows nothing of OAuth.
type Secret = oauth.Secret
