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
	strictly                 bool // known faults are faults
	tolerated                map[string]int
}

func (c *checker) broken(invariant string, at time.Time, format string, args ...any) {
	c.found = append(c.found, violation{invariant, at, fmt.Sprintf(format, args...)})
}

// check gives the broken invariants, in order of time.
func check(w *world, strictly bool) *checker {
	c := &checker{w: w, h: &w.history, strictly: strictly, tolerated: map[string]int{}}
	c.budgets()
	c.relays()
	for _, loop := range c.h.loops {
		if !c.tolerate(hotLoop) {
			c.broken(economy, c.h.ended, "%s", loop)
		}
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

	lateIntent bool
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
		case !r.at.Before(a.expiry) && c.w.plan.jwt && r.at.Sub(a.expiry) < 3*time.Second && c.tolerate(oldClock):
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
		case x.called.Sub(x.intent) >= c.lease() && c.tolerate(lateIntent):
			l.lateIntent = true
		case first.called.Sub(first.intent) >= c.lease() && c.tolerate(lateIntent):
			l.lateIntent = true
		case !lic.marked && forgotten(l, first, x) && c.tolerate(forgottenMark):
		case !lic.marked:
			c.broken(onceOnly, x.called, "%s, was presented at %s by %s before, and the attempt does not say so", who, c.since(first.called), first.proc.name)
		case !c.excused(first, x):
			c.broken(onceOnly, x.called, "%s, was presented at %s by %s before, which was well and at it", who, c.since(first.called), first.proc.name)
		}
	}
}

// Known faults of the protocol, each counted where it would break I1. They are to
// be taken away when the protocol is mended.
const (
	// An attempt whose refresh token may be spent is cleared when the marked call
	// for it was not sent or was answered with an outage: what the mark said is
	// forgotten, and the next call does not say that it is not the first.
	forgottenMark = "the mark of an attempt is forgotten"
	// A process that learns late that its intent was stored (it did not run
	// meanwhile) makes its call although the lease is long over.
	lateIntent = "a call is made by an intent whose lease is over"
	// An attempt that died, or got no answer, is looked at only when the access
	// token is due, or has run out. Where the refresh was forced, while the token
	// was fresh, the grace is over then.
	unseenAttempt = "an attempt that died is not seen while the access token is fresh"
	// A token is judged by the time at which the question was asked, not by the one
	// after the wait for the keys that answer it.
	oldClock = "a token expires while it is judged, and passes"
	// A watch that cannot tell is closed from the start; who waits with it for
	// another's attempt then asks again and again, without a pause, as long as the
	// store answers.
	hotLoop = "a process asks the store in a circle"
	// Who ends a session by a tombstone whose write seems to fail, because its
	// answer is lost or because the browser hung up, revokes nothing; nor does who comes later and finds it.
	unrevoked = "a tombstone is found, and its tokens are not revoked"
)

// tolerate counts a known fault, unless none are to be tolerated.
func (c *checker) tolerate(fault string) bool {
	if c.strictly {
		return false
	}
	c.tolerated[fault]++
	return true
}

// forgotten says that between two calls an attempt that was marked was cleared
// without new tokens.
func forgotten(l *line, first, second *call) bool {
	return slices.ContainsFunc(l.writes, func(x *write) bool {
		return x.kind == stepAttemptOver && x.at.After(first.called) && x.at.Before(second.called) &&
			x.old.Attempt.Takeover && x.next.Attempt == nil
	})
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
		// Somebody else is there inside the window, and takes over.
		if l.unseen(c.w.plan.life) && c.tolerate(unseenAttempt) {
			return unseenAttempt
		}
		return ""
	}
	if l.lateIntent {
		return lateIntent
	}
	return c.reuse(l)
}

