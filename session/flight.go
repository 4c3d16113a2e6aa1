// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// flightLimit bounds a refresh up to the answer of the authorization server; the
// call itself has the client's own, shorter limit.
const flightLimit = 90 * time.Second

// flight is one refresh of one session. It belongs to nobody: not to the
// request that started it, nor to the configuration.
type flight struct {
	m       *Manager
	s       *Session
	e       *entry
	to      aim
	gen     uint64 // of the token to be replaced
	trigger RefreshTrigger

	result     RefreshResult // empty: see ended
	called     time.Duration // how long the authorization server took; negative: it was not asked
	silent     bool          // why doubtful: no answer came, and not that its owner died
	late       bool          // flightLimit was over
	superseded bool          // somebody else's tokens were there when these were to be stored

	asks     atomic.Bool                             // the refresh token is being presented, or has been
	pass     *pass                                   // the permission to call; nil: not yet, or given back
	away     atomic.Pointer[context.CancelCauseFunc] // while it waits for that, and may give way
	doubtful bool                                    // the refresh token was presented, by whomever, and no answer came

	ready chan struct{} // closed when tokens are there that wait to be stored
	done  chan struct{} // closed at the end; then err is final
	err   error
}

func (f *flight) fly() {
	defer f.m.cfg.Backend.land()
	err := errors.New("refresh panicked")
	defer func() {
		if p := recover(); p != nil {
			f.m.cfg.Logger.Error("refresh panicked", "session", f.s.key.short(), "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err, f.result = f.failed(err), RefreshPanicked
		}
		f.e.mu.Lock()
		f.e.flight = nil
		f.e.mu.Unlock()
		f.m.cfg.Observer.RefreshEnded(f.trigger, f.ended(err), f.called)
		f.err = err
		close(f.done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	err = f.refresh(ctx)
	f.late = ctx.Err() != nil
}

// refresh is the protocol: intent, call, commit.
func (f *flight) refresh(ctx context.Context) error {
	defer func() {
		if f.pass != nil {
			f.pass.unused()
		}
	}()
	o, store, err := f.intend(ctx)
	if err != nil || o == nil {
		return err
	}
	defer f.beat(o)() // also while the tokens wait to be stored
	began := time.Now()
	f.e.presented = o.rec.Attempt.ID
	f.asks.Store(true)
	answer, err := f.call(ctx, o, store)
	f.called = time.Since(began)
	f.pass.used(err)
	f.pass = nil
	if err != nil {
		told := f.noTokens(ctx, o, err)
		if f.inQuestion(o, err) {
			return f.askByDefault(ctx, o, told)
		}
		return told
	}
	return f.land(o, began, answer)
}

// inQuestion reports an answer for one upstream that may have meant the refresh
// token: some servers say invalid_grant also of a resource that the user has not
// consented to, others say anything at all of a refresh token that is spent. The
// latter can wait until the default access token has run out.
func (f *flight) inQuestion(o *opened, err error) bool {
	if f.to.byDefault() || !ofPurpose(f.to, err) {
		return false
	}
	return grantRefused(err) && !f.e.granted(f.to) || !o.tokens.placed(f.m.aims.byDefault).worthKeeping(time.Now())
}

// askByDefault presents the refresh token once more, by an attempt of its own, for
// the default access token: only the answer to that says what has become of the
// refresh token. It gives the end of the session, or what was told of the upstream.
func (f *flight) askByDefault(ctx context.Context, o *opened, told error) error {
	if f.e.paused(time.Now()) {
		return told
	}
	to := f.m.aims.byDefault
	d := &flight{m: f.m, s: f.s, e: f.e, to: to, gen: o.tokens.placed(to).generation(), trigger: TriggerEarly, called: -1, ready: make(chan struct{})}
	if f.doubtful {
		d.trigger = f.trigger // what there was to lose has been risked
	}
	err := d.refresh(ctx)
	f.m.cfg.Observer.RefreshEnded(d.trigger, d.ended(err), d.called)
	switch {
	case over(err):
		return err
	case err == nil:
		f.e.grant(f.to)
	}
	return told
}

// call presents the refresh token once, and a second time only where the first
// got no answer and that can do no harm: the policy allows it, or the access
// token has run out and nothing is left to lose.
func (f *flight) call(ctx context.Context, o *opened, store *openedStore) (*oauth.TokenResponse, error) {
	request := oauth.RefreshRequest{RefreshToken: o.tokens.refresh, DPoPKey: o.tokens.key}
	if !f.to.byDefault() {
		request.Scope, request.Resource = f.to.purpose.Scope, f.to.purpose.Resource
	}
	f.doubtful = o.rec.Attempt.Takeover
	answer, err := f.present(ctx, o, request)
	if err == nil || oauth.ClassOf(err) != oauth.ClassAmbiguous {
		return answer, err
	}
	first := !f.doubtful
	if first {
		f.silent = true
	}
	f.doubtful = true
	if !first || !f.harmless(o) && !f.nothingToLose(o) {
		return nil, err
	}
	asked := time.Now()
	markErr := f.changeAttempt(ctx, o, func(a *Attempt) *Attempt { a.Takeover = true; return a })
	if markErr == nil {
		markErr = f.confirm(ctx, o, store, asked)
	}
	if markErr != nil {
		return nil, err
	}
	f.m.cfg.Logger.Warn("the answer to a refresh was lost; asking once more", "session", f.s.key.short())
	return f.present(ctx, o, request)
}

// present presents the refresh token. Where that may be done again, it does not
// wait for the answer as long as the client would: the grace must not run out
// over one that was lost.
func (f *flight) present(ctx context.Context, o *opened, request oauth.RefreshRequest) (*oauth.TokenResponse, error) {
	grace, known := f.m.cfg.RotationGrace, time.Since(f.e.presentation(o.rec))
	limit := max(grace/3, 2*f.m.cfg.Client.TokenLatency())
	if f.m.cfg.Rotation == RotationGrace && known+limit < grace {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return f.m.cfg.Client.Refresh(ctx, request)
}

// errUnanswered: the refresh token may be spent, so it is not presented again
// before there is nothing left to lose.
var errUnanswered = errors.New("a refresh got no answer")

// replaced reports that there is a newer token for the aim than the one that the
// flight is to replace; for a refresh on request, that somebody else's has been there.
func (f *flight) replaced(t *tokens) bool {
	if f.trigger == TriggerRequest {
		return t.floor > f.gen
	}
	current := t.of(f.to)
	return current != nil && current.gen > f.gen
}

// nothingToLose reports that the access token serves no more: it has run out, or
// the resource server refused it. Until then presenting a refresh token that may
// be spent could cost what is left of it (RFC 9700 section 4.14.2). One upstream
// that is without leaves the others what they have, but not for longer than maxHold:
// where theirs live for a day, or nobody uses them, it may as well be all.
func (f *flight) nothingToLose(o *opened) bool {
	now, end := time.Now(), o.tokens.placed(f.to).expiry()
	without := f.trigger == TriggerChallenge || f.trigger == TriggerExpiry || !end.IsZero() && !now.Before(end)
	return without && (f.forAll(o) || !now.Before(f.held(o)))
}

// forAll reports that the flight is for the default token that there is: if not for
// one upstream's, nor for that of a configuration that has had none yet.
func (f *flight) forAll(o *opened) bool { return f.to.byDefault() && o.tokens.of(f.to) != nil }

// held is until when a refresh token that may be spent is not presented for the sake of
// the access tokens that there are; zero: until one is refused.
func (f *flight) held(o *opened) time.Time {
	if f.forAll(o) {
		return o.tokens.placed(f.to).expiry()
	}
	end, limit := o.tokens.othersEnd(f.to), f.e.presentation(o.rec).Add(maxHold)
	if limit.Before(end) {
		return limit
	}
	return end
}

// harmless reports that by its policy the authorization server takes the refresh
// token once more, if it was presented before. How old somebody else's attempt is
// nobody can tell who sees it for the first time: then the grace counts from now.
// If it is over, asking ends a session that could not have been refreshed either;
// if it is not, not asking would have lost it.
func (f *flight) harmless(o *opened) bool {
	switch f.m.cfg.Rotation {
	case RotationNone:
		return true
	case RotationGrace:
		return time.Since(f.e.presentation(o.rec)) < f.m.cfg.RotationGrace
	}
	return false
}

// noTokens decides what an error of the call means for the session.
func (f *flight) noTokens(ctx context.Context, o *opened, err error) error {
	class := oauth.ClassOf(err)
	log := f.m.cfg.Logger.With("session", f.s.key.short(), "trigger", f.trigger, "for", f.to.purpose.String(), "class", class.String(), "error", err)
	told, narrowly := error(nil), ofPurpose(f.to, err)
	f.result = resultOf[class]
	if narrowly {
		f.result = RefreshPurpose
	}
	if narrowly || class != oauth.ClassSessionOver {
		told = f.failed(err)
	}
	end := o.tokens.placed(f.to).expiry()
	expired := end.IsZero() || !time.Now().Before(end)
	if !narrowly && (class == oauth.ClassSessionOver || class == oauth.ClassRefused && expired && f.e.hopeless(f.m.lastServed())) {
		// Somebody may have replaced the tokens meanwhile; that counts.
		switch moved, endErr := f.s.endGeneration(ctx, ReasonRefreshToken, o.rec.Gen); {
		case endErr != nil:
			f.result = "" // as it is with any other error of the store
			return endErr
		case moved:
			f.result = RefreshSuperseded
			return nil
		}
		f.result = f.lost()
		log.Info("the refresh token is no longer valid")
		return &EndedError{Reason: ReasonRefreshToken}
	}
	switch {
	case f.inQuestion(o, err):
		log.Warn("the authorization server gives no token for this upstream; the default access token will tell whether the session is over")
	case narrowly:
		log.Error("the authorization server gives no token for this upstream; no session ends for it")
	case class == oauth.ClassConfiguration:
		log.Error("the authorization server refuses this client; no session ends for it")
	default:
		log.Warn("refresh failed")
	}
	over := func(*Attempt) *Attempt { return nil }
	if f.doubtful {
		// Whatever this answer was: one to an earlier presentation did not come.
		over = func(a *Attempt) *Attempt { a.Unanswered = true; return a }
		if !f.harmless(o) && !f.nothingToLose(o) {
			told = f.e.hold(f.held(o), told)
		}
	}
	if clearErr := f.changeAttempt(ctx, o, over); clearErr != nil && !errors.Is(clearErr, errNotOurs) {
		return clearErr
	}
	return told
}

// lastServed is when the token endpoint last did for any session what it should.
func (m *Manager) lastServed() time.Time { return time.Unix(0, m.served.Load()) }
