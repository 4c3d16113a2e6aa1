// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// maxCommitPause is the longest pause between two attempts to store new tokens.
const maxCommitPause = 2 * time.Second

// result is what the authorization server gave, sealed for the generation that
// it is to become: the refresh token that it replaces is spent, so until it is
// stored this is the only copy.
type result struct {
	opened *opened // as it will be; its record is not in the store yet
}

func (r *result) rec() *Record { return r.opened.rec }

// land stores new tokens, before anybody sees them. While the store takes no
// changes, this process alone goes on with them, and they stay the only copy
// until the session would end anyway.
func (f *flight) land(o *opened, began time.Time, answer *oauth.TokenResponse) error {
	ctx, cancel := context.WithDeadline(context.Background(), f.m.lifetimeEnd(o.facts))
	defer cancel()
	f.m.served.Store(time.Now().UnixNano())
	fresh, err := f.successor(ctx, o, began, answer)
	if err != nil {
		return f.unusable(ctx, o, answer, fmt.Errorf("the answer is not for this session: %w", err))
	}
	defer f.e.held.Store(nil)
	var res *result
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxCommitPause) {
		if res == nil {
			res, err = f.seal(ctx, o, fresh)
		}
		if err == nil {
			err = f.commit(ctx, o, res)
		}
		switch {
		case err == nil:
			if err := f.fence(ctx, o, began, fresh); err != nil {
				return err
			}
			f.e.changed.Store(time.Now().UnixNano())
			f.e.recovered()
			f.e.recoveredFor(f.to)
			f.result = f.brought()
			f.m.overflow(fresh)
			f.m.cfg.Logger.Debug("refreshed", "session", f.s.key.short(), "trigger", f.trigger, "for", f.to.purpose.String(), "generation", o.rec.Gen+1, "duration", time.Since(began))
			return nil
		case over(err):
			if pointerIn(err) != nil {
				return err // it goes on with other tokens, see goOn
			}
			// Logged out meanwhile. Logout is final, so these must go too.
			f.m.revokeLater(fresh.refresh, answer.AccessToken)
			return err
		case errors.Is(err, ErrTooLarge):
			// Much can be done without, the refresh token can not.
			less := fresh.fewer() // what it has no room for, this process keeps
			if less == nil {
				f.m.cfg.Observer.LimitReached(LimitRecordSize)
			}
			if less == nil && fresh.id != o.tokens.id {
				f.m.cfg.Logger.Warn("a session record is too large, and does without refreshed claims", "session", f.s.key.short())
				less = new(tokens)
				*less = *fresh
				less.id, less.claims, less.apart = o.tokens.id, o.tokens.claims, 0
			}
			if less == nil {
				return f.unusable(ctx, o, answer, err)
			}
			fresh, res, err = less, nil, nil
			continue
		case !errors.Is(err, ErrStoreUnavailable):
			return unavailable(err)
		}
		if res != nil && f.e.held.Load() == nil {
			f.m.cfg.Logger.Warn("refreshed tokens cannot be stored yet; this process keeps them and tries again", "session", f.s.key.short(), "error", err)
			f.e.held.Store(res)
			close(f.ready)
		}
		if sleep(ctx, pause) != nil {
			f.result = RefreshNotStored
			f.m.cfg.Logger.Error("refreshed tokens could not be stored", "session", f.s.key.short(), "error", err)
			return err
		}
		err = nil
	}
}

// fence ends a session that a refresh gave another sid, when the authorization
// server has ended that one meanwhile: its logout did not find this session yet.
func (f *flight) fence(ctx context.Context, o *opened, began time.Time, fresh *tokens) error {
	if fresh.sid == "" || fresh.sid == o.facts.sid {
		return nil
	}
	store, err := f.m.cfg.Backend.current(ctx)
	if err == nil {
		now := *o.facts
		now.follow(fresh.sid)
		err = f.m.endedMeanwhile(ctx, store, &now, fresh.idIssued, began)
	}
	switch {
	case over(err):
		if endErr := f.s.end(ctx, ReasonRevoked); endErr != nil {
			return endErr
		}
		return err
	case err != nil:
		f.m.cfg.Logger.Warn("a session has another sid now, and it is not known whether that has been signed out", "session", f.s.key.short(), "error", err)
	}
	return nil
}

