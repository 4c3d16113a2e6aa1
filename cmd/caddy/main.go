// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Command caddy is Caddy with its standard modules and the bff module.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddy-bff/caddy-bff"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	caddycmd.Main()
}
