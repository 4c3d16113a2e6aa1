// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// The invariants, HARDENING F, and what else a run must hold to.
const (
	onceOnly  = "I1" // no refresh token presented twice, except in a marked recovery that has a reason
	ownUser   = "I2" // no answer with another user's token
	notLost   = "I3" // no session lost unless the table of HARDENING G4 allows it
	goodToken = "I4" // no request relayed with an expired or foreign token, or one of a session that is over
	finalOut  = "I5" // logout is final, and what a refresh in flight brought is revoked
	inTime    = "I6" // every request is answered within its budget
	alive     = "liveness"
	economy   = "economy" // one token request for each expiry, where nothing goes wrong; no circles
)

// violation is a broken invariant.
type violation struct {
	invariant string
	at        time.Time
	text      string
}

// checker judges a run from its history.
type checker struct {
	w     *world
	h     *history
	found []violation
	// What the run was worth.
	lost, takeovers, doubles int
}

func (c *checker) broken(invariant string, at time.Time, format string, args ...any) {
	c.found = append(c.found, violation{invariant, at, fmt.Sprintf(format, args...)})
}

// check gives the broken invariants, in order of time.
func check(w *world) *checker {
	c := &checker{w: w, h: &w.history}
	c.budgets()
	c.relays()
	for _, loop := range c.h.loops {
		c.broken(economy, c.h.ended, "%s", loop)
	}
	for _, s := range w.sessions {
		l := c.lineOf(s)
		c.presentations(l)
		c.losses(l)
		c.logouts(l)
		c.liveness(l)
		if w.plan.profile == profileCalm {
			c.economy(l)
		}
	}
	slices.SortStableFunc(c.found, func(a, b violation) int { return a.at.Compare(b.at) })
	return c
}

func (c *checker) since(t time.Time) string {
	return fmt.Sprintf("%.3fs", t.Sub(c.w.start).Seconds())
}

// line is what the history has of one session, each in order of time.
type line struct {
	s        *sess
	requests []*request
	calls    []*call // of the token endpoint with a refresh token
	writes   []*write
}

func (c *checker) lineOf(s *sess) *line {
	l := &line{s: s}
	for _, r := range c.h.requests {
		if r.sess == s {
			l.requests = append(l.requests, r)
		}
	}
	for _, x := range c.h.calls {
		if x.sess == s && !x.revoke && !x.code {
			l.calls = append(l.calls, x)
		}
	}
	for _, x := range c.h.writes {
		if x.key == s.key {
			l.writes = append(l.writes, x)
		}
	}
	slices.SortStableFunc(l.calls, func(a, b *call) int { return a.called.Compare(b.called) })
	return l
}

// lease is for how long an attempt has to stand still before somebody else may
// take it over: less long where that does no harm.
func (c *checker) lease() time.Duration {
	if t := c.w.plan.told; t == session.RotationNone || t == session.RotationGrace {
		return 5 * time.Second
	}
	return 15 * time.Second
}

// budget is what a request may take: ten seconds for a refresh, and the store's
// time-outs before and after it. A request whose token the resource server
// refused may wait for another one.
const budget = 15 * time.Second

// budgets is I6.
func (c *checker) budgets() {
	for _, r := range c.h.requests {
		end := r.end
		if end.IsZero() {
			c.broken(inTime, r.began, "%s of %s at %s, begun at %s, was never answered", r.kind, r.sess.user, r.proc.name, c.since(r.began))
			continue
		}
		took := end.Sub(r.began)
		for _, f := range c.h.faults {
			if f.kind == faultPause && f.proc == r.proc {
				took -= f.overlap(r.began, end)
			}
		}
		if took > budget && !(took <= 2*budget && c.relayedFor(r)) {
			c.broken(inTime, end, "%s of %s at %s, begun at %s, took %v: %s %v", r.kind, r.sess.user, r.proc.name, c.since(r.began), took, r.outcome, r.err)
		}
		if r.outcome == outcomeUnexpected {
			c.broken(inTime, end, "%s of %s at %s: %v", r.kind, r.sess.user, r.proc.name, r.err)
		}
	}
}

func (c *checker) relayedFor(r *request) bool {
	return slices.ContainsFunc(c.h.relays, func(x *relay) bool { return x.sess == r.sess && x.proc == r.proc && x.began.Equal(r.began) })
}

// staleness is for how long an instance may not know of a change: not at all,
// but where the store keeps local copies.
func (c *checker) staleness() time.Duration {
	if c.w.plan.store == abilityCaching {
		return trackingDoubt + 100*time.Millisecond
	}
	return 0
}