// unusable ends a session whose refresh token is spent for tokens that it cannot
// take.
func (f *flight) unusable(ctx context.Context, o *opened, answer *oauth.TokenResponse, why error) error {
	f.result = RefreshUnusable
	f.m.cfg.Logger.Error("refreshed tokens are of no use; the session ends", "session", f.s.key.short(), "error", why)
	f.m.revokeLater(cmp.Or(answer.RefreshToken, o.tokens.refresh), answer.AccessToken) // it may stay the same
	if err := f.s.end(ctx, ReasonRefreshToken); err != nil {
		return err
	}
	return &EndedError{Reason: ReasonRefreshToken}
}

// seal makes the result of the attempt that o's record carries.
func (f *flight) seal(ctx context.Context, o *opened, fresh *tokens) (*result, error) {
	r, err := f.m.cfg.Ring.current(ctx)
	if err != nil {
		return nil, err
	}
	facts := *o.facts
	if !fresh.refreshEnd.IsZero() {
		facts.refreshEnd = fresh.refreshEnd
	}
	facts.follow(fresh.sid)
	rec := o.rec.Next()
	rec.Gen++
	rec.Index = r.indexOf(f.m.cfg.ClientID, &facts)
	if err := f.s.site.sealInto(rec, r, f.s.ticket.secret[:], fresh, &facts); err != nil {
		return nil, err
	}
	return &result{opened: &opened{rec: rec, site: f.s.site, secret: f.s.ticket.secret, tokens: fresh, facts: &facts}}, nil
}

// commit puts a result into the record. It is fenced by the generation: a moved
// one means that somebody else's tokens are there, or these already, and these
// are let go. Any other change of the record does not stop it. What was exchanged
// since the intent, which o carries, is taken along, in memory if there is no room.
func (f *flight) commit(ctx context.Context, o *opened, res *result) error {
	stored, err := f.replace(ctx, o, res, true)
	if errors.Is(err, ErrTooLarge) {
		stored, err = f.replace(ctx, o, res, false)
	}
	if errors.Is(err, errNotOurs) {
		return nil
	}
	if err == nil {
		f.e.keep(stored)
	}
	return err
}

func (f *flight) replace(ctx context.Context, o *opened, res *result, room bool) (stored *opened, err error) {
	err = f.s.change(ctx, func(cur *opened, next *Record) error {
		if !res.rec().succeeds(cur.rec) {
			f.superseded = !res.opened.tokens.same(cur.tokens, f.to)
			return errNotOurs
		}
		with, tokens := res, res.opened.tokens
		if more := tokens.exchangedSince(o.tokens, cur.tokens); more != nil && f.trigger != TriggerRequest {
			if !room {
				tokens = tokens.also(more.narrow, time.Now())
			} else if with, err = f.seal(ctx, o, more); err != nil {
				return err
			} else {
				tokens = more
			}
		}
		next.adopt(with.rec())
		stored = &opened{rec: next, site: with.opened.site, secret: with.opened.secret, tokens: tokens, facts: with.opened.facts}
		return nil
	})
	return stored, err
}

// succeeds reports that r is the generation after that of cur.
func (r *Record) succeeds(cur *Record) bool { return r.Gen == cur.Gen+1 }

// adopt makes r, not yet stored, carry the tokens of res and no attempt, and be found
// as res is, unless it is a tombstone.
func (r *Record) adopt(res *Record) {
	r.Gen, r.Facts, r.Tokens, r.Attempt = res.Gen, res.Facts, res.Tokens, nil
	if r.Ended == "" {
		r.Index = res.Index
	}
}
