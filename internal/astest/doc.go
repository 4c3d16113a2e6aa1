// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package astest is an authorization server for tests: OpenID Connect discovery,
// authorize with automatic login, token endpoint with rotation and reuse
// detection, JWKS, revocation, logout, and a resource server that trusts it.
//
// It does what a good server does, and on demand what a bad one does: [Options]
// holds the lasting settings (change them at any time with [Server.Configure]),
// [Server.Script] queues single answers for one endpoint (errors, delays, cut
// connections, slow bodies), [Server.SetDown] takes the whole server away.
// Everything that arrives is recorded ([Server.Requests]).
//
// The same server works in two ways, also at once:
//
//	as := astest.New(astest.Options{})
//	client := as.HTTPClient()         // in memory, no sockets: fit for testing/synctest
//	as.Start(t)                       // on a loopback listener; before anything else
//	as.StartTLS(t, authority)         // with https, where client certificates are asked for
//
// In a synctest bubble, time.Now and time.Sleep inside the server are the
// bubble's, so lifetimes and delays follow the fake clock.
//
// A whole login without a browser:
//
//	callback, err := as.Login(authorizationURL)  // the URL the browser is sent back to
//
// and without even that: [Server.Issue] gives tokens for a subject.
//
// The package uses the standard library alone and signs tokens itself, so that
// it can make wrong ones and shares no mistake with what it tests.
package astest
