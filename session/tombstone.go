// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"
)

// tombstoneRest is how long a tombstone stays at least, so that whatever is still
// on its way finds it.
const tombstoneRest = 10 * time.Minute

// redeemPause is how long tokens that could not be revoked are left alone: who
// keeps the cookie of a session that is over must not make work.
const redeemPause = 5 * time.Minute

// entomb makes rec, not yet stored, a tombstone. Its tokens stay sealed in it until
// they are revoked, see redeem: whoever ends a session may not be able to, or may
// never hear that the store has the tombstone.
func (r *Record) entomb(reason Reason, keep time.Time) {
	r.Ended, r.Attempt, r.Index = reason, nil, nil
	r.Expiry = later(keep, time.Now().Add(tombstoneRest))
}

// empty makes rec, not yet stored, one without tokens.
func (r *Record) empty() { r.Facts, r.Tokens = nil, nil }

// leftover is what becomes of the tokens of a session that ends without its cookie,
// which alone opens them.
type leftover int

const (
	tokensKept    leftover = iota // sealed, until the cookie is seen again: then they are revoked
	tokensRevoked                 // at once, where this process has them open; else as tokensKept
	tokensDropped                 // nobody revokes them
)

// endUnseen ends a session without its cookie. It reports false when the session
// was over already.
func (m *Manager) endUnseen(ctx context.Context, store Store, rec *Record, reason Reason, left leftover) (bool, error) {
	for {
		next := rec.Next()
		next.entomb(reason, rec.Expiry)
		if left == tokensDropped {
			next.empty()
		}
		err := store.Replace(ctx, rec, next)
		if err == nil {
			e := m.cfg.Backend.live.of(rec.Key)
			known := e.opened.Load()
			e.look(next)
			e.over(reason)
			m.cfg.Logger.Info("session ended", "session", rec.Key.short(), "reason", reason)
			m.cfg.Observer.SessionEnded(reason)
			if left == tokensRevoked && known != nil {
				// As if the cookie were here.
				s := &Session{m: m, site: known.site, ticket: ticket{secret: known.secret}, key: rec.Key}
				s.redeem(next)
			}
			return true, nil
		}
		if errors.Is(err, ErrConflict) {
			rec, err = store.Load(ctx, rec.Key)
		}
		switch {
		case errors.Is(err, ErrNotFound), err == nil && rec.Ended != "":
			return false, nil
		case err != nil:
			return false, unavailable(err)
		}
	}
}

// redeem revokes the tokens that a tombstone has kept, now that the cookie which
// opens them is here, and then empties it. Nobody waits for it. If the tokens
// cannot be revoked, the next one who sees the tombstone tries again.
func (s *Session) redeem(rec *Record) {
	e := s.entry()
	if len(rec.Tokens) == 0 || time.Now().UnixNano() < e.redeemNext.Load() || !e.redeeming.CompareAndSwap(false, true) {
		return
	}
	s.m.cfg.Backend.detach(func(ctx context.Context) {
		defer e.redeeming.Store(false)
		t, _, err := s.m.unseal(ctx, s, rec)
		if err != nil || !s.m.revoke(ctx, t.refresh, t.live(time.Now())...) {
			e.redeemNext.Store(time.Now().Add(redeemPause).UnixNano())
			return // not of this cookie or key, or to be tried again; it was logged
		}
		store, err := s.m.cfg.Backend.current(ctx)
		if err == nil {
			next := rec.Next()
			next.empty()
			err = store.Replace(ctx, rec, next)
		}
		if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			s.m.cfg.Logger.Warn("emptying the tombstone of a session", "session", s.key.short(), "error", err)
		}
	}, revokeLimit, func() { e.redeeming.Store(false) })
}