// unseen says that a refresh which was granted long before it was due did not
// come into the store.
func (l *line) unseen(life time.Duration) bool {
	since := l.s.born
	for _, wr := range l.writes {
		if wr.kind != stepCommitSent {
			continue
		}
		since = wr.at
	}
	return slices.ContainsFunc(l.calls, func(x *call) bool {
		return x.result == callGranted && x.called.After(since) && x.called.Sub(since) < life*7/10
	})
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

// logouts is I5.
func (c *checker) logouts(l *line) {
	s := l.s
	for _, r := range l.requests {
		if r.outcome == outcomeOK && r.kind != requestLogout && s.endedBefore(r.began.Add(-c.staleness())) {
			c.broken(finalOut, r.end, "%s got a session at %s from %s after the logout at %s", s.user, c.since(r.began), r.proc.name, c.since(s.done))
		}
	}
	found := c.foundOver(l)
	if found == nil {
		return
	}
	for _, t := range s.fam.tokens {
		if !c.w.server.works(t) || !c.known(l, t) {
			continue
		}
		if why := c.unrevoked(l, t, found); why != "" {
			c.w.note(nil, s.key, "%s is not revoked: %s", t.value, why)
			return
		}
		if !c.revokeCalled(s.fam) && c.tombstoneLost(l) && c.tolerate(unrevoked) {
			return
		}
		c.broken(finalOut, found.end, "%s signed out, or was signed out, as %s said at %s, and %s still works", s.user, found.proc.name, c.since(found.end), t.value)
		return
	}
}

// foundOver is the request with which the end of a session that somebody wanted
// to end was seen: the logout that worked, or the cookie that came after it.
func (c *checker) foundOver(l *line) *request {
	for _, r := range l.requests {
		over := r.outcome == outcomeEnded && (r.reason == session.ReasonRevoked || r.reason == session.ReasonLoggedOut)
		if over || r.kind == requestLogout && r.outcome == outcomeOK {
			return r
		}
	}
	return nil
}

// tombstoneLost says that who wrote the tombstone may not have heard that it did.
func (c *checker) tombstoneLost(l *line) bool {
	for _, wr := range l.writes {
		if wr.kind == stepTombSent && wr.proc != nil {
			hungUp := slices.ContainsFunc(l.requests, func(r *request) bool {
				return r.kind == requestLogout && r.outcome == outcomeHungUp && r.proc == wr.proc && !r.end.Before(wr.at.Add(-time.Second)) && r.began.Before(wr.at)
			})
			return hungUp || c.blackout(wr.proc, l.s.key, wr.at.Add(-10*time.Second), wr.at.Add(2*time.Second)) > 0
		}
	}
	return false
}

// known says that a refresh token that works came to a process that had to
// revoke it: it got it, and there was no other result that went before it.
func (c *checker) known(l *line, t *refreshToken) bool {
	if t.parent == nil {
		return true
	}
	return slices.ContainsFunc(l.calls, func(x *call) bool {
		if x.child != t || x.answered.IsZero() {
			return false
		}
		return c.landed(l, x) || !slices.ContainsFunc(l.writes, func(wr *write) bool {
			return wr.kind == stepCommitSent && wr.at.After(x.called)
		})
	})
}

func (c *checker) revokeCalled(f *family) bool {
	return slices.ContainsFunc(c.h.calls, func(x *call) bool { return x.revoke && x.token != nil && x.token.fam == f })
}

// unrevoked says why a token of a session that is over may still work: a process
// that had to revoke it was gone, or did not get through to the authorization
// server.
func (c *checker) unrevoked(l *line, t *refreshToken, found *request) string {
	if c.blackout(found.proc, l.s.key, found.began, found.end.Add(5*time.Second)) > 0 {
		return "the store was not to be had; the next sight of the cookie will do"
	}
	duty := []*process{found.proc}
	from := l.s.wantedEnd()
	for _, wr := range l.writes {
		if wr.kind == stepTombSent {
			duty = append(duty, wr.proc)
			from = wr.at
		}
	}
	for _, x := range l.calls {
		if x.child == t {
			duty = append(duty, x.proc)
			from = later(from, x.answered)
		}
	}
	to := later(from, found.end).Add(2 * time.Minute)
	for _, f := range c.h.faults {
		switch within := f.from.Before(to) && (f.to.IsZero() || !f.to.Before(from)); {
		case !within || f.proc != nil && !slices.Contains(duty, f.proc):
		case f.kind == faultCrash:
			return f.proc.name + " crashed"
		case f.kind == faultServer, f.kind == faultServerDown, f.kind == faultServerCall && f.key == l.s.key:
			return "the authorization server was not to be had"
		}
	}
	return ""
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
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
	if calls := len(l.calls); calls != commits {
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
