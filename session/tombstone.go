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

// entomb makes rec, not yet stored, a tombstone without tokens.
func (r *Record) entomb(reason Reason, keep time.Time) {
	r.Ended, r.Attempt, r.Index, r.Facts, r.Tokens = reason, nil, nil, nil, nil
	r.Expiry = later(keep, time.Now().Add(tombstoneRest))
}

// endUnseen ends a session without its cookie. Nobody but the cookie opens its
// tokens, so they stay sealed in the tombstone until it is seen again: see
// redeem. It reports false when the session was over already.
func (m *Manager) endUnseen(ctx context.Context, store Store, rec *Record, reason Reason) (bool, error) {
	for {
		next := rec.Next()
		next.Ended, next.Attempt, next.Index = reason, nil, nil
		next.Expiry = later(rec.Expiry, time.Now().Add(tombstoneRest))
		err := store.Replace(ctx, rec, next)
		if err == nil {
			e := m.cfg.Backend.live.of(rec.Key)
			e.look(next)
			e.over(reason)
			m.cfg.Logger.Info("session ended", "session", rec.Key.short(), "reason", reason)
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
// opens them is here, and empties it. Nobody waits for it.
func (s *Session) redeem(rec *Record) {
	e := s.entry()
	if len(rec.Tokens) == 0 || !e.ending.CompareAndSwap(false, true) {
		return
	}
	s.m.cfg.Backend.detach(func(ctx context.Context) {
		defer e.ending.Store(false)
		t, _, err := s.m.unseal(ctx, s, rec)
		if err != nil {
			return // of another cookie, or another key; it was logged
		}
		store, err := s.m.cfg.Backend.current(ctx)
		if err == nil {
			next := rec.Next()
			next.entomb(rec.Ended, rec.Expiry)
			err = store.Replace(ctx, rec, next)
		}
		switch {
		case err == nil:
			s.m.revokeLater(t.refresh, t.access)
		case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound):
			s.m.cfg.Logger.Warn("emptying the tombstone of a session", "session", s.key.short(), "error", err)
		}
	}, 10*time.Second, func() { e.ending.Store(false) })
}
