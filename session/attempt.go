// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/rand"
	"errors"
	"time"
)

const (
	// strictLease is how long another owner's attempt must be seen standing
	// still before it counts as dead. It is long where taking over too early
	// could cost the session: the owner may only be slow.
	strictLease = 15 * time.Second
	// graceLease is the most where a used refresh token works for a while
	// longer: an early look costs nothing then, and a late one everything.
	graceLease = 5 * time.Second
	minLease   = time.Second
	// leaseBeats is how often within a lease the owner moves it.
	leaseBeats = 3
	// leaseWatch is how often somebody else's attempt is looked at where the
	// store does not tell of changes, and leaseGlance where it does.
	leaseWatch  = 250 * time.Millisecond
	leaseGlance = time.Second
)

// lease is how long an attempt must be seen standing still before it counts as
// dead; its owner moves it leaseBeats times in that. All instances of an application
// have the same.
func (m *Manager) lease() time.Duration {
	switch m.cfg.Rotation {
	case RotationGrace:
		return max(minLease, min(m.cfg.RotationGrace/3, graceLease))
	case RotationNone:
		return graceLease
	}
	return strictLease
}

// intend writes the attempt into the record, which is the permission to call
// the authorization server. It gives nil when the token has been replaced
// already.
func (f *flight) intend(ctx context.Context) (*opened, *openedStore, error) {
	var watched standing
	for {
		o, store, err := f.othersDone(ctx, &watched)
		if err != nil || o == nil {
			return nil, nil, err
		}
		if waited, err := f.m.cfg.Backend.settle(ctx); err != nil {
			return nil, nil, err
		} else if waited {
			continue
		}
		// Only who may call at once writes an intent: it keeps others waiting.
		if f.pass == nil {
			waited, err := f.enter(ctx)
			if err != nil {
				return nil, nil, err
			}
			if waited {
				continue
			}
		}
		if spooled := f.e.spooled.Load(); spooled != nil {
			// What an earlier process could not store goes first.
			if err := f.m.cfg.Backend.deliver(ctx, store, f.e, spooled); err != nil {
				return nil, nil, err
			}
			continue
		}
		attempt, err := f.attempt(o)
		if err != nil {
			return nil, nil, err
		}
		next := o.rec.Next()
		next.Attempt = attempt
		asked := time.Now()
		switch err := store.Replace(ctx, o.rec, next); {
		case err == nil:
			// No tokens part changed: what was opened stays good.
			mine := &opened{rec: next, site: o.site, secret: o.secret, tokens: o.tokens, facts: o.facts}
			err := f.confirm(ctx, mine, store, asked)
			if errors.Is(err, errNotOurs) {
				continue
			}
			return mine, store, err
		case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		default:
			return nil, nil, unavailable(err)
		}
	}
}

// errGaveWay: another upstream needs the session's refresh token, and this refresh
// could not begin yet.
var errGaveWay = errors.New("a refresh for another upstream goes first")

// enter waits for a place at the gate. Until it has one, a refresh for one upstream
// gives way to those for others, see giveWay.
func (f *flight) enter(ctx context.Context) (waited bool, err error) {
	if !f.to.byDefault() {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		f.away.Store(&cancel)
		defer func() {
			f.away.Store(nil)
			cancel(nil)
		}()
	}
	f.pass, waited, err = f.m.gate(f.to).enter(ctx, f.m.cfg.Observer)
	return waited, err
}

// giveWay ends a refresh that waits at the gate of its upstream.
func (f *flight) giveWay() {
	if cancel := f.away.Load(); cancel != nil {
		(*cancel)(errGaveWay)
	}
}

// confirm makes sure that an attempt which was asked for at a moment is still this
// flight's. Who was stopped meanwhile (a machine that slept, a container that was
// frozen) hears late that the store has it, when others may have taken it over.
func (f *flight) confirm(ctx context.Context, o *opened, store *openedStore, asked time.Time) error {
	if store.exclusive {
		return nil
	}
	// A store may be slow: whether a beat was in time is seen by the whole lease.
	for limit := f.m.lease() / leaseBeats; since(asked) >= limit; limit = f.m.lease() {
		asked = time.Now()
		if err := f.changeAttempt(ctx, o, (*Attempt).beat); err != nil {
			return err
		}
	}
	return nil
}

