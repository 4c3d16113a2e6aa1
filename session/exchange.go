// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// exchange is one token exchange (RFC 8693) of one session for one purpose. It
// consumes no refresh token, so it needs no attempt in the record, and does not
// wait for the flight. Like that it belongs to nobody.
type exchange struct {
	m       *Manager
	s       *Session
	e       *entry
	to      aim
	trigger RefreshTrigger

	done chan struct{} // closed at the end; then err is final
	err  error
}

// startExchange gives the exchange under way for an aim, or begins one. gen is that
// of the token that it is to replace.
func (s *Session) startExchange(to aim, gen uint64, trigger RefreshTrigger) (*exchange, error) {
	e, now := s.lock(), time.Now()
	defer e.mu.Unlock()
	p := e.pursuit(to)
	if p.exchange != nil {
		return p.exchange, nil
	}
	if now.Before(p.retryAt) {
		return nil, pausing(p.failure, now, p.retryAt)
	}
	if err := s.m.gate(to).refusal(now, s.m.cfg.Observer); err != nil {
		return nil, err
	}
	if !s.m.cfg.Backend.takeoff() {
		return nil, fmt.Errorf("%w: it is closed", ErrStoreUnavailable)
	}
	x := &exchange{m: s.m, s: s.detached(e), e: e, to: to, trigger: trigger, done: make(chan struct{})}
	p.exchange = x
	go x.fly(gen)
	return x, nil
}

