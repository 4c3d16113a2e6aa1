// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// record gives the record of a session as the store has it now. A store may go
// back in time, when a replica that lags behind takes over: then it shows a
// generation whose refresh token is spent, or a session that has ended. A process
// that knows better puts it right before anybody acts on it.
func (m *Manager) record(ctx context.Context, store *openedStore, s *Session) (*Record, error) {
	for {
		rec, err := store.Load(ctx, s.key)
		if errors.Is(err, ErrWentBack) && store.caching != nil {
			rec, err = s.behind(ctx, store.caching, err)
		}
		switch {
		case errors.Is(err, ErrNotFound):
			return nil, ErrNoSession
		case err != nil:
			return nil, unavailable(err)
		case rec.Ended != "":
			s.entry().pointed(rec)
			s.entry().over(rec.Ended)
			s.redeem(rec)
			return nil, s.ended(ctx, rec)
		}
		next := s.entry().newer(rec)
		if next == nil {
			return rec, nil
		}
		switch err := store.heal(ctx, rec, next, m.cfg.Logger); {
		case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
			continue // somebody was faster
		case err != nil:
			return nil, unavailable(err)
		}
		if next.Ended != "" {
			s.redeem(next)
			return nil, s.ended(ctx, next)
		}
		return next, nil
	}
}

// heal puts what this process knows in the place of an older record.
func (s *openedStore) heal(ctx context.Context, rec, next *Record, logger *slog.Logger) error {
	if err := s.Replace(ctx, rec, next); err != nil {
		return err
	}
	s.observer.StoreCalled(StoreHeal, StoreOK, unmeasured)
	logger.Error("the session store went back in time; this record is put right", "session", rec.Key.short(),
		"generation", rec.Gen, "put_back", next.Gen, "ended", string(next.Ended))
	return nil
}

// behind gives the older record that the store doubts, where this process does not
// need to wait for the end of the doubt: it knows what to put in its place, or the
// record has all that it knows. It fails with doubt otherwise. (The store may be
// asking a server that is being replaced. Who took its word for it that an attempt
// is gone would present the refresh token a second time.)
func (s *Session) behind(ctx context.Context, store Caching, doubt error) (*Record, error) {
	rec, err := store.Fresh(ctx, s.key)
	switch {
	case err != nil:
		return nil, err
	case rec.Ended != "", s.entry().newer(rec) != nil, s.entry().covered(rec):
		return rec, nil
	}
	return nil, doubt
}

// covered reports that this process knows the session, and nothing of its tokens
// and their refreshes that the record does not have.
func (e *entry) covered(rec *Record) bool {
	o := e.opened.Load()
	switch {
	case o == nil || rec.Gen < o.rec.Gen:
		return false
	case rec.Gen > o.rec.Gen || o.rec.Attempt == nil:
		return true
	}
	return rec.Attempt != nil && rec.Attempt.ID == o.rec.Attempt.ID
}

// newer is what has to take the place of a record that is older than what this
// process knows of the session; nil when it is not.
func (e *entry) newer(rec *Record) *Record {
	if reason := e.ended.Load(); reason != nil {
		next := rec.Next()
		next.entomb(*reason, time.Unix(e.expiry.Load(), 0))
		if sealed := e.leads.Load(); sealed != nil {
			next.Facts, next.Tokens = *sealed, nil
		}
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
	e.changed.Store(time.Now().UnixNano())
	if e.ended.CompareAndSwap(nil, &reason) {
		e.opened.Store(nil)
	}
}
