// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package session knows who the browser is. It makes the cookie, keeps the
// record that the cookie stands for, seals the tokens in it, and refreshes them.
//
// # Cookie and record
//
// The cookie holds a random identifier and a random secret, under a MAC. The
// store key is the digest of the identifier, so a dump of the store gives nobody
// a cookie. A [Record] has a plain part (for compare-and-swap, expiry and the
// refresh protocol), facts sealed under the [KeyRing], and tokens sealed under the
// key ring and the cookie's secret together: whoever has the store and the keys,
// but not the cookie, has no token.
//
// # Login
//
// A login under way is sealed into a cookie of the browser that began it; the
// server keeps nothing. Before the code is sent to the authorization server its
// state is claimed in the store, so that one authorization response makes one
// session, however often and wherever it is delivered. Every login makes a new
// identifier.
//
// # Refresh
//
// A refresh token may be single use, and presenting it twice may revoke
// everything (RFC 9700 section 4.14). So there is one flight a session, which
// belongs to the [Backend] and neither to a request nor to a configuration:
//
//  1. The intent is written into the record by compare-and-swap. It is the
//     permission to call, for all instances, and the proof that the store takes
//     writes.
//  2. The authorization server is called, once.
//  3. The new tokens are in the store before anybody sees them. Only a newer
//     generation or the end of the session stops this commit.
//
// It begins early, in the background, while requests go on with the current
// token; nobody waits unless that has run out.
//
// Beside the default access token a record has those that are for one upstream
// each, see [Purpose]. All that come of the refresh token share the flight, one
// after the other. A token exchange consumes no refresh token and has flights of
// its own. A token is found by its purpose alone.
//
// # Ends
//
// A session ends at its idle timeout, at its lifetime, with its tokens, or by a
// logout. What is left is a tombstone, so that no late write brings it back. An
// outage of the store or of the authorization server ends nothing.
package session