// since is how long ago a moment was. The monotonic clock may stand still while
// the machine sleeps; the other one may be set.
func since(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// othersDone waits until no live attempt of another owner is in the record, and
// gives the record as it is then; nil when the token has been replaced.
func (f *flight) othersDone(ctx context.Context, watched *standing) (*opened, *openedStore, error) {
	for {
		changed, glance, stop := f.m.cfg.Backend.watch(f.s.key) // before the look, to miss nothing
		o, store, err := f.m.load(ctx, f.s)
		if err == nil && o.rec.Attempt != nil {
			f.e.presentation(o.rec)
		}
		switch {
		case err != nil:
		case f.replaced(o.tokens):
			o = nil
		case o.rec.Attempt == nil:
		case !f.dead(o.rec.Attempt, store, watched):
			if f.pass != nil {
				f.pass.unused() // others may have use for it meanwhile
				f.pass = nil
			}
			err = wait(ctx, changed, glance)
			stop()
			if err != nil {
				return nil, nil, &UnavailableError{RetryAfter: time.Second, Err: err}
			}
			continue
		}
		stop()
		return o, store, err
	}
}

// dead reports that nobody works on an attempt any more. One of this process is
// over, or this flight would not be; one of another is dead if no other process
// can live, if its owner said so, or if it was seen standing still for a lease.
func (f *flight) dead(a *Attempt, store *openedStore, watched *standing) bool {
	return a.Owner == f.m.cfg.Backend.instance || store.exclusive || a.Unanswered || watched.still(*a, f.m.lease())
}

// attempt makes the attempt that takes the place of the one in the record. A
// refresh token that may have been presented is not presented again before there
// is nothing left to lose, unless that is known to do no harm.
func (f *flight) attempt(o *opened) (*Attempt, error) {
	a := &Attempt{Owner: f.m.cfg.Backend.instance, Lease: 1}
	rand.Read(a.ID[:]) //nolint:errcheck // never fails, see crypto/rand
	old := o.rec.Attempt
	switch {
	case old == nil:
		return a, nil
	case old.Unanswered && !f.harmless(o) && !f.nothingToLose(o):
		return nil, f.e.hold(f.held(o), errUnanswered)
	}
	// What this process wrote, and never came to present, is no takeover.
	a.Takeover = old.Takeover || old.Unanswered || old.Owner != a.Owner || old.ID == f.e.presented
	f.silent = old.Unanswered
	if a.Takeover {
		f.m.cfg.Logger.Warn("taking over a refresh that did not end", "session", f.s.key.short())
	}
	return a, nil
}

// standing watches whether an attempt stands still, by this process's own
// monotonic clock: clocks of others are not asked.
type standing struct {
	last  Attempt
	since time.Time
}

func (s *standing) still(a Attempt, lease time.Duration) bool {
	if a != s.last || s.since.IsZero() {
		s.last, s.since = a, time.Now()
	}
	return time.Since(s.since) >= lease
}

// beat moves the lease until stop is called, so that no other instance takes the
// attempt for dead. A store of one process needs none.
func (f *flight) beat(o *opened) (stop func()) {
	if store := f.m.cfg.Backend.store.Load(); store != nil && store.exclusive {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pause := f.m.lease() / leaseBeats; sleep(ctx, pause) == nil; {
			switch err := f.changeAttempt(ctx, o, (*Attempt).beat); {
			case err == nil:
				pause = f.m.lease() / leaseBeats
			case errors.Is(err, errNotOurs), over(err):
				return
			default: // sooner than that: a lease is not long
				pause = f.m.lease() / (5 * leaseBeats)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// beat says that the owner of the attempt is alive.
func (a *Attempt) beat() *Attempt {
	a.Lease++
	return a
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

// wait waits for a change, or so long, or gives the context's error.
func wait(ctx context.Context, changed <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sleep waits, or gives the context's error.
func sleep(ctx context.Context, d time.Duration) error { return wait(ctx, nil, d) }
