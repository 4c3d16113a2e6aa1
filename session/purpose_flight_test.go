// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// RF-02, TX-06, DESIGN 6.2: one refresh token, so one flight a session, over all
// purposes and instances; the refresh token is never presented twice.
func TestPurposesShareOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Latency: map[string]time.Duration{astest.Token: time.Second}})
		a.store.exclusive = false
		other := newInstance(t, a.as, a.store)
		br := browser{}
		a.login(br)
		purposes := []*session.Purpose{nil, orders, stock, ordersOnly}
		for range 5 {
			time.Sleep(time.Minute)
			a.as.ForgetRequests()
			began := time.Now()
			together(120, func(i int) {
				b := []*bench{a, other}[i%2]
				if _, err := b.tokenFor(br, purposes[i/2%4]); err != nil {
					t.Error(err)
				}
			})
			a.refreshes(4)
			if d := time.Since(began); d > 8*time.Second {
				t.Errorf("took %v", d)
			}
			var end time.Time
			for _, r := range a.as.RefreshRequests() {
				if r.Time.Before(end) {
					t.Error("two refreshes at a time")
				}
				end = r.Done
			}
		}
	})
}

// A refresh that the application asks for, to see new rights, is one for all.
func TestForcedRefreshIsForAllUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		forOrders := b.mustTokenFor(br, orders)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.mustTokenFor(br, orders) == forOrders {
			t.Error("the token with the old rights is still sent")
		}
	})
}

// The application asks for new rights while a refresh is under way, here or in another
// instance: that one may know nothing of them, so it is waited for, and one follows.
func TestForcedRefreshDuringAnother(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprint(elsewhere), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: 5 * time.Minute})
				b.store.exclusive = false
				runs := b
				if elsewhere {
					runs = newInstance(t, b.as, b.store)
				}
				br := browser{}
				s := b.login(br)
				time.Sleep(2 * time.Minute)
				forOrders := b.mustTokenFor(br, orders)
				time.Sleep(2*time.Minute + 50*time.Second) // the default one is due, that of orders is not
				b.as.Configure(func(o *astest.Options) { o.Latency = map[string]time.Duration{astest.Token: 2 * time.Second} })
				b.as.ForgetRequests()
				runs.mustToken(br)
				time.Sleep(time.Second)
				asked := time.Now()
				if _, err := s.ForceRefresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.refreshes(2)
				if all := b.as.RefreshRequests(); all[len(all)-1].Time.Before(asked) {
					t.Error("what was called before is taken for it")
				}
				if runs.mustTokenFor(br, orders) == forOrders {
					t.Error("the token with the old rights is still sent")
				}
			})
		})
	}
}

// One for all that ask at the same time, in several instances.
func TestForcedRefreshInSeveralInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, Latency: map[string]time.Duration{astest.Token: time.Second}})
		b.store.exclusive = false
		instances := []*bench{b, newInstance(t, b.as, b.store), newInstance(t, b.as, b.store)}
		br := browser{}
		b.login(br)
		together(3, func(i int) {
			s, err := instances[i].open(br)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.ForceRefresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
		b.refreshes(1)
	})
}

// RF-07: while a refresh of one upstream got no answer, nobody presents the refresh
// token without need; the upstream that cannot go on without does, once.
func TestLostAnswerForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		b.login(br)
		b.mustTokenFor(br, orders)
		time.Sleep(9*time.Minute + 30*time.Second) // both are due
		b.as.Script(astest.Token, astest.Answer{Cut: true})
		b.as.ForgetRequests()
		for range 10 {
			b.mustTokenFor(br, orders)
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		if n := len(b.as.RefreshRequests()); n != 1 {
			t.Errorf("%d refresh requests, want the lost one", n)
		}
		time.Sleep(20 * time.Second)
		b.mustTokenFor(br, orders)
		b.mustToken(br)
		b.refreshes(3)
	})
}

// RF-07: an answer was lost, and the server revokes everything for reuse: an upstream that
// has no token yet, or whose token is refused, does without, and leaves the others
// theirs, as long as these live or for five minutes.
func TestLostAnswerAndAnotherUpstream(t *testing.T) {
	lost := func(t *testing.T, b *bench, s *session.Session, br browser) {
		b.as.Script(astest.Token, astest.Answer{CutReply: true})
		var u *session.UnavailableError
		if _, err := s.ForceRefresh(t.Context()); !errors.As(err, &u) {
			t.Fatalf("got %v", err)
		}
	}
	ask := func(t *testing.T, b *bench, s *session.Session, br browser, refused string) error {
		b.as.ForgetRequests()
		var u *session.UnavailableError
		_, err := s.For(stock).Token(t.Context())
		if !errors.As(err, &u) || u.RetryAfter > 5*time.Minute {
			return err
		}
		if tok, err := s.For(orders).Refresh(t.Context(), refused); !errors.As(err, &u) {
			t.Errorf("for the one that is refused: %q, %v", tok, err)
		}
		b.mustToken(br)
		b.mustTokenFor(br, orders)
		b.refreshes(0)
		return nil
	}
	for name, tc := range map[string]struct{ life, held time.Duration }{
		"long":  {time.Hour, 5 * time.Minute},
		"short": {3 * time.Minute, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: tc.life}, patient)
				br := browser{}
				s := b.login(br)
				forOrders := b.mustTokenFor(br, orders)
				time.Sleep(time.Minute)
				lost(t, b, s, br)
				for began := time.Now(); time.Since(began) < tc.held; time.Sleep(time.Second) {
					if err := ask(t, b, s, br, forOrders); err != nil {
						t.Fatalf("after %v: %v", time.Since(began), err)
					}
				}
				if err := ask(t, b, s, br, forOrders); endOf(err) != session.ReasonRefreshToken {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// The store fails between the answer and the commit of one upstream's token: this
// process goes on with it, and the others wait with theirs.
func TestStoreFailsAtCommitForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		b.login(br)
		b.refuseCommits(true)
		tok := b.mustTokenFor(br, orders)
		if b.mustTokenFor(br, orders) != tok {
			t.Error("not the one that is kept")
		}
		b.mustToken(br)
		began := time.Now()
		if _, err := b.tokenFor(br, stock); !errors.Is(err, session.ErrStoreUnavailable) || time.Since(began) > 11*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		b.refreshes(1)
		b.refuseCommits(false)
		time.Sleep(3 * time.Second)
		b.mustTokenFor(br, stock)
		b.refreshes(2)
		if newInstance(t, b.as, b.store).mustTokenFor(br, orders) != tok {
			t.Error("not in the record")
		}
	})
}

