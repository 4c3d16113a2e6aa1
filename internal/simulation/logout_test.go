// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"slices"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

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
