// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import "testing"

// failedOnce are seeds in which something was found, with what it was. They stay.
// A change of how plans are drawn makes other runs of them; the cells of the
// kill-point matrix stay what they are.
//
// With -strictly, those of the known faults fail.
var failedOnce = []struct {
	seed uint64
	what string
}{
	// A marked call was answered with an outage, or not sent: the attempt was
	// cleared, and with it the mark.
	{5, forgottenMark},
	{88, forgottenMark},
	{536, forgottenMark},
	{1603, forgottenMark},
	{cellSeed(policyStrict, stepMarked, actCrash) + 2, forgottenMark},
	{cellSeed(policyStrict, stepMarked, actPauseShort) + 1, forgottenMark},
	{cellSeed(policySpent, stepAttemptOver, actCrash), forgottenMark},
	// The process that had stored its intent was paused before it heard so, and
	// made its call when another one had taken over.
	{cellSeed(policyStrict, stepIntentDone, actPauseLease), lateIntent},
	{cellSeed(policyStrict, stepIntentSent, actPauseLease), lateIntent},
	{cellSeed(policyStrict, stepIntentSent, actPauseLong), lateIntent},
	{cellSeed(policySpent, stepIntentDone, actPauseLong), lateIntent},
	{1696, lateIntent}, // and the session was lost, as in the next four
	{1854, lateIntent},
	{1917, lateIntent},
	{2506, lateIntent},
	{2700, lateIntent},
	// A forced refresh died with its process, and the grace was over when the
	// token was due.
	{2248, unseenAttempt},
	// The same of one whose second call got no answer either.
	{1104, unseenAttempt},
	// The answer to the tombstone was lost: nobody revoked.
	{645, unrevoked},
	{5146, unrevoked}, // the browser hung up
	{cellSeed(policyStrict, stepTombDone, actLoseReply), unrevoked},
	{cellSeed(policyGrace, stepTombDone, actLoseReply) + 1, unrevoked},
	// The store could no longer tell of changes, and still had copies.
	{230, hotLoop},
	{1566, hotLoop},
	// The keys came when the token had expired.
	{cellSeed(policySame, stepMarked, actLoseReply) + 2, oldClock},
}

// Seeds that ever failed.
func TestSeedsThatFailed(t *testing.T) {
	alone(t)
	for _, f := range failedOnce {
		p := newPlan(f.seed)
		if c, _ := simulate(t, p, false); len(c.found) > 0 {
			t.Errorf("%s: %s", f.what, report(p, c, ""))
		}
	}
}
