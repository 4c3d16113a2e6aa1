// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the gateway as a real process, against authorization servers
// that somebody else wrote, one of them certified, and the demo in a real browser.
//
// The tests need components that Go does not bring: Node, the packages of
// package-lock.json (npm ci), Chromium, Redis, Glewlwyd. A test whose component is missing is
// skipped with a message that names it; with BFF_REQUIRE_COMPONENTS=1 in the
// environment it fails instead. What the tests leave to look at is in
// test-output, at the root of the repository.
//
// BFF_KILL_REPETITIONS=50 has each cell of the kill-point matrix repeated so
// often, BFF_FAILOVER_REPETITIONS=50 the failover of Redis under load. Both take
// longer than go test waits without -timeout.
package e2e
