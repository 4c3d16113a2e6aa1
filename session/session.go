// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session
