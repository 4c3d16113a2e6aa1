// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// sess is one session, as its browser knows it.
type sess struct {
	w       *world
	user    string
	fam     *family
	key     session.Key
	cookies []*http.Cookie
	born    time.Time

	mu      sync.Mutex
	asked   time.Time // when logout was first asked for; zero: never
	outside time.Time // when it was ended from outside; zero: never
	done    time.Time // when a logout was first told to have worked, or to have been done; zero: never
	gone    bool      // the browser was told that it is over
}

// leaving says that the user tried to sign out and was not told that it worked:
// who wants that tries again.
func (s *sess) leaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.asked.IsZero() && s.done.IsZero()
}

// over says that the browser has no use for the session any more.
func (s *sess) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone || !s.done.IsZero()
}

// user is a person with one browser: signs in, clicks, signs out, signs in
// again.
func (w *world) user(n int) {
	d := w.dice(fmt.Sprintf("user %d", n))
	var requests sync.WaitGroup
	defer requests.Wait()
	var s *sess
	home := d.pick(len(w.slots)) // the load balancer's first choice
	time.Sleep(d.between(0, 5*time.Second))
	for {
		d.mu.Lock()
		pause := time.Duration(d.r.ExpFloat64() * float64(w.plan.think))
		d.mu.Unlock()
		time.Sleep(min(pause, time.Minute) + time.Millisecond)
		select {
		case <-w.over:
			return
		default:
		}
		if s == nil || s.over() {
			s = w.login(fmt.Sprintf("user-%d", n), w.process(home), d)
			continue
		}
		count, slot := 1, home
		if d.chance(0.1) {
			count = 2 + d.pick(8) // a page with many parts
		}
		if d.chance(0.5) {
			slot = d.pick(len(w.slots))
		}
		wait := d.chance(0.7)
		var page sync.WaitGroup
		for range count {
			kind := requestToken
			switch {
			case s.leaving(), !w.calm() && d.chance(w.plan.logouts):
				kind = requestLogout
			case d.chance(0.01):
				kind = requestForced
			}
			hangsUp := time.Duration(0)
			if d.chance(0.05) {
				hangsUp = d.between(time.Millisecond, 3*time.Second)
			}
			if w.plan.profile == profileStorm && !w.calm() && d.chance(0.005) {
				w.server.revokeAccess(s.fam)
			}
			if count > 1 && d.chance(0.3) {
				slot = d.pick(len(w.slots))
			}
			p, s := w.process(slot), s
			if p == nil {
				continue
			}
			page.Add(1)
			requests.Go(func() {
				defer page.Done()
				w.request(s, p, kind, hangsUp)
			})
		}
		if wait {
			page.Wait()
		}
		if w.plan.logouts > 0 && !w.calm() && d.chance(w.plan.logouts/4) {
			w.endFromOutside(s)
		}
	}
}

