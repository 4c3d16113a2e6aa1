// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// refreshWait is how long a request waits for a refresh. The refresh itself
	// goes on without it.
	refreshWait = 10 * time.Second
	// askInterval is how seldom the application may ask for a refresh.
	askInterval = 10 * time.Second
	// forceInterval is the pause after two generations of tokens in a row were
	// refused by a resource server.
	forceInterval = 30 * time.Second
	maxStreak     = 2
	// refusedInterval is the pause after an answer of oauth.ClassRefused.
	refusedInterval = 30 * time.Second
	// configurationRetry is the pause after the authorization server refused
	// this client, which somebody has to mend.
	configurationRetry = 5 * time.Second
	// outageRetry grows with each failure up to maxOutageRetry.
	outageRetry    = 250 * time.Millisecond
	maxOutageRetry = 5 * time.Second
	// maxHold is how long a session is left in peace after an answer was lost
	// where nobody knows when its access token runs out.
	maxHold = 5 * time.Minute
)

// Refresh gives an access token other than the one that a resource server
// refused. For any number of callers that name the same token there is one
// refresh; who names one that is not current any more gets the current one.
// When two generations in a row were refused, it pauses and fails with
// [ErrTokenUnavailable].
func (s *Session) Refresh(ctx context.Context, refused string) (string, error) {
	return s.refresh(ctx, s.m.aims.byDefault, refused)
}

func (s *Session) refresh(ctx context.Context, to aim, refused string) (string, error) {
	token, err := s.ownRefresh(ctx, to, refused)
	if err == nil {
		return token, nil
	}
	next, err := s.moved(ctx, err)
	if next == nil {
		return "", err
	}
	token, err = next.refresh(ctx, to, refused)
	return s.follow(next, token, err)
}

// ownRefresh is refresh, and knows of no session that this one goes on as.
func (s *Session) ownRefresh(ctx context.Context, to aim, refused string) (string, error) {
	o, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	t := o.tokens.of(to)
	if t == nil || t.access.Reveal() != refused {
		return s.ownToken(ctx, to)
	}
	if o.tokens.refresh == "" && !to.exchanged() {
		return "", ErrTokenUnavailable
	}
	may, counted := s.entry().mayForce(to, t, time.Now())
	if counted {
		s.m.refused(o, to, t, time.Now())
	}
	if !may {
		s.m.cfg.Observer.LimitReached(LimitForcedRefreshes)
		return "", ErrTokenUnavailable
	}
	if err := s.await(ctx, time.Now().Add(refreshWait), to, t.gen, TriggerChallenge); err != nil {
		return "", err
	}
	return s.ownToken(ctx, to)
}

// Accepted says that a resource server did not refuse a token. If it is one that
// followed a refused one, the streak is over. It costs next to nothing else.
func (s *Session) Accepted(token string) { s.accepted(s.m.aims.byDefault, token) }

func (s *Session) accepted(to aim, token string) {
	e := s.entry()
	if !e.forced.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	o, p := e.opened.Load(), e.pursuits[to.id]
	if o == nil || p == nil {
		return
	}
	if t := o.tokens.of(to); t != nil && t.gen > p.forcedGen && t.access.Reveal() == token {
		e.endStreak(p)
	}
}

// Refreshed is what a refresh on request brought.
type Refreshed struct {
	AccessTokenExpiry time.Time // zero: unknown
	ClaimsChanged     bool
}

// ForceRefresh refreshes because the application asks for it, to see new claims
// say: at most once in ten seconds, else [*RateLimitedError].
func (s *Session) ForceRefresh(ctx context.Context) (*Refreshed, error) {
	refreshed, err := s.forceRefresh(ctx)
	if err == nil {
		return refreshed, nil
	}
	next, err := s.moved(ctx, err)
	if next == nil {
		return nil, err
	}
	return next.ForceRefresh(ctx)
}

func (s *Session) forceRefresh(ctx context.Context) (*Refreshed, error) {
	before, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	if before.tokens.refresh == "" {
		return nil, ErrTokenUnavailable
	}
	e, now := s.entry(), time.Now()
	e.mu.Lock()
	wait := e.askedNext.Sub(now)
	if wait <= 0 {
		e.askedNext = now.Add(askInterval)
	}
	e.mu.Unlock()
	if wait > 0 {
		s.m.cfg.Observer.LimitReached(LimitRefreshRequests)
		return nil, &RateLimitedError{RetryAfter: max(wait, time.Second)}
	}
	if err := s.await(ctx, time.Now().Add(refreshWait), s.m.aims.byDefault, before.tokens.placed(s.m.aims.byDefault).generation(), TriggerRequest); err != nil {
		return nil, err
	}
	if err := s.renewClaims(ctx); err != nil {
		return nil, err
	}
	after, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return &Refreshed{
		AccessTokenExpiry: after.tokens.placed(s.m.aims.byDefault).expiry(),
		ClaimsChanged:     !sameClaims(before.tokens.claims, after.tokens.claims),
	}, nil
}

