// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package simulation proves the refresh protocol of package session: never
// twice, never lost, over any number of instances. It is made of tests alone.
//
// # A run
//
// A run has several gateway processes (each its own [session.Backend], manager
// and client, which share nothing in memory), browsers that use them, a model of
// the store and a model of the authorization server. It takes some ten minutes
// in the virtual time of testing/synctest, and some ten milliseconds of ours.
// Its plan and every decision in it come from a seed: the policy of the
// authorization server (no rotation, the same token, a grace, the same child,
// spent, strict with revocation of the family), the latencies, what browsers
// do, and what goes wrong. A third of the runs have one fault alone, at one step
// of one refresh, as the kill-point matrix has them; most have crashes (also in
// the middle of a step), pauses, partitions from the store or from the
// authorization server, requests and answers that are lost, late or doubled, an
// authorization server that is slow or not well, sessions that are ended at any
// moment; a few have no fault at all.
//
// A crashed process has no effect any more: its calls never come back. The
// calls of a paused one hang until it is resumed, with the answers that came
// meanwhile, so that it goes on in the belief that no time has passed.
//
// # The judgement
//
// A checker judges from what can be seen from outside: what browsers were
// answered, what reached the authorization server, what the store accepted,
// which access tokens were relayed. It holds a run to the invariants I1 to I6,
// to getting well again when the faults are over, and, where nothing goes wrong,
// to exactly one token request for each expiry.
//
// Calls are put in order of the moments at which the processes made them: what
// happens to a call on its way, or in a process that stops in this very moment,
// is nothing that a process could know. A session may be lost only where the
// authorization server revokes for reuse or refuses what is spent, and only when
// the history has a reason: an answer that was lost, or a process that was gone,
// paused or cut off for a considerable time between the authorization server's
// commit and its own.
//
// # What is left out
//
// The clocks of the authorization server and of the store are off by some
// seconds or minutes; those of the processes are one clock, because there is
// one in a synctest bubble. An authorization server that answers with an error
// has spent nothing. 4xx answers without a meaning, which end a session when
// they repeat, do not occur.
//
// # Seeds
//
// A failure says how to run its seed alone; with -history that prints
// everything that happened. Runs are as good as deterministic: one processor, no
// two things planned for the same nanosecond, randomness of crypto/rand from the
// seed. What is left to chance is the choice of select between channels that are
// ready in the same moment.
//
//	go test ./internal/simulation -run 'TestSimulation$' -seed 4711 -history -v
//	go test ./internal/simulation -run 'TestSimulation$' -first 100000 -seeds 50000 -timeout 1h
package simulation
