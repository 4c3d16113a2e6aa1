// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package upstream is the resource server side of the gateway: the last moment
// before a request goes onto the wire and the first moment after the answer
// came back.
//
// [Transport] puts the access token of a session on a request (RFC 6750
// section 2.1), sees whether the resource server refused it (RFC 6750 section
// 3.1), has it refreshed and sends the request once more. Nothing else in the
// gateway ever holds an Authorization field: no log, placeholder or handler can
// show it, and no trick with hop-by-hop fields can take it away.
//
// The package knows net/http and nothing else of ours. Whoever wants a token on
// a request puts a [Grant] into its context.
package upstream