// RF-14: logout during a refresh for one upstream is final, and revokes what it
// brings.
func TestLogoutDuringRefreshForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
		failed := make(chan error, 1)
		go func() { _, err := s.For(orders).Token(t.Context()); failed <- err }()
		time.Sleep(500 * time.Millisecond)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ended *session.EndedError
		if err := <-failed; !errors.As(err, &ended) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 2 {
			t.Errorf("%d revocations, want those of both refresh tokens", n)
		}
	})
}

// Whatever tokens for upstreams weigh, no session ends for it: what the record has no
// room for is kept in memory, and got once for each instance. F206.
func TestTokenForUpstreamIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pad := 0
		b := newBench(t, astest.Options{AccessTokenClaims: func(_, claims map[string]any) {
			claims["pad"] = strings.Repeat("x", pad)
		}})
		br := browser{}
		s := b.login(br)
		fat := &session.Purpose{Resource: []string{"https://fat.test"}}
		all := []*session.Purpose{orders, stock, fat, swapped}
		for i, p := range all {
			pad = []int{28 << 10, 28 << 10, 48 << 10, 28 << 10}[i]
			b.mustTokenFor(br, p)
			if n, want := s.Narrow(t.Context()), []int{1, 1, 0, 1}[i]; n != want {
				t.Errorf("%d tokens in the record, want %d", n, want)
			}
		}
		for range 10 {
			for _, p := range all {
				b.mustTokenFor(br, p)
			}
			b.mustToken(br)
			time.Sleep(time.Second)
		}
		b.refreshes(3)
		b.exchanges(1)
		other := newInstance(t, b.as, b.store)
		for range 10 {
			for _, instance := range []*bench{b, other} {
				for _, p := range all {
					instance.mustTokenFor(br, p)
				}
			}
		}
		b.refreshes(6)
		b.exchanges(1)
		if n := strings.Count(b.log.String(), "take more room"); n != 1 {
			t.Errorf("%d warnings", n)
		}
		// What was asked for to see new rights counts for what is in memory too, in
		// every instance.
		pad = 0
		old := map[string]bool{}
		for _, p := range all {
			old[b.mustTokenFor(br, p)], old[other.mustTokenFor(br, p)] = true, true
		}
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, instance := range []*bench{other, b} {
			for _, p := range all {
				if old[instance.mustTokenFor(br, p)] {
					t.Errorf("for %s: the token from before", p)
				}
			}
		}
		// Nothing of it is left in the memory of a session that nobody uses.
		time.Sleep(6 * time.Minute)
		if _, unsealed := b.backend.Remembered(); unsealed != 0 {
			t.Errorf("%d sessions unsealed", unsealed)
		}
	})
}

// More upstreams than a record has places for: each has its token, none is got anew at
// every request, in no instance.
func TestMoreUpstreamsThanPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		b.store.exclusive = false
		instances := []*bench{b, newInstance(t, b.as, b.store), newInstance(t, b.as, b.store)}
		br := browser{}
		b.login(br)
		var all []*session.Purpose
		for i := range 30 {
			all = append(all, &session.Purpose{Resource: []string{fmt.Sprintf("https://%d.test", i)}})
		}
		for range 20 {
			for _, instance := range instances {
				for _, p := range all {
					instance.mustTokenFor(br, p)
				}
			}
			time.Sleep(time.Second)
		}
		if n := b.as.Refreshes(); n < 30 || n > 3*30 {
			t.Errorf("%d refreshes for 30 upstreams and 3 instances", n)
		}
		b.refreshes(b.as.Refreshes())
	})
}

// F108: a logout while a token for one upstream is on its way: that very token is
// revoked as well.
func TestTokenThatComesAfterTheLogoutIsRevoked(t *testing.T) {
	for name, p := range map[string]*session.Purpose{"default": nil, "refresh": orders, "exchange": swapped} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
				br := browser{}
				s := b.login(br)
				old := b.mustToken(br)
				if p == nil {
					time.Sleep(time.Minute)
				}
				b.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
				failed := make(chan error, 1)
				go func() {
					_, err := s.For(p).Token(t.Context())
					failed <- err
				}()
				time.Sleep(500 * time.Millisecond)
				if _, err := s.Logout(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-failed; err == nil {
					t.Error("got a token after the logout")
				}
				time.Sleep(10 * time.Second)
				revoked := map[string]bool{}
				for _, r := range b.revoked("access_token") {
					revoked[r.Token] = true
				}
				delete(revoked, old)
				if len(revoked) != 1 {
					t.Errorf("%d tokens other than the old one were revoked", len(revoked))
				}
			})
		})
	}
}
