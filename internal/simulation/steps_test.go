// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// step is a moment of a refresh at which something can go wrong. The letters
// are those of the kill-point matrix, HARDENING G4.
type step string

const (
	stepIntentSent  step = "intent sent"       // K1
	stepIntentDone  step = "intent stored"     // K1, the answer is not there yet
	stepCalled      step = "call made"         // K2
	stepArrived     step = "call arrived"      // K3
	stepServed      step = "call served"       // K4
	stepAnswered    step = "answer arrived"    // K5
	stepCommitSent  step = "commit sent"       // K7
	stepCommitDone  step = "commit stored"     // K8
	stepBeat        step = "lease moved"       // while the call runs
	stepMarked      step = "attempt marked"    // before a second call
	stepTombSent    step = "tombstone sent"    // logout
	stepTombDone    step = "tombstone stored"  // logout
	stepRevoked     step = "revocation made"   // logout
	stepAttemptOver step = "attempt given up"  // after an error
	stepTouch       step = "activity noted"    // beside it all
	stepEmptied     step = "tombstone emptied" // logout
	stepOther       step = "another write"     // whatever comes to be
)

var steps = []step{
	stepIntentSent, stepIntentDone, stepCalled, stepArrived, stepServed, stepAnswered, stepCommitSent, stepCommitDone,
	stepBeat, stepMarked, stepTombSent, stepTombDone, stepRevoked, stepAttemptOver,
}

// action is what goes wrong at a step.
type action string

const (
	actCrash        action = "crash"
	actPauseShort   action = "short pause"
	actPauseLease   action = "pause of a lease"
	actPauseLong    action = "long pause"
	actCutStore     action = "partition from the store"
	actCutStoreLong action = "long partition from the store"
	actCutServer    action = "partition from the authorization server"
	actLoseReply    action = "lost reply"
	actLogout       action = "logout"
	actOutsideEnd   action = "end from outside"
)

var actions = []action{
	actCrash, actPauseShort, actPauseLease, actPauseLong, actCutStore, actCutStoreLong, actCutServer, actLoseReply, actLogout, actOutsideEnd,
}

// kindOf says what a write is, from what it changes alone.
func kindOf(old, next *session.Record) step {
	switch {
	case next.Ended != "" && old.Ended == "":
		return stepTombSent
	case next.Ended != "":
		return stepEmptied
	case next.Gen != old.Gen:
		return stepCommitSent
	case next.Attempt == nil && old.Attempt != nil:
		return stepAttemptOver
	case next.Attempt == nil:
		return stepTouch
	case old.Attempt == nil || old.Attempt.ID != next.Attempt.ID:
		return stepIntentSent
	case next.Attempt.Takeover && !old.Attempt.Takeover:
		return stepMarked
	case next.Attempt.Lease != old.Attempt.Lease:
		return stepBeat
	case next.Attempt.Unanswered && !old.Attempt.Unanswered:
		return stepAttemptOver
	}
	return stepOther
}

// reach tells the run that a process got to a step for a session. It reports
// that the reply of the call that this is a step of is to be lost.
func (w *world) reach(p *process, key session.Key, s step) (loseReply bool) {
	if w.calm() || p == nil {
		return false
	}
	switch w.plan.profile {
	case profileSingle:
		t := w.plan.target
		if s != t.step {
			return false
		}
		w.mu.Lock()
		w.reached++
		hit := w.reached == t.nth
		w.mu.Unlock()
		return hit && w.act(p, key, t.action, w.dice("target"))
	case profileStorm:
		d := p.dice("step", key)
		if d.chance(w.plan.stepFaults) {
			return w.act(p, key, oneOf(d, actions...), d)
		}
	}
	return false
}

// act makes something go wrong now.
func (w *world) act(p *process, key session.Key, a action, d *dice) (loseReply bool) {
	w.note(p, key, "%s", a)
	switch a {
	case actCrash:
		w.crash(p, d.between(time.Second, 40*time.Second))
	case actPauseShort:
		p.pause(d.between(time.Second, 8*time.Second))
	case actPauseLease: // longer than a lease, shorter than a call may take
		p.pause(d.between(16*time.Second, 29*time.Second))
	case actPauseLong:
		p.pause(d.between(30*time.Second, 5*time.Minute))
	case actCutStore:
		p.cut(&p.storeCut, faultStore, cutOf(d), d.between(100*time.Millisecond, 5*time.Second))
	case actCutStoreLong:
		p.cut(&p.storeCut, faultStore, cutOf(d), d.between(16*time.Second, 2*time.Minute))
	case actCutServer:
		p.cut(&p.serverCut, faultServer, cutOf(d), d.between(time.Second, 40*time.Second))
	case actLoseReply:
		return true
	case actLogout, actOutsideEnd:
		if s := w.sessionOf(key); s != nil {
			w.background(func() {
				if a == actLogout {
					w.logout(s, w.anyProcess(d))
				} else {
					w.endFromOutside(s)
				}
			})
		}
	}
	return false
}
