// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"time"
)

// license is the permission of a process to present a refresh token once: an
// attempt that the store accepted, or a mark for a second time.
type license struct {
	marked bool
	at     time.Time
}

// presentations is I1. Presentations are put in order of the moments at which
// the processes made their calls: for how long a call is on its way, or stuck in
// a process that does not run, is nothing that a process could know.
func (c *checker) presentations(l *line) {
	held := map[*process][]license{}
	before := map[*refreshToken]*call{}
	writes := l.writes
	for _, x := range l.calls {
		for len(writes) > 0 && !writes[0].at.After(x.called) {
			wr := writes[0]
			writes = writes[1:]
			switch {
			case wr.proc == nil || wr.old == nil:
			case wr.kind == stepIntentSent:
				held[wr.proc] = append(held[wr.proc], license{wr.next.Attempt.Takeover, wr.at})
				if wr.next.Attempt.Takeover {
					c.takeovers++
				}
			case wr.kind == stepMarked:
				held[wr.proc] = append(held[wr.proc], license{true, wr.at})
			case wr.kind == stepCommitSent && (c.w.plan.policy == policyNone || c.w.plan.policy == policySame):
				clear(before) // the same token, for the next generation
			}
		}
		who := fmt.Sprintf("%s of %s, presented at %s by %s", x.token.value, l.s.user, c.since(x.called), x.proc.name)
		mine := held[x.proc]
		if len(mine) == 0 {
			c.broken(onceOnly, x.called, "%s, without an attempt in the store", who)
			continue
		}
		lic := mine[len(mine)-1]
		held[x.proc] = mine[:len(mine)-1]
		x.intent = lic.at
		first := before[x.token]
		if harmless := x.result == callUnwell || x.result == callRefused && x.garbled; !harmless || x.answered.IsZero() {
			before[x.token] = x
		}
		if first == nil {
			continue
		}
		c.doubles++
		switch {
		case !lic.marked:
			c.broken(onceOnly, x.called, "%s, was presented at %s by %s before, and the attempt does not say so", who, c.since(first.called), first.proc.name)
		case !c.excused(first, x):
			c.broken(onceOnly, x.called, "%s, was presented at %s by %s before, which was well and at it", who, c.since(first.called), first.proc.name)
		}
	}
}

// excused says that there was a reason to present a refresh token again: the
// first caller got no answer, or could not do anything with it.
func (c *checker) excused(first, second *call) bool {
	from := first.called
	if !first.intent.IsZero() {
		from = first.intent
	}
	noAnswer := !first.returned.IsZero() && first.answered.IsZero() && first.returned.Before(second.called)
	unwell := first.result == callUnwell
	// Who was told that it is over, and could not say so in the store: to ask
	// once more costs nothing.
	if first.result == callRefused && c.blackout(first.proc, first.sess.key, first.called, second.called) > 0 {
		return true
	}
	return noAnswer || unwell || c.hindered(first.proc, first.sess.key, from, second.called)
}
