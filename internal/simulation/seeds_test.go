// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import "testing"

// failedOnce are seeds in which something was found, with what it was. They stay.
// A change of how plans are drawn makes other runs of them; the cells of the
// kill-point matrix stay what they are.
var failedOnce = []struct {
	seed uint64
	what string
}{
	// A marked call was answered with an outage, or not sent: the attempt was
	// cleared, and with it the mark.
	{5, "the mark of an attempt was forgotten"},
	{88, "the mark of an attempt was forgotten"},
	{536, "the mark of an attempt was forgotten"},
	{1603, "the mark of an attempt was forgotten"},
	{cellSeed(policyStrict, stepMarked, actCrash) + 2, "the mark of an attempt was forgotten"},
	{cellSeed(policyStrict, stepMarked, actPauseShort) + 1, "the mark of an attempt was forgotten"},
	{cellSeed(policySpent, stepAttemptOver, actCrash), "the mark of an attempt was forgotten"},
	// The process that had stored its intent was paused before it heard so, and
	// made its call when another one had taken over.
	{cellSeed(policyStrict, stepIntentDone, actPauseLease), "a call was made by an intent whose lease was over"},
	{cellSeed(policyStrict, stepIntentSent, actPauseLease), "a call was made by an intent whose lease was over"},
	{cellSeed(policyStrict, stepIntentSent, actPauseLong), "a call was made by an intent whose lease was over"},
	{cellSeed(policySpent, stepIntentDone, actPauseLong), "a call was made by an intent whose lease was over"},
	{1696, "a call was made by an intent whose lease was over"}, // and the session was lost, as in the next four
	{1854, "a call was made by an intent whose lease was over"},
	{1917, "a call was made by an intent whose lease was over"},
	{2506, "a call was made by an intent whose lease was over"},
	{2700, "a call was made by an intent whose lease was over"},
	// A forced refresh died with its process, and the grace was over when the
	// token was due.
	{2248, "an attempt that died was not seen while the access token was fresh"},
	// The same of one whose second call got no answer either.
	{1104, "an attempt that died was not seen while the access token was fresh"},
	// The answer to the tombstone was lost: nobody revoked.
	{645, "a tombstone was found, and its tokens were not revoked"},
	{5146, "a tombstone was found, and its tokens were not revoked"}, // the browser hung up
	{cellSeed(policyStrict, stepTombDone, actLoseReply), "a tombstone was found, and its tokens were not revoked"},
	{cellSeed(policyGrace, stepTombDone, actLoseReply) + 1, "a tombstone was found, and its tokens were not revoked"},
	// The store could no longer tell of changes, and still had copies.
	{230, "a process asked the store in a circle"},
	{1566, "a process asked the store in a circle"},
	// The keys came when the token had expired.
	{9562, "a beat of the lease that failed was tried again too late"},
	{15818, "the same"},
	{16696, "the same"},
	{186, "a request waited twice, each time as long as it may"},
	{26874, "the grace was used up waiting for answers that were lost"},
	{1171, "the mark for a second call was stored while the process was stopped"},
	{174, "a token was not revoked: the client was refused, for a moment"},
	{656, "the same"},
	{cellSeed(policySame, stepMarked, actLoseReply) + 2, "a token expired while it was judged, and passed"},
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
