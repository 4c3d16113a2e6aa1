// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// pointerLife is for how long the cookie of a session that goes on under another
	// identifier leads there: for requests that the browser sent before it had the
	// new one.
	pointerLife = 10 * time.Second
	// maxPointers is how many of these are followed one after the other: more than there
	// are step-ups in the time that a login may take.
	maxPointers = 64
)

// A session that a step-up continues has a new identifier, as every login brings one.
// What is left under the old one is a tombstone without tokens, that holds where the
// session goes on, sealed under the old cookie's secret: the pointer. It has no life
// of its own. Who follows it comes to the new record, and to whatever has become of
// that. The tombstone stays for as long as a login may take, as a login that saw the
// old session has to end, or to continue, what has become of it.
type pointer struct {
	to    ticket
	until time.Time
}

const pointerSize = len(ticket{}.id) + len(ticket{}.secret) + 8

func (s *Session) pointerPurpose() purpose {
	return purpose{kind: "pointer", salt: s.key[:], secret: s.ticket.secret[:], bound: bind(string(s.site.id[:]), string(s.key[:]))}
}

// point makes rec, not yet stored, a tombstone with a pointer.
func (r *Record) point(s *Session, ring *ring, p pointer) {
	r.entomb(ReasonLoggedOut, time.Time{})
	r.empty()
	plain := make([]byte, 0, pointerSize)
	plain = append(plain, p.to.id[:]...)
	plain = append(plain, p.to.secret[:]...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(p.until.UnixMilli()))
	r.Facts = ring.seal(s.pointerPurpose(), plain)
}

// points reports that a tombstone has a pointer.
func (r *Record) points() bool { return len(r.Tokens) == 0 && len(r.Facts) > 0 }

// pointed remembers where a tombstone points to, if it does.
func (e *entry) pointed(tombstone *Record) {
	if tombstone.points() {
		e.leads.Store(&tombstone.Facts)
	}
}

// ended is what a tombstone says, with its pointer if it has one.
func (s *Session) ended(ctx context.Context, rec *Record) *EndedError {
	e := &EndedError{Reason: rec.Ended}
	if !rec.points() {
		return e
	}
	plain, err := s.m.cfg.Ring.open(ctx, s.pointerPurpose(), rec.Facts)
	if err != nil || len(plain) != pointerSize {
		return e
	}
	p := new(pointer)
	n := copy(p.to.id[:], plain)
	n += copy(p.to.secret[:], plain[n:])
	p.until = time.UnixMilli(int64(binary.BigEndian.Uint64(plain[n:])))
	e.pointer = p
	return e
}

// pointerIn gives where a session goes on that is over by an error, if it does.
func pointerIn(err error) *pointer {
	var ended *EndedError
	if errors.As(err, &ended) {
		return ended.pointer
	}
	return nil
}

// openTicket opens the session of a ticket, or the one that it goes on as.
func (m *Manager) openTicket(ctx context.Context, site *Site, t ticket) (*Session, error) {
	return m.openNewest(ctx, site, t, false)
}

// openNewest is openTicket; late follows pointers whose time is over as well, for
// what nobody with the old cookie alone can ask for.
func (m *Manager) openNewest(ctx context.Context, site *Site, t ticket, late bool) (*Session, error) {
	for hops := 0; ; hops++ {
		s := &Session{m: m, site: site, ticket: t, key: t.key()}
		o, err := s.current(ctx)
		if err == nil {
			s.seen.Store(o)
			return s, nil
		}
		p := pointerIn(err)
		if p == nil || hops == maxPointers || !late && !time.Now().Before(p.until) {
			return nil, err
		}
		t = p.to
	}
}

// moved gives the session that this one goes on as, when it is over by err for that
// reason; else nil, and the error that counts.
func (s *Session) moved(ctx context.Context, err error) (*Session, error) {
	p := pointerIn(err)
	if p == nil || !time.Now().Before(p.until) {
		return nil, err
	}
	return s.m.openTicket(ctx, s.site, p.to)
}

// followed is a token of the session that another one goes on as: whoever holds on to
// the old handle proves the possession of the new key with it.
type followed struct {
	next  *Session
	token string
}

// follow notes that a token is one of next.
func (s *Session) follow(next *Session, token string, err error) (string, error) {
	if err == nil {
		s.followed.Store(&followed{next: next, token: token})
	}
	return token, err
}

