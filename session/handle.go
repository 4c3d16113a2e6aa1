// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// Session is one session as a request sees it. It satisfies upstream's
// TokenSource. It is safe for concurrent use, and prints a constant.
type Session struct {
	m      *Manager
	site   *Site
	ticket ticket
	key    Key
	own    bool // of a refresh or an exchange, not of a request

	seen     atomic.Pointer[opened] // the newest state that this handle has seen
	e        atomic.Pointer[entry]
	followed atomic.Pointer[followed] // where its last token is from, if not from here
}

// String prints a constant: a handle may get into a log or a placeholder.
func (s *Session) String() string { return "session" }

// GoString prints a constant.
func (s *Session) GoString() string { return "session" }

// Format prints a constant, whatever the verb.
func (s *Session) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("session")) }

// MarshalJSON gives a constant.
func (s *Session) MarshalJSON() ([]byte, error) { return []byte(`"session"`), nil }

// entry is what the process remembers of the session. A handle may keep one that
// has been forgotten meanwhile; what must not happen twice looks again, see start.
func (s *Session) entry() *entry {
	if e := s.e.Load(); e != nil {
		return e
	}
	return s.newEntry()
}

func (s *Session) newEntry() *entry {
	e := s.m.cfg.Backend.live.of(s.key)
	s.e.Store(e)
	return e
}

// current loads the session as it is now and checks both clocks.
func (s *Session) current(ctx context.Context) (*opened, error) {
	o, store, err := s.m.load(ctx, s)
	if err != nil {
		return nil, err
	}
	if res := s.entry().held.Load(); res != nil && res.rec().succeeds(o.rec) && res.opened.site.id == s.site.id && res.opened.secret == s.ticket.secret {
		o = res.opened // the store will have it as soon as it can
	}
	if reason := s.over(o, store.exclusive, time.Now()); reason != "" {
		s.endLater(reason)
		return nil, &EndedError{Reason: reason}
	}
	s.seen.Store(o)
	return o, nil
}

// over says which of the clocks ended the session, or nothing. A tenant that is no
// longer among those of the configuration ends it too.
func (s *Session) over(o *opened, exclusive bool, now time.Time) Reason {
	f := o.facts
	switch {
	case !now.Before(s.m.lifetimeEnd(f)):
		return ReasonLifetime
	case !now.Before(s.idleEnd(o, exclusive)):
		return ReasonIdle
	case !f.refreshEnd.IsZero() && !now.Before(f.refreshEnd):
		return ReasonRefreshToken
	case !f.accessEnd.IsZero() && !now.Before(f.accessEnd):
		return ReasonAccessToken
	case !s.m.cfg.Client.AcceptsIssuer(f.issuer):
		return ReasonRevoked
	}
	return ""
}

// lifetimeEnd honours a lifetime that was configured shorter meanwhile.
func (m *Manager) lifetimeEnd(f *facts) time.Time {
	if end := f.created.Add(m.cfg.Lifetime); end.Before(f.lifetimeEnd) {
		return end
	}
	return f.lifetimeEnd
}