// renewInBackground starts to get a new token unless that is under way or pausing.
func (s *Session) renewInBackground(to aim, gen uint64) {
	if to.exchanged() {
		s.startExchange(to, gen, TriggerEarly) //nolint:errcheck // nobody waits
		return
	}
	s.start(to, gen, TriggerEarly) //nolint:errcheck // nobody waits
}

// await waits until the token of generation gen for an aim has been replaced, at
// most until a moment. A refresh for another aim that is under way is waited for
// first, as there is one refresh token: then this one has its own, with the new one.
func (s *Session) await(ctx context.Context, until time.Time, to aim, gen uint64, trigger RefreshTrigger) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	var leave func()
	for {
		w, err := s.renewal(to, gen, trigger)
		if err != nil {
			return err
		}
		if leave == nil { // not sooner: it goes on without those whom there is no room for
			if leave, err = s.attend(); err != nil {
				return err
			}
			defer leave()
		}
		select {
		case <-w.done:
			err := w.err()
			if !w.others || over(err) {
				return err
			}
		case <-w.ready:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			if s.entry().held.Load() != nil {
				return fmt.Errorf("%w: refreshed tokens wait to be stored", ErrStoreUnavailable)
			}
			return &UnavailableError{RetryAfter: time.Second, Err: errors.New("the refresh takes too long")}
		}
	}
}

// waiting is what there is to wait for.
type waiting struct {
	done, ready <-chan struct{}
	err         func() error // once done
	others      bool         // it is a refresh for another aim, or does not do what this one is to do
}

// renewal starts to get a token, or finds that under way.
func (s *Session) renewal(to aim, gen uint64, trigger RefreshTrigger) (waiting, error) {
	if to.exchanged() {
		x, err := s.startExchange(to, gen, trigger)
		if err != nil {
			return waiting{}, err
		}
		return waiting{done: x.done, err: func() error { return x.err }}, nil
	}
	f, err := s.start(to, gen, trigger)
	if err != nil {
		return waiting{}, err
	}
	w := waiting{done: f.done, ready: f.ready, err: func() error { return f.err }}
	// One that began before the application asked may bring what it wants to be rid of.
	w.others = f.to.id != to.id || trigger == TriggerRequest && f.trigger != TriggerRequest
	if w.others || gen > f.gen {
		w.ready = nil // what is ready there is what is not good enough here
	}
	return w, nil
}

// lock gives the entry of the session, locked: the one that counts now.
func (s *Session) lock() *entry {
	e := s.entry()
	e.mu.Lock()
	for e.gone {
		e.mu.Unlock()
		e = s.newEntry()
		e.mu.Lock()
	}
	return e
}

// start gives the session's flight: the one under way, or a new one. There is
// one refresh token, so there is one flight.
func (s *Session) start(to aim, gen uint64, trigger RefreshTrigger) (*flight, error) {
	e, now := s.lock(), time.Now()
	defer e.mu.Unlock()
	if p := e.pursuits[to.id]; p != nil && (e.flight == nil || e.flight.to.id != to.id) && now.Before(p.retryAt) {
		return nil, pausing(p.failure, now, p.retryAt)
	}
	if e.flight != nil {
		if e.flight.to.id != to.id && trigger != TriggerEarly {
			e.flight.giveWay()
		}
		return e.flight, nil
	}
	if now.Before(e.retryAt) {
		return nil, pausing(e.failure, now, e.retryAt)
	}
	if now.Before(e.heldUntil) && (trigger == TriggerEarly || trigger == TriggerRequest) {
		return nil, pausing(e.failure, now, e.heldUntil)
	}
	if err := s.m.gate(to).refusal(now, s.m.cfg.Observer); err != nil {
		return nil, err
	}
	if !s.m.cfg.Backend.takeoff() {
		return nil, fmt.Errorf("%w: it is closed", ErrStoreUnavailable)
	}
	f := &flight{m: s.m, s: s.detached(e), e: e, to: to, gen: gen, trigger: trigger, called: -1, ready: make(chan struct{}), done: make(chan struct{})}
	e.flight = f
	go f.fly()
	return f, nil
}

// detached is the handle that a flight works with: of this session, not of the
// request.
func (s *Session) detached(e *entry) *Session {
	d := &Session{m: s.m, site: s.site, ticket: s.ticket, key: s.key, own: true}
	d.e.Store(e)
	d.seen.Store(s.seen.Load())
	return d
}
