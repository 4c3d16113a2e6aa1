// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package conformance holds the gateway to the OpenID Foundation's test plans for
// clients. It is made of tests alone.
//
// The plans and their modules have their official names. What a module makes the
// authorization server do, and what it wants to see of the client, is rebuilt from
// its published description: these are scenarios of our own, and passing them is no
// certification.
//
// # A scenario
//
// A Caddy with the gateway in it runs from a Caddyfile; the authorization server and
// the resource server behind the gateway are those of package astest; a browser with
// a cookie jar goes between them, over TLS everywhere. A module says what the
// authorization server does wrong, and looks at what can be seen from outside: what
// the browser was answered, what GET session says, what reached the authorization
// server, what reached the resource server, and the reason that the log gives to the
// operator. What the official suite checks silently in every module is checked after
// every scenario here.
//
// # The document
//
// docs/conformance.md is written from the run. The test compares it, so that it
// cannot say anything that was not seen:
//
//	go test ./internal/conformance           # runs every module and compares
//	go test ./internal/conformance -update   # writes the document anew
//
// A module that does not apply to this gateway is listed with the reason, is skipped,
// and counts for nothing.
//
// There is one Caddy in a process, so modules run one after the other.
package conformance
