// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"
)

// record gives the record of a session as the store has it now. A store may go
// back in time, when a replica that lags behind takes over: then it shows a
// generation whose refresh token is spent, or a session that has ended. A process
// that knows better puts it right before anybody acts on it.
func (m *Manager) record(ctx context.Context, store Store, s *Session) (*Record, error) {
	for {
		rec, err := store.Load(ctx, s.key)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil, ErrNoSession
		case err != nil:
			return nil, unavailable(err)
		case rec.Ended != "":
			s.entry().over(rec.Ended)
			s.redeem(rec)
			return nil, &EndedError{Reason: rec.Ended}
		}
		next := s.entry().newer(rec)
		if next == nil {
			return rec, nil
		}
		switch err := store.Replace(ctx, rec, next); {
		case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
			continue // somebody was faster
		case err != nil:
			return nil, unavailable(err)
		}
		m.cfg.Logger.Error("the session store went back in time; this record is put right", "session", s.key.short(),
			"generation", rec.Gen, "put_back", next.Gen, "ended", string(next.Ended))
		if next.Ended != "" {
			s.redeem(next)
			return nil, &EndedError{Reason: next.Ended}
		}
		return next, nil
	}
}

// newer is what has to take the place of a record that is older than what this
// process knows of the session; nil when it is not.
func (e *entry) newer(rec *Record) *Record {
	if reason := e.ended.Load(); reason != nil {
		next := rec.Next()
		next.entomb(*reason, time.Unix(e.expiry.Load(), 0))
		return next
	}
	o := e.opened.Load()
	if o == nil || rec.Gen >= o.rec.Gen {
		return nil
	}
	next := *o.rec
	next.Rev = rec.Rev + 1
	return &next
}

// over remembers that the session has ended: nothing that the store shows later
// brings it back.
func (e *entry) over(reason Reason) {
	if e.ended.CompareAndSwap(nil, &reason) {
		e.opened.Store(nil)
	}
}