// continued gives the session that a login continues: the one that a step-up began
// with, if it still lives, and if the same end user has come back. Nil: the login
// makes a session that has nothing to do with any other.
func (m *Manager) continued(ctx context.Context, site *Site, l *loginState, id *oauth.IDToken) (*Session, error) {
	if l.wanted == nil || l.previous == nil {
		return nil, nil
	}
	s, err := m.openNewest(ctx, site, *l.previous, true)
	switch {
	case over(err):
		return nil, nil
	case err != nil:
		return nil, err
	case s.Subject() != id.Subject || s.seen.Load().facts.issuer != id.Issuer:
		return nil, nil
	}
	return s, nil
}

// Continues reports that a login which did not succeed was a step-up of that session,
// or of one that has gone on as it: of no other may be asked for what it wanted.
func (m *Manager) Continues(ctx context.Context, site *Site, e *LoginError, live *Session) bool {
	if e.StepUp == nil || e.previous == nil {
		return false
	}
	s, err := m.openNewest(ctx, site, *e.previous, true)
	return err == nil && s.key == live.key
}

// continues takes over what goes on of another session. Its lifetime is that of the
// old one unless the end user has authenticated again since: a session that only got
// more scope has no longer life for it.
func (f *facts) continues(old *facts) {
	since := old.authTime
	if since.IsZero() {
		since = old.created
	}
	if !f.authTime.After(since) {
		f.created, f.lifetimeEnd = old.created, old.lifetimeEnd
	}
	// Whoever signs the old session out means what has become of it.
	if f.sid == "" {
		f.sid, f.loginSID, f.formerSID = old.sid, old.loginSID, old.formerSID
		return
	}
	f.loginSID = cmp.Or(old.loginSID, old.sid)
	if f.loginSID == f.sid {
		f.loginSID = old.sid
	}
	if f.loginSID == f.sid {
		f.loginSID = ""
	}
	former := append([]string{old.sid}, old.formerSID...)
	former = slices.DeleteFunc(former, func(sid string) bool { return sid == "" || sid == f.sid || sid == f.loginSID })
	f.formerSID = former[:min(len(former), maxSteps)]
}

// sids are those under which the authorization server may sign the session out.
func (f *facts) sids() []string {
	var sids []string
	for _, sid := range append([]string{f.sid, f.loginSID}, f.formerSID...) {
		if sid != "" && !slices.Contains(sids, sid) {
			sids = append(sids, sid)
		}
	}
	return sids
}

// goOn ends the old session in favour of the one that continues it, whose record is
// there already. Its tokens are dropped and not revoked: many authorization servers
// take a revocation for the end of all that the user has granted here, the new tokens
// included. It fails with an EndedError when somebody has ended the session meanwhile,
// which then must not go on. That the store fails is no reason to undo the login: who
// holds the old cookie goes on with the old tokens then.
func (s *Session) goOn(ctx context.Context, as *Session) error {
	p := pointer{to: as.ticket, until: time.Now().Add(pointerLife)}
	var tombstone *Record
	for hops := 0; ; hops++ {
		r, err := s.m.cfg.Ring.current(ctx)
		if err != nil {
			return err
		}
		err = s.change(ctx, func(_ *opened, next *Record) error {
			next.point(s, r, p)
			tombstone = next
			return nil
		})
		if err == nil {
			break
		}
		// Two step-ups of one session may come back at the same time.
		newer := pointerIn(err)
		switch {
		case over(err) && (newer == nil || hops == maxPointers):
			return err
		case newer == nil:
			s.m.cfg.Logger.Warn("the session that a step-up continues is still there as well", "session", s.key.short(), "as", as.key.short(), "error", err)
			return nil
		}
		if s, err = s.m.openNewest(ctx, s.site, newer.to, true); err != nil {
			return err
		}
	}
	s.entry().pointed(tombstone)
	s.entry().over(ReasonLoggedOut)
	s.m.cfg.Logger.Info("session goes on under a new identifier", "session", s.key.short(), "as", as.key.short())
	return nil
}

// signedOutBefore is endedMeanwhile for the authorization server's sessions that the
// old session came of: their logout may have found neither of the two.
func (m *Manager) signedOutBefore(ctx context.Context, store *openedStore, f *facts, issued, began time.Time) error {
	for _, sid := range f.sids() {
		if sid == f.sid {
			continue
		}
		if err := m.endedMeanwhile(ctx, store, &facts{issuer: f.issuer, subject: f.subject, sid: sid}, issued, began); err != nil {
			return err
		}
	}
	return nil
}
