// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
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

// Triggers of a refresh, for logs.
const (
	triggerEarly     = "early"
	triggerExpiry    = "expiry"
	triggerChallenge = "challenge"
	triggerRequest   = "request"
)

// Refresh gives an access token other than the one that a resource server
// refused. For any number of callers that name the same token there is one
// refresh; who names one that is not current any more gets the current one.
// When two generations in a row were refused, it pauses and fails with
// [ErrTokenUnavailable].
func (s *Session) Refresh(ctx context.Context, refused string) (string, error) {
	o, err := s.current(ctx)
	if err != nil {
		return "", err
	}
	if o.tokens.access.Reveal() != refused {
		return s.Token(ctx)
	}
	if o.tokens.refresh == "" || !s.entry().mayForce(o.rec.Gen, time.Now()) {
		return "", ErrTokenUnavailable
	}
	if err := s.await(ctx, o.rec.Gen, triggerChallenge); err != nil {
		return "", err
	}
	return s.Token(ctx)
}

// Accepted says that a resource server did not refuse a token. If it is one that
// followed a refused one, the streak is over. It costs next to nothing else.
func (s *Session) Accepted(token string) {
	e := s.entry()
	if !e.forced.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if o := e.opened.Load(); o != nil && o.rec.Gen > e.forcedGen && o.tokens.access.Reveal() == token {
		e.endStreak()
	}
}

// mayForce counts forced refreshes by generation, not by caller.
func (e *entry) mayForce(gen uint64, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil || gen == e.forcedGen {
		return true // joins what is under way, or what was allowed already
	}
	if now.Before(e.forcedNext) {
		return false
	}
	streak := 1
	if e.forcedGen != 0 && gen == e.forcedGen+1 {
		streak = e.streak + 1
	}
	if streak > maxStreak {
		e.endStreak()
		e.forcedNext = now.Add(forceInterval)
		return false
	}
	e.streak, e.forcedGen = streak, gen
	e.forced.Store(true)
	return true
}

// Refreshed is what a refresh on request brought.
type Refreshed struct {
	AccessTokenExpiry time.Time // zero: unknown
	ClaimsChanged     bool
}

// ForceRefresh refreshes because the application asks for it, to see new claims
// say: at most once in ten seconds, else [*RateLimitedError].
func (s *Session) ForceRefresh(ctx context.Context) (*Refreshed, error) {
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
		return nil, &RateLimitedError{RetryAfter: max(wait, time.Second)}
	}
	if err := s.await(ctx, before.rec.Gen, triggerRequest); err != nil {
		return nil, err
	}
	after, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	return &Refreshed{
		AccessTokenExpiry: after.tokens.expiry(),
		ClaimsChanged:     !sameClaims(before.tokens.claims, after.tokens.claims),
	}, nil
}

// refreshInBackground starts a refresh unless one is under way or pausing.
func (s *Session) refreshInBackground(gen uint64) { s.start(gen, triggerEarly) } //nolint:errcheck // nobody waits

// await waits until the tokens of generation gen have been replaced.
func (s *Session) await(ctx context.Context, gen uint64, trigger string) error {
	f, err := s.start(gen, trigger)
	if err != nil {
		return err
	}
	ready := f.ready
	if gen > f.gen {
		ready = nil // what is ready there is what is not good enough here
	}
	timer := time.NewTimer(refreshWait)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err
	case <-ready:
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

// start gives the session's flight: the one under way, or a new one. There is
// one refresh token, so there is one flight.
func (s *Session) start(gen uint64, trigger string) (*flight, error) {
	e, now := s.entry(), time.Now()
	e.mu.Lock()
	for e.gone {
		e.mu.Unlock()
		e = s.newEntry()
		e.mu.Lock()
	}
	defer e.mu.Unlock()
	if e.flight != nil {
		return e.flight, nil
	}
	if now.Before(e.retryAt) {
		return nil, e.pausing(now, e.retryAt)
	}
	if now.Before(e.heldUntil) && (trigger == triggerEarly || trigger == triggerRequest) {
		return nil, e.pausing(now, e.heldUntil)
	}
	if err := s.m.gate.refusal(now); err != nil {
		return nil, err
	}
	if !s.m.cfg.Backend.takeoff() {
		return nil, fmt.Errorf("%w: it is closed", ErrStoreUnavailable)
	}
	f := &flight{m: s.m, s: s.detached(e), e: e, gen: gen, trigger: trigger, ready: make(chan struct{}), done: make(chan struct{})}
	e.flight = f
	go f.fly()
	return f, nil
}

// detached is the handle that a flight works with: of this session, not of the
// request.
func (s *Session) detached(e *entry) *Session {
	d := &Session{m: s.m, site: s.site, ticket: s.ticket, key: s.key}
	d.e.Store(e)
	d.seen.Store(s.seen.Load())
	return d
}

// pausing is what a caller is told while no refresh is tried.
func (e *entry) pausing(now, until time.Time) error {
	var u *UnavailableError
	if errors.As(e.failure, &u) {
		return &UnavailableError{RetryAfter: max(until.Sub(now), time.Second), Err: u.Err}
	}
	return e.failure
}

// postpone makes the session pause, unless it pauses longer already.
func (e *entry) postpone(pause time.Duration, why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if until := time.Now().Add(pause); until.After(e.retryAt) {
		e.retryAt, e.failure = until, why
	}
}

// hold leaves the session in peace until its access token has run out: a zero
// end says that nobody knows when, and only a refusal will tell. Requests that
// cannot go on with the token are not held up.
func (e *entry) hold(end time.Time, why error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if end.IsZero() {
		end = now.Add(maxHold)
	}
	e.heldUntil = end
	var u *UnavailableError
	if !errors.As(why, &u) {
		why = &UnavailableError{RetryAfter: time.Second, Err: why}
	}
	e.failure = why
	return e.pausing(now, end)
}

// recovered forgets the failures.
func (e *entry) recovered() {
	e.mu.Lock()
	e.retryAt, e.heldUntil, e.failure, e.failures, e.refused = time.Time{}, time.Time{}, nil, 0, 0
	e.mu.Unlock()
}

// failed notes an answer that was none and gives what callers are told.
func (e *entry) failed(err error) error {
	class := oauth.ClassOf(err)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.failures++
	switch class {
	case oauth.ClassConfiguration:
		e.retryAt, e.failure = now.Add(configurationRetry), fmt.Errorf("%w: %w", ErrTokenUnavailable, err)
	case oauth.ClassRefused:
		if e.refused == 0 {
			e.refusedAt = now
		}
		e.refused++
		e.retryAt, e.failure = now.Add(refusedInterval), fmt.Errorf("%w: %w", ErrTokenUnavailable, err)
	default:
		pause := min(maxOutageRetry, outageRetry<<min(e.failures-1, 10))
		pause = pause/2 + time.Duration(spread(e.key, uint64(e.failures))*float64(pause/2))
		var answer *oauth.Error
		if errors.As(err, &answer) && answer.RetryAfter > pause {
			pause = answer.RetryAfter
		}
		e.retryAt, e.failure = now.Add(pause), &UnavailableError{RetryAfter: max(pause, time.Second), Err: err}
	}
	return e.failure
}

// hopeless reports that answers of oauth.ClassRefused mean the session, not the
// server: twice, half a minute apart, while the server does serve others; or
// three times, where there are no others to compare with. Some servers say
// "invalid_request", or nothing at all, of a refresh token that is spent.
func (e *entry) hopeless(othersServed time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused >= 3 || e.refused == 2 && !othersServed.Before(e.refusedAt)
}