// login signs a user in; nil when that failed.
func (w *world) login(user string, p *process, d *dice) *sess {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start, err := p.manager.StartLogin(ctx, p.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/"})
	if err != nil {
		w.note(p, session.Key{}, "login of %s: %v", user, err)
		return nil
	}
	params := w.server.authorize(start.AuthorizationURL, user)
	time.Sleep(d.between(time.Millisecond, 100*time.Millisecond))
	r := cookieRequest(start.Cookies)
	res, err := p.manager.FinishLogin(ctx, p.site, session.Callback{RedirectURI: callback, Params: params, Request: r})
	if err != nil || p.gate(ctx) != nil {
		w.note(p, session.Key{}, "login of %s: %v", user, err)
		return nil
	}
	key, err := session.ParseKey(res.Session.ID())
	if err != nil {
		panic(err)
	}
	s := &sess{w: w, user: user, key: key, born: time.Now()}
	for _, c := range res.Cookies {
		if c.MaxAge >= 0 {
			s.cookies = append(s.cookies, c)
		}
	}
	w.server.mu.Lock()
	s.fam = w.server.codes[params.Get("code")].fam
	s.fam.sess = s
	w.server.mu.Unlock()
	w.mu.Lock()
	w.sessions = append(w.sessions, s)
	w.mu.Unlock()
	w.note(p, key, "%s signed in", user)
	return s
}

func cookieRequest(cookies []*http.Cookie) *http.Request {
	r := httptest.NewRequest(http.MethodGet, origin+"/", http.NoBody)
	for _, c := range cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	return r
}

// request sends one request and waits for its answer, unless the browser hangs
// up before.
func (w *world) request(s *sess, p *process, kind requestKind, hangsUp time.Duration) {
	p.requests.Add(1)
	defer p.requests.Done()
	r := w.history.asked(&request{sess: s, proc: p, kind: kind, began: time.Now()})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if kind == requestLogout {
		s.mu.Lock()
		if s.asked.IsZero() {
			s.asked = r.began
		}
		s.mu.Unlock()
	}
	w.note(p, s.key, "%s", kind)
	answers := make(chan error, 1)
	go func() {
		err := p.serve(ctx, s, kind, r.began)
		if p.gate(context.Background()) == nil { // a process that does not run answers nobody
			answers <- err
		}
	}()
	var hungUp <-chan time.Time
	if hangsUp > 0 {
		timer := time.NewTimer(hangsUp)
		defer timer.Stop()
		hungUp = timer.C
	}
	var err error
	out := outcomeReset
	select {
	case err = <-answers:
		out = outcomeOf(err)
	case <-p.dead:
	case <-hungUp:
		out = outcomeHungUp
	}
	reason := session.ReasonNone
	if e, ok := errors.AsType[*session.EndedError](err); ok {
		reason = e.Reason
	}
	w.history.answered(r, out, reason, err)
	w.note(p, s.key, "%s: %s %v", kind, out, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case kind == requestLogout && s.done.IsZero() && (out == outcomeOK || reason == session.ReasonLoggedOut):
		s.done = r.end
	case out == outcomeEnded, out == outcomeNone:
		s.gone = true
	}
}

func outcomeOf(err error) outcome {
	var u *session.UnavailableError
	var limited *session.RateLimitedError
	var ended *session.EndedError
	switch {
	case err == nil:
		return outcomeOK
	case errors.As(err, &ended):
		return outcomeEnded
	case errors.Is(err, session.ErrNoSession):
		return outcomeNone
	case errors.As(err, &u), errors.Is(err, session.ErrStoreUnavailable), errors.Is(err, session.ErrTokenUnavailable):
		return outcomeUnavailable
	case errors.As(err, &limited):
		return outcomeLimited
	}
	return outcomeUnexpected
}

// serve is what a gateway does with a request.
func (p *process) serve(ctx context.Context, s *sess, kind requestKind, began time.Time) error {
	h, err := p.manager.Open(ctx, p.site, cookieRequest(s.cookies))
	if err != nil {
		return err
	}
	switch kind {
	case requestLogout:
		_, err := h.Logout(ctx)
		return err
	case requestForced:
		_, err := h.ForceRefresh(ctx)
		return err
	}
	h.Touch(ctx)
	token, err := h.Token(ctx)
	if err != nil {
		return err
	}
	if p.relay(s, token, began) {
		h.Accepted(token)
		return nil
	}
	// The resource server answered 401: once more, with another token.
	again, err := h.Refresh(ctx, token)
	if err != nil {
		return err
	}
	p.relay(s, again, began)
	return nil
}

func (p *process) relay(s *sess, token string, began time.Time) bool {
	p.w.history.relayed(&relay{at: time.Now(), began: began, sess: s, proc: p, token: token})
	return p.w.server.relayed(token)
}

// logout is a logout at any moment.
func (w *world) logout(s *sess, p *process) {
	if p != nil {
		w.request(s, p, requestLogout, 0)
	}
}

// endFromOutside ends a session as back-channel logout does: without its
// cookie, by a tombstone in its place.
func (w *world) endFromOutside(s *sess) {
	s.mu.Lock()
	if s.outside.IsZero() {
		s.outside = time.Now()
	}
	s.mu.Unlock()
	for {
		old, err := w.store.load(s.key)
		if err != nil || old.Ended != "" {
			return
		}
		next := old.Next()
		next.Ended, next.Attempt, next.Index = session.ReasonRevoked, nil, nil
		if w.store.replace(nil, old, next) == nil {
			return
		}
	}
}
