// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package redisstore_test

import "time"

const slack = 300 * time.Millisecond