// idleEnd is the end by the idle timeout: so long after the last activity that
// this process has seen, or that the record tells of. Others, and this process
// before it began, may have seen some that was not worth a write, as late as one
// touchInterval after the one in the record; that is granted on top.
func (s *Session) idleEnd(o *opened, exclusive bool) time.Time {
	seen := o.rec.LastSeen
	own := s.entry().lastSeen.Load()
	if own == 0 || !exclusive {
		seen = seen.Add(s.m.touchInterval())
	}
	if own != 0 {
		seen = later(seen, time.Unix(0, own))
	}
	return seen.Add(s.m.cfg.IdleTimeout)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// ID is the public handle of the session; nothing opens with it.
func (s *Session) ID() string { return s.key.String() }

// Subject is the end user's sub claim.
func (s *Session) Subject() string { return s.seen.Load().facts.subject }

// Claims are those of the ID token, the newest one. The map must not be changed.
func (s *Session) Claims() map[string]any { return s.seen.Load().tokens.claims }

// CreatedAt is when the end user signed in here.
func (s *Session) CreatedAt() time.Time { return s.seen.Load().facts.created }

// IdleEnd is when the session ends without further activity.
func (s *Session) IdleEnd() time.Time {
	store := s.m.cfg.Backend.store.Load()
	return s.idleEnd(s.seen.Load(), store != nil && store.exclusive)
}

// LifetimeEnd is when the session ends whatever happens: the configured
// lifetime, or the end of its tokens where that is known and sooner.
func (s *Session) LifetimeEnd() time.Time {
	f := s.seen.Load().facts
	end := s.m.lifetimeEnd(f)
	for _, other := range []time.Time{f.refreshEnd, f.accessEnd} {
		if !other.IsZero() && other.Before(end) {
			end = other
		}
	}
	return end
}

// End is when the session ends if nothing more happens.
func (s *Session) End() time.Time {
	idle, lifetime := s.IdleEnd(), s.LifetimeEnd()
	if idle.Before(lifetime) {
		return idle
	}
	return lifetime
}

// ExpiryUnknown reports that nobody said when the access token expires, so that
// only the resource server's refusal tells.
func (s *Session) ExpiryUnknown() bool {
	return s.seen.Load().tokens.placed(s.m.aims.byDefault).expiry().IsZero()
}

// Touch notes activity: the idle timeout starts anew. It is written to the
// record seldom, and in the background.
func (s *Session) Touch(context.Context) {
	now := time.Now()
	e := s.entry()
	e.saw(now)
	if now.Sub(s.seen.Load().rec.LastSeen) < s.m.touchInterval() || !e.touching.CompareAndSwap(false, true) {
		return
	}
	s.m.cfg.Backend.detach(func(ctx context.Context) {
		defer e.touching.Store(false)
		if err := s.writeLastSeen(ctx, now); err != nil && !over(err) {
			s.m.cfg.Logger.Warn("noting activity of a session", "session", s.key.short(), "error", err)
		}
	}, 10*time.Second, func() { e.touching.Store(false) })
}

// Extend notes activity at once and in the record. A session that is over stays
// over: [*EndedError].
func (s *Session) Extend(ctx context.Context) error {
	err := s.extend(ctx)
	if err == nil {
		return nil
	}
	next, err := s.moved(ctx, err)
	if next == nil {
		return err
	}
	return next.Extend(ctx)
}

func (s *Session) extend(ctx context.Context) error {
	now := time.Now() // what counts is when it was asked for
	if _, err := s.current(ctx); err != nil {
		return err
	}
	if err := s.writeLastSeen(ctx, now); err != nil {
		return err
	}
	s.entry().saw(now)
	_, err := s.current(ctx)
	return err
}

// writeLastSeen puts activity at a moment into the record, which may know of a
// later one. A record that an older key sealed is sealed and indexed anew on the
// way, so that old keys can go.
func (s *Session) writeLastSeen(ctx context.Context, at time.Time) error {
	r, err := s.m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	return s.change(ctx, func(o *opened, next *Record) error {
		next.LastSeen = later(o.rec.LastSeen, at)
		next.Expiry = s.m.recordExpiry(next.LastSeen, s.m.lifetimeEnd(o.facts))
		if id, _ := sealedBy(o.rec.Tokens); id == r.sealing().id {
			return nil
		}
		facts := *o.facts
		next.Index = r.indexOf(s.m.cfg.ClientID, &facts)
		return s.site.sealInto(next, r, s.ticket.secret[:], o.tokens, &facts)
	})
}

// change replaces the record by one that edit made from it, as often as
// somebody else is faster.
func (s *Session) change(ctx context.Context, edit func(o *opened, next *Record) error) error {
	for {
		o, store, err := s.m.load(ctx, s)
		if err != nil {
			return err
		}
		next := o.rec.Next()
		if err := edit(o, next); err != nil {
			return err
		}
		switch err := store.Replace(ctx, o.rec, next); {
		case errors.Is(err, ErrConflict):
		case errors.Is(err, ErrNotFound):
			return ErrNoSession
		case errors.Is(err, ErrTooLarge):
			return err
		case err != nil:
			return unavailable(err)
		default:
			return nil
		}
	}
}

// over reports that an error is the sure end of a session.
func over(err error) bool {
	var ended *EndedError
	return errors.Is(err, ErrNoSession) || errors.As(err, &ended)
}

// logoutLimit bounds a logout, which goes on when nobody waits for it any more.
const logoutLimit = 10 * time.Second

// Ended is what a session that has just been ended leaves for the logout at
// the authorization server.
type Ended struct {
	IDToken oauth.Secret
	Subject string
	// LogoutHint is what the authorization server takes in place of the ID
	// token; empty where it is not known to take anything.
	LogoutHint string
}

// Logout ends the session everywhere and at once, also when the context is
// cancelled meanwhile: who hangs up wants it all the same. The refresh token is
// revoked in the background. It is idempotent: a session that is over already
// gives what is still known of it.
func (s *Session) Logout(ctx context.Context) (*Ended, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	o := s.seen.Load()
	_, err := s.endGeneration(ctx, ReasonLoggedOut, 0)
	if p := pointerIn(err); p != nil {
		// It goes on as another, which is what the user wants to be rid of.
		next, err := s.m.openNewest(ctx, s.site, p.to, true)
		switch {
		case err == nil:
			return next.Logout(ctx)
		case !over(err):
			return nil, err
		}
	}
	if err != nil && !over(err) {
		return nil, err
	}
	hint, _ := o.tokens.claims[s.m.cfg.Client.LogoutHintClaim()].(string)
	return &Ended{IDToken: o.tokens.id, Subject: o.facts.subject, LogoutHint: hint}, nil
}

// end makes the record a tombstone, so that no late write brings it back, and
// revokes its tokens. Being over already is fine.
func (s *Session) end(ctx context.Context, reason Reason) error {
	_, err := s.endGeneration(ctx, reason, 0)
	if over(err) {
		return nil
	}
	return err
}

// endGeneration is end, but only while the tokens are of generation gen, unless
// that is 0: moved reports that somebody replaced them, and that nothing was done.
// A session that is over already gives why.
func (s *Session) endGeneration(ctx context.Context, reason Reason, gen uint64) (moved bool, err error) {
	var tombstone *Record
	err = s.change(ctx, func(o *opened, next *Record) error {
		if gen != 0 && o.rec.Gen != gen {
			return errNotOurs
		}
		tombstone = next
		next.entomb(reason, s.m.lifetimeEnd(o.facts))
		if s.m.cfg.KeepTokensAtEnd || reason == ReasonRefreshToken {
			next.empty() // there is nothing to revoke
		}
		return nil
	})
	switch {
	case errors.Is(err, errNotOurs):
		return true, nil
	case err != nil:
		return false, err
	}
	s.entry().over(reason)
	s.m.cfg.Logger.Info("session ended", "session", s.key.short(), "reason", reason)
	s.m.cfg.Observer.SessionEnded(reason)
	s.redeem(tombstone)
	return false, nil
}

// endLater ends a session whose time has run out, without making the request
// that found out wait for it.
func (s *Session) endLater(reason Reason) {
	e := s.entry()
	if !e.ending.CompareAndSwap(false, true) {
		return
	}
	s.m.cfg.Backend.detach(func(ctx context.Context) {
		defer e.ending.Store(false)
		if err := s.end(ctx, reason); err != nil {
			s.m.cfg.Logger.Warn("ending a session", "session", s.key.short(), "reason", reason, "error", err)
		}
	}, 10*time.Second, func() { e.ending.Store(false) })
}

// LogoutProof is what a plain logout link carries: made for this session,
// worthless without its cookie, and not to be guessed by another site. It stays the
// same when a step-up continues the session: pages that are open have it already.
func (s *Session) LogoutProof() string {
	return base64.RawURLEncoding.EncodeToString(s.logoutProof())
}

func (s *Session) logoutProof() []byte {
	if proof := s.seen.Load().tokens.logoutProof; proof != nil {
		return proof
	}
	mac := hmac.New(sha256.New, s.ticket.secret[:])
	mac.Write(bind("logout link", string(s.site.id[:])))
	return mac.Sum(nil)[:16]
}

// CheckLogoutProof compares in constant time.
func (s *Session) CheckLogoutProof(proof string) bool {
	return hmac.Equal([]byte(proof), []byte(s.LogoutProof()))
}