// relays is I2 and I4.
func (c *checker) relays() {
	for _, r := range c.h.relays {
		a := c.w.server.access[r.token]
		switch {
		case a == nil:
			c.broken(goodToken, r.at, "%s was relayed with an unknown token", r.sess.user)
		case a.fam.user != r.sess.user:
			c.broken(ownUser, r.at, "%s was relayed with a token of %s", r.sess.user, a.fam.user)
		case a.fam.sess != r.sess:
			c.broken(goodToken, r.at, "%s was relayed with a token of another session", r.sess.user)
		case !r.at.Before(a.expiry):
			c.broken(goodToken, r.at, "%s was relayed at %s by %s with a token that expired at %s", r.sess.user, c.since(r.at), r.proc.name, c.since(a.expiry))
		case r.sess.endedBefore(r.began.Add(-c.staleness())):
			c.broken(goodToken, r.at, "%s was relayed at %s by %s after the end of the session", r.sess.user, c.since(r.at), r.proc.name)
		}
	}
}

// endedBefore says that the session was over for sure before a moment.
func (s *sess) endedBefore(t time.Time) bool {
	return !s.done.IsZero() && s.done.Before(t)
}

// wantedEnd is when somebody first wanted the session to end; zero: nobody.
func (s *sess) wantedEnd() time.Time {
	switch {
	case s.asked.IsZero():
		return s.outside
	case s.outside.IsZero() || s.asked.Before(s.outside):
		return s.asked
	}
	return s.outside
}

// blackout is for how long, between two moments, a process could not work on a
// session: it was paused or cut from the store, or its calls to the store were
// lost. A crash lasts for ever.
func (c *checker) blackout(p *process, key session.Key, from, to time.Time) time.Duration {
	total := time.Duration(0)
	for _, f := range c.h.faults {
		if f.proc != p {
			continue
		}
		switch f.kind {
		case faultCrash:
			if f.from.Before(to) {
				return time.Hour
			}
		case faultPause, faultStore:
			total += f.overlap(from, to)
		case faultStoreCall:
			if f.key == key && f.overlap(from, to) > 0 {
				total += 2 * time.Second // with the pause before the next attempt
			}
		}
	}
	return total
}

// hindered says that a process could not keep an attempt of a session, or what
// it brought, alive between two moments, so that others may take it over. Two
// beats of the lease are that long.
func (c *checker) hindered(p *process, key session.Key, from, to time.Time) bool {
	return c.blackout(p, key, from, to) >= c.lease()*2/5
}

// liveness: when nothing goes wrong any more, every session that is alive works
// soon, and goes on to.
func (c *checker) liveness(l *line) {
	if c.w.latency() > 9*time.Second {
		return // nobody waits that long for a token that has run out
	}
	if l.s.wantedEnd().IsZero() {
		for _, r := range l.requests {
			if r.began.After(c.h.healed.Add(recovery)) && r.outcome == outcomeUnavailable {
				c.broken(alive, r.end, "%s still gets no token at %s from %s, %v after the last fault: %v", l.s.user, c.since(r.began), r.proc.name, r.began.Sub(c.h.healed).Round(time.Second), r.err)
				return
			}
		}
	}
}

// economy: exactly one call for each generation of tokens.
func (c *checker) economy(l *line) {
	commits := 0
	for _, wr := range l.writes {
		if wr.kind == stepCommitSent {
			commits++
		}
	}
	// Where the grace is known, nobody waits for an answer longer than a third of it.
	impatient := c.w.plan.told == session.RotationGrace && c.w.plan.latency >= c.w.plan.window/3
	if calls := len(l.calls); calls < commits || calls > commits && !impatient {
		c.broken(economy, c.h.ended, "%s: %d refreshes were called for, %d came into the store", l.s.user, calls, commits)
	}
	forced := 0
	for _, r := range l.requests {
		if r.kind == requestForced && r.outcome == outcomeOK {
			forced++
		}
	}
	// A token is refreshed when four fifths of its life are over, or a little
	// earlier or later, by jitter and by how slow the server is; never before
	// three tenths.
	most := int(cmp.Or(c.h.ended, l.s.born).Sub(l.s.born)*10/(3*c.w.plan.life)) + 1
	if commits-forced > most {
		c.broken(economy, c.h.ended, "%s: %d refreshes, of which %d were asked for, in %v, with tokens that live %v", l.s.user, commits, forced, c.h.ended.Sub(l.s.born), c.w.plan.life)
	}
}
