// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// flightLimit bounds a refresh up to the answer of the authorization
	// server; the call itself has the client's own, shorter limit.
	flightLimit = 90 * time.Second
	// commitLimit bounds the attempts to store new tokens. They are good for
	// nothing else, so it is long.
	commitLimit = 10 * time.Minute
	// lease is how long another owner's attempt must be seen standing still
	// before it counts as dead, and leaseBeat how often the owner moves it.
	lease     = 15 * time.Second
	leaseBeat = lease / 3
	// leaseWatch is how often somebody else's attempt is looked at.
	leaseWatch = 250 * time.Millisecond
)

// flight is one refresh of one session. It belongs to nobody: not to the
// request that started it, nor to the configuration.
type flight struct {
	m       *Manager
	s       *Session
	e       *entry
	gen     uint64 // the generation to be replaced
	trigger string

	done chan struct{} // closed at the end; then err is final
	err  error
}

func (f *flight) fly() {
	defer f.m.cfg.Backend.land()
	err := errors.New("refresh panicked")
	defer func() {
		if p := recover(); p != nil {
			f.m.cfg.Logger.Error("refresh panicked", "session", f.s.key.short(), "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = f.e.failed(err)
		}
		f.e.mu.Lock()
		f.e.flight = nil
		f.e.mu.Unlock()
		f.err = err
		close(f.done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	err = f.refresh(ctx)
}

// refresh is the protocol: intent, call, commit.
func (f *flight) refresh(ctx context.Context) error {
	o, err := f.intend(ctx)
	if err != nil || o == nil {
		return err
	}
	stop := f.beat(ctx, o)
	began := time.Now()
	answer, err := f.call(ctx, o)
	stop()
	if err != nil {
		return f.noTokens(ctx, o, err)
	}
	return f.land(o, began, answer)
}

// intend writes the attempt into the record, which is the permission to call
// the authorization server. It gives nil when the tokens have been replaced
// already.
func (f *flight) intend(ctx context.Context) (*opened, error) {
	var watched Attempt
	var since time.Time
	for {
		o, store, err := f.m.load(ctx, f.s)
		if err != nil {
			return nil, err
		}
		if o.rec.Gen > f.gen {
			return nil, nil
		}
		attempt := &Attempt{Owner: f.m.cfg.Backend.instance, Lease: 1}
		rand.Read(attempt.ID[:]) //nolint:errcheck // never fails, see crypto/rand
		if other := o.rec.Attempt; other != nil {
			// An attempt of this process is over, or this flight would not be;
			// one of another is dead if no other process can live, or if it
			// was seen to stand still for a whole lease.
			dead := other.Owner == f.m.cfg.Backend.instance || store.exclusive || other.Unanswered
			if !dead {
				if *other != watched {
					watched, since = *other, time.Now()
				}
				if time.Since(since) < lease {
					if err := sleep(ctx, leaseWatch); err != nil {
						return nil, &UnavailableError{RetryAfter: time.Second, Err: err}
					}
					continue
				}
			}
			if other.Unanswered && f.m.cfg.Rotation != RotationNone && !f.nothingToLose(o) {
				return nil, f.e.hold(o.tokens.expiry(), errUnanswered)
			}
			attempt.Takeover = true
			f.m.cfg.Logger.Warn("taking over a refresh that did not end", "session", f.s.key.short())
		}
		next := o.rec.Next()
		next.Attempt = attempt
		switch err := store.Replace(ctx, o.rec, next); {
		case err == nil:
			// No tokens part changed: what was opened stays good.
			return &opened{rec: next, site: o.site, secret: o.secret, tokens: o.tokens, facts: o.facts}, nil
		case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		default:
			return nil, unavailable(err)
		}
	}
}

// beat moves the lease while the call runs, so that no other instance takes the
// attempt for dead. A store of one process needs none.
func (f *flight) beat(ctx context.Context, o *opened) (stop func()) {
	if store := f.m.cfg.Backend.store.Load(); store != nil && store.exclusive {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sleep(ctx, leaseBeat) == nil {
			f.changeAttempt(ctx, o, func(a *Attempt) *Attempt { //nolint:errcheck // the next beat tries again
				a.Lease++
				return a
			})
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

var errNotOurs = errors.New("the attempt is not this one any more")

// changeAttempt replaces the record's attempt while it is still this one.
func (f *flight) changeAttempt(ctx context.Context, o *opened, edit func(*Attempt) *Attempt) error {
	return f.s.change(ctx, func(cur *opened, next *Record) error {
		if cur.rec.Attempt == nil || cur.rec.Attempt.ID != o.rec.Attempt.ID {
			return errNotOurs
		}
		a := *cur.rec.Attempt
		next.Attempt = edit(&a)
		return nil
	})
}

// call presents the refresh token once, and a second time only where the first
// got no answer and that can do no harm: the policy allows it, or the access
// token has run out and nothing is left to lose.
func (f *flight) call(ctx context.Context, o *opened) (*oauth.TokenResponse, error) {
	request := oauth.RefreshRequest{RefreshToken: o.tokens.refresh}
	began := time.Now()
	answer, err := f.m.cfg.Client.Refresh(ctx, request)
	if err == nil || oauth.ClassOf(err) != oauth.ClassAmbiguous || o.rec.Attempt.Takeover {
		return answer, err
	}
	harmless := f.m.cfg.Rotation == RotationNone ||
		f.m.cfg.Rotation == RotationGrace && time.Since(began) < f.m.cfg.RotationGrace
	if !harmless && !f.nothingToLose(o) {
		return nil, err
	}
	if markErr := f.changeAttempt(ctx, o, func(a *Attempt) *Attempt { a.Takeover = true; return a }); markErr != nil {
		return nil, err
	}
	f.m.cfg.Logger.Warn("the answer to a refresh was lost; asking once more", "session", f.s.key.short())
	return f.m.cfg.Client.Refresh(ctx, request)
}

// errUnanswered: the refresh token may be spent, so it is not presented again
// before there is nothing left to lose.
var errUnanswered = errors.New("a refresh got no answer")

// nothingToLose reports that the access token serves no more: it has run out, or
// the resource server refused it. Until then presenting a refresh token that may
// be spent could cost what is left of it (RFC 9700 section 4.14.2).
func (f *flight) nothingToLose(o *opened) bool {
	if f.trigger == triggerChallenge || f.trigger == triggerExpiry {
		return true
	}
	end := o.tokens.expiry()
	return !end.IsZero() && !time.Now().Before(end)
}

// noTokens decides what an error of the call means for the session.
func (f *flight) noTokens(ctx context.Context, o *opened, err error) error {
	class := oauth.ClassOf(err)
	log := f.m.cfg.Logger.With("session", f.s.key.short(), "trigger", f.trigger, "class", class.String(), "error", err)
	told := error(nil)
	if class != oauth.ClassSessionOver {
		told = f.e.failed(err)
	}
	end := o.tokens.expiry()
	expired := end.IsZero() || !time.Now().Before(end)
	if class == oauth.ClassSessionOver || class == oauth.ClassRefused && expired && f.e.hopeless(f.m.lastServed()) {
		// Somebody may have replaced the tokens meanwhile; that counts.
		if cur, _, loadErr := f.m.load(ctx, f.s); loadErr != nil || cur.rec.Gen > o.rec.Gen {
			return loadErr
		}
		log.Info("the refresh token is no longer valid")
		if endErr := f.s.end(ctx, ReasonRefreshToken); endErr != nil {
			return endErr
		}
		return &EndedError{Reason: ReasonRefreshToken}
	}
	if class == oauth.ClassConfiguration {
		log.Error("the authorization server refuses this client; no session ends for it")
	} else {
		log.Warn("refresh failed")
	}
	over := func(*Attempt) *Attempt { return nil }
	if class == oauth.ClassAmbiguous {
		over = func(a *Attempt) *Attempt { a.Unanswered = true; return a }
		if f.m.cfg.Rotation != RotationNone && !f.nothingToLose(o) {
			told = f.e.hold(end, told)
		}
	}
	if clearErr := f.changeAttempt(ctx, o, over); clearErr != nil && !errors.Is(clearErr, errNotOurs) {
		return clearErr
	}
	return told
}

// land stores new tokens, before anybody sees them. It has its own time: what
// the authorization server gave must not be lost for a limit of ours.
func (f *flight) land(o *opened, began time.Time, answer *oauth.TokenResponse) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitLimit)
	defer cancel()
	f.m.served.Store(time.Now().UnixNano())
	fresh, err := f.m.successor(ctx, o, began, answer)
	if err != nil {
		return f.unusable(ctx, answer, fmt.Errorf("the answer is not for this session: %w", err))
	}
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := f.commit(ctx, o, fresh)
		switch {
		case err == nil:
			f.e.recovered()
			f.m.cfg.Logger.Debug("refreshed", "session", f.s.key.short(), "trigger", f.trigger, "generation", o.rec.Gen+1, "duration", time.Since(began))
			return nil
		case over(err):
			// Logged out meanwhile. Logout is final, so these must go too.
			f.m.revokeLater(fresh.refresh, fresh.access)
			return err
		case errors.Is(err, ErrTooLarge) && fresh.id != o.tokens.id:
			// Claims can be done without, the refresh token can not.
			f.m.cfg.Logger.Warn("refreshed claims make the session record too large; the old ones stay", "session", f.s.key.short())
			fresh.id, fresh.claims = o.tokens.id, o.tokens.claims
			continue
		case errors.Is(err, ErrTooLarge):
			return f.unusable(ctx, answer, err)
		case !errors.Is(err, ErrStoreUnavailable):
			return unavailable(err)
		}
		f.m.cfg.Logger.Warn("storing refreshed tokens; trying again", "session", f.s.key.short(), "error", err)
		if sleep(ctx, pause) != nil {
			f.m.cfg.Logger.Error("refreshed tokens could not be stored", "session", f.s.key.short(), "error", err)
			return err
		}
	}
}

// unusable ends a session whose refresh token is spent for tokens that it cannot
// take.
func (f *flight) unusable(ctx context.Context, answer *oauth.TokenResponse, why error) error {
	f.m.cfg.Logger.Error("refreshed tokens are of no use; the session ends", "session", f.s.key.short(), "error", why)
	f.m.revokeLater(answer.RefreshToken, answer.AccessToken)
	if err := f.s.end(ctx, ReasonRefreshToken); err != nil {
		return err
	}
	return &EndedError{Reason: ReasonRefreshToken}
}

// commit is fenced by the generation: a moved one means that somebody else's
// tokens are there, and these are let go. Any other change of the record does
// not stop it.
func (f *flight) commit(ctx context.Context, o *opened, fresh *tokens) error {
	r, err := f.m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	var stored *opened
	err = f.s.change(ctx, func(cur *opened, next *Record) error {
		if cur.rec.Gen != o.rec.Gen {
			return errNotOurs
		}
		facts := *cur.facts
		if !fresh.refreshEnd.IsZero() {
			facts.refreshEnd = fresh.refreshEnd
		}
		next.Gen++
		next.Attempt = nil
		stored = &opened{rec: next, site: f.s.site, secret: f.s.ticket.secret, tokens: fresh, facts: &facts}
		return f.s.site.sealInto(next, r, f.s.ticket.secret[:], fresh, &facts)
	})
	if errors.Is(err, errNotOurs) {
		return nil
	}
	if err == nil {
		f.e.keep(stored)
	}
	return err
}

// lastServed is when the token endpoint last did for any session what it should.
func (m *Manager) lastServed() time.Time { return time.Unix(0, m.served.Load()) }

// sleep waits, or gives the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