func (x *exchange) fly(gen uint64) {
	defer x.m.cfg.Backend.land()
	err := errors.New("token exchange panicked")
	defer func() {
		if p := recover(); p != nil {
			x.m.cfg.Logger.Error("token exchange panicked", "session", x.s.key.short(), "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = x.failed(err)
		}
		x.e.mu.Lock()
		x.e.pursuit(x.to).exchange = nil
		x.e.mu.Unlock()
		x.err = err
		close(x.done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), flightLimit)
	defer cancel()
	err = x.run(ctx, gen)
}

func (x *exchange) run(ctx context.Context, gen uint64) error {
	if o, err := x.s.current(ctx); err != nil || o.tokens.of(x.to).generation() > gen {
		return err // the end, or somebody else's is there
	}
	// Of this session alone: where that goes on as another, whoever waits asks there.
	subject, err := x.s.ownToken(ctx, x.m.aims.byDefault)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := x.call(ctx, subject)
	if subjectRefused(err) && x.mayReplaceSubject() {
		fresh, replaceErr := x.s.ownRefresh(ctx, x.m.aims.byDefault, subject)
		var unavailable *UnavailableError
		switch {
		case over(replaceErr):
			return replaceErr
		case errors.As(replaceErr, &unavailable), errors.Is(replaceErr, ErrStoreUnavailable):
			x.subjectStays() // nobody knows what was refused
			return x.e.postpone(x.to, time.Second, replaceErr)
		case replaceErr == nil && fresh != subject:
			subject, began = fresh, time.Now()
			answer, err = x.call(ctx, subject)
		}
	}
	if err != nil {
		return x.failed(err)
	}
	x.s.accepted(x.m.aims.byDefault, subject)
	return x.store(ctx, subject, began, answer)
}

func (x *exchange) call(ctx context.Context, subject string) (*oauth.TokenResponse, error) {
	pass, _, err := x.m.gate(x.to).enter(ctx, x.m.cfg.Observer)
	if err != nil {
		return nil, err
	}
	e := x.to.purpose.Exchange
	answer, err := x.m.cfg.Client.ExchangeToken(ctx, oauth.TokenExchangeRequest{
		SubjectToken: oauth.Secret(subject), Audience: e.Audience, Resource: e.Resource, Scope: e.Scope, RequestedTokenType: e.RequestedTokenType,
		DPoPKey: x.s.seen.Load().tokens.key,
	})
	if unusable(err) {
		pass.used(nil)
	} else {
		pass.used(err)
	}
	return answer, err
}

// unusable reports an answer to a token exchange that is of no use, of a server that
// works: it issued what nobody asked for. No refresh token is lost with it, and asking
// again will hardly bring anything else.
func unusable(err error) bool {
	return errors.Is(err, oauth.ErrUnusable) && oauth.ClassOf(err) == oauth.ClassOutage
}

// subjectRefused reports an answer that may mean the subject token (RFC 8693
// section 2.2.2 has invalid_request for it; many servers say invalid_grant).
func subjectRefused(err error) bool {
	var answer *oauth.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Code {
	case "invalid_request", "invalid_grant", "invalid_token":
		return true
	}
	return false
}

// mayReplaceSubject lets the default token be refreshed for an exchange that was
// refused, once until an exchange succeeds: what is refused may as well be the
// request.
func (x *exchange) mayReplaceSubject() bool {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	p := x.e.pursuit(x.to)
	may := !p.subjectReplaced
	p.subjectReplaced = true
	return may
}

func (x *exchange) subjectStays() {
	x.e.mu.Lock()
	defer x.e.mu.Unlock()
	x.e.pursuit(x.to).subjectReplaced = false
}

// failed notes an exchange that brought no token. It ends nothing and means this
// purpose alone.
func (x *exchange) failed(err error) error {
	var u *UnavailableError
	if errors.As(err, &u) {
		return err // of the gate
	}
	log := x.m.cfg.Logger.With("session", x.s.key.short(), "trigger", x.trigger, "for", x.to.purpose.String(), "class", oauth.ClassOf(err).String(), "error", err)
	if !out(err) || unusable(err) {
		log.Error("the authorization server does not exchange the token; no session ends for it")
		return x.e.failedFor(x.to, err)
	}
	log.Warn("token exchange failed")
	return x.e.outFor(x.to, err)
}

// store puts the token into the record, beside whatever is in it by then. The
// record's generation stays: it is that of the refresh token. If the store takes no
// changes, this process alone goes on with the token: nothing is lost with it.
func (x *exchange) store(ctx context.Context, subject string, began time.Time, answer *oauth.TokenResponse) error {
	r, err := x.m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	var stored, unstored *opened
	for without := 0; ; without++ {
		err = x.s.change(ctx, func(o *opened, next *Record) error {
			a := &accessToken{
				access: answer.AccessToken, purpose: x.to.id, accessExpiry: answer.Expiry, issued: began, scope: answer.Scope,
				prev: o.tokens.of(x.to).generation(), source: sha256.Sum256([]byte(subject)),
			}
			a.gen = max(a.prev+1, uint64(began.UnixNano()))
			x.m.compare(x.to, a, o.tokens)
			tokens, facts := o.tokens.with(x.to, a, time.Now()), *o.facts
			for range without {
				if less := tokens.fewer(); less != nil {
					tokens = less
				}
			}
			stored = &opened{rec: next, site: x.s.site, secret: x.s.ticket.secret, tokens: tokens, facts: &facts}
			unstored = &opened{rec: o.rec, site: o.site, secret: o.secret, tokens: tokens.unstored(), facts: o.facts}
			return x.s.site.sealInto(next, r, x.s.ticket.secret[:], tokens, &facts)
		})
		if !errors.Is(err, ErrTooLarge) || stored.tokens.fewer() == nil {
			break
		}
	}
	switch {
	case err == nil:
		x.goOn(stored)
	case over(err):
		if pointerIn(err) == nil { // else it goes on with other tokens
			x.m.revokeLater("", answer.AccessToken)
		}
		return err
	case unstored == nil:
		return err
	default:
		x.m.cfg.Logger.Warn("an exchanged token cannot be stored; this process keeps it", "session", x.s.key.short(), "error", err)
		x.goOn(unstored)
	}
	x.e.recoveredFor(x.to)
	x.m.overflow(stored.tokens)
	x.m.cfg.Logger.Debug("exchanged", "session", x.s.key.short(), "trigger", x.trigger, "for", x.to.purpose.String(), "duration", time.Since(began))
	return nil
}

// goOn makes this process go on with the token, also beside refreshed ones that the
// store has not taken yet, which come before what is in the record.
func (x *exchange) goOn(o *opened) {
	x.e.keep(o)
	if res := x.e.held.Load(); res != nil && res.rec().succeeds(o.rec) {
		with := *res.opened
		with.tokens = with.tokens.with(x.to, o.tokens.of(x.to), time.Now())
		x.e.held.CompareAndSwap(res, &result{opened: &with})
	}
}
