// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"slices"
	"time"
)

// losses is I3.
func (c *checker) losses(l *line) {
	for _, r := range l.requests {
		if r.outcome != outcomeEnded && r.outcome != outcomeNone || r.kind == requestLogout {
			continue
		}
		if end := l.s.wantedEnd(); !end.IsZero() && !end.After(r.end) {
			return
		}
		c.lost++
		if why := c.lossAllowed(l, r.end); why != "" {
			c.w.note(r.proc, l.s.key, "lost: %s", why)
			return
		}
		c.broken(notLost, r.end, "%s lost the session at %s (%s, %s), told by %s", l.s.user, c.since(r.end), r.outcome, r.reason, r.proc.name)
		return
	}
}

// lossAllowed says why a session may have been lost before a moment, by the
// table of HARDENING G4; empty: it may not.
func (c *checker) lossAllowed(l *line, before time.Time) string {
	switch c.w.plan.policy {
	case policyNone, policySame, policyChild:
		return ""
	case policySpent:
		return c.orphan(l, before)
	}
	if t := c.w.plan.target; c.w.plan.policy == policyGrace && t != nil && t.action != actPauseLong && t.action != actCutStoreLong {
		return c.wasted(l) // somebody else is there inside the window, and takes over
	}
	return c.reuse(l)
}

// wasted finds a refresh that was granted and never came into the store, and after
// it, as long as the grace lasted, a number of calls that all got no answer.
func (c *checker) wasted(l *line) string {
	for _, g := range l.calls {
		if g.result != callGranted || c.landed(l, g) {
			continue
		}
		tried, answered := 0, 0
		for _, x := range l.calls {
			if x.token != g.token || !x.called.After(g.called) || later(x.called, x.arrived).After(g.arrived.Add(c.w.plan.window)) {
				continue // of another one, or too late, as far as the server is concerned
			}
			tried++
			if !x.answered.IsZero() && x.result != callUnwell {
				answered++
			}
		}
		if tried >= 2 && answered == 0 {
			return fmt.Sprintf("the answer to the refresh at %s was lost, and so were %d more while the grace lasted", c.since(g.called), tried)
		}
	}
	return ""
}

// reuse explains why the authorization server revoked a family: a call presented
// a refresh token that another one had been granted, and one of the two was a
// recovery that had a reason.
func (c *checker) reuse(l *line) string {
	for _, x := range l.calls {
		if x.result != callRefused || !x.arrived.Equal(l.s.fam.revoked) {
			continue
		}
		for _, g := range l.calls {
			if g.token != x.token || g.result != callGranted {
				continue
			}
			first, second := g, x
			if x.called.Before(g.called) {
				first, second = x, g
			}
			if c.excused(first, second) {
				return fmt.Sprintf("the refresh token was presented at %s by %s and again, for a reason, at %s by %s", c.since(first.called), first.proc.name, c.since(second.called), second.proc.name)
			}
		}
	}
	return ""
}

// orphan finds a refresh that the authorization server granted and that never
// came into the store, because its answer was lost or because the process that
// had it was gone.
func (c *checker) orphan(l *line, before time.Time) string {
	for _, x := range l.calls {
		if x.result != callGranted || x.arrived.After(before) || c.landed(l, x) {
			continue
		}
		switch {
		case x.answered.IsZero():
			return "the answer to the refresh at " + c.since(x.called) + " was lost"
		case c.hindered(x.proc, l.s.key, x.called, before):
			return x.proc.name + ", which refreshed at " + c.since(x.called) + ", could not store it"
		}
	}
	return ""
}

// landed says that what a call brought came into the store.
func (c *checker) landed(l *line, x *call) bool {
	if x.answered.IsZero() {
		return false
	}
	for _, wr := range l.writes {
		if wr.proc == x.proc && wr.kind == stepCommitSent && !wr.at.Before(x.answered) {
			return !slices.ContainsFunc(l.calls, func(y *call) bool { // a later one of the same process landed
				return y.proc == x.proc && y.called.After(x.called) && !y.answered.IsZero() && !y.answered.After(wr.at)
			})
		}
	}
	return false
}
