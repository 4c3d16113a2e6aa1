// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package oauth

const underRace = false
