// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package redisstore_test

import "time"

// The race detector makes everything several times slower.
const slack = 2 * time.Second
