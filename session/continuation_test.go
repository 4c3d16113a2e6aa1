// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/filestore"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
)

// gold is what resource servers ask for here.
func gold() *session.StepUp { return &session.StepUp{ACRValues: []string{"gold"}} }

// levels are options of an authorization server that knows of gold.
func levels() astest.Options {
	return astest.Options{ACRs: []string{"pwd", "gold"}, AccessTokenLifetime: time.Hour}
}

// beginStepUp starts a step-up of the browser's session, and gives the callback.
func (b *bench) beginStepUp(br browser, u *session.StepUp) url.Values {
	b.t.Helper()
	s, err := b.open(br)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.begin(br, func(r *session.LoginRequest) { r.Previous, r.StepUp = s, u })
}

// stepUp goes through a step-up.
func (b *bench) stepUp(br browser, u *session.StepUp) *session.Session {
	b.t.Helper()
	res, err := b.finish(br, b.beginStepUp(br, u))
	if err != nil {
		b.t.Fatal(err)
	}
	return res.Session
}

// SU-03, CK-10, A310: the session goes on under another identifier; for ten seconds,
// and not longer, the old cookie leads to it, on every instance and in every handle
// that is there already.
func TestContinuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, levels())
		br := browser{}
		first := a.login(br)
		old := maps.Clone(br)
		oldToken, elsewhere := a.mustToken(old), b.mustToken(old)
		inFlight, err := b.open(old)
		if err != nil || oldToken != elsewhere {
			t.Fatal(err)
		}
		next := a.stepUp(br, gold())
		if next.ID() == first.ID() || br["__Host-Http-bff"].Value == old["__Host-Http-bff"].Value {
			t.Fatal("the identifier is the same")
		}
		token := a.mustToken(br)
		if token == oldToken {
			t.Fatal("the token is the same")
		}
		led := func(want bool) {
			t.Helper()
			for _, instance := range []*bench{a, b} {
				s, err := instance.open(old)
				if want && (err != nil || s.ID() != next.ID()) || !want && !errors.As(err, new(*session.EndedError)) {
					t.Errorf("after the step-up: %v", err)
				}
			}
			// Opened before: whatever a request does, it does it to what goes on.
			got, err := inFlight.Token(t.Context())
			if want != (err == nil && got == token) {
				t.Errorf("a request in flight: %q %v", got, err)
			}
			got, err = inFlight.Refresh(t.Context(), oldToken)
			if want != (err == nil && got == token) {
				t.Errorf("a request in flight whose token was refused: %q %v", got, err)
			}
			if err := inFlight.Extend(t.Context()); want != (err == nil) {
				t.Errorf("extending: %v", err)
			}
		}
		led(true)
		time.Sleep(9900 * time.Millisecond)
		led(true)
		time.Sleep(200 * time.Millisecond)
		led(false)
		a.ended(old, session.ReasonLoggedOut)
		// Replayed at leisure it opens nothing any more.
		time.Sleep(time.Hour)
		if _, err := b.open(old); err == nil {
			t.Error("the old cookie opens something")
		}
		a.refreshes(0)
		if n := len(a.revoked("refresh_token")); n != 0 {
			t.Errorf("%d refresh tokens were revoked: the grant may go with them", n)
		}
		if got := a.tally.of("end"); len(got) != 0 {
			t.Errorf("sessions ended: %v", got)
		}
	})
}

// A pointer has no life of its own: whatever ends the new session ends it, and a
// logout that a request with the old one makes ends the new session.
func TestContinuationEnds(t *testing.T) {
	for name, end := range map[string]func(b *bench, old, br browser, sids []string, inFlight *session.Session){
		"logout": func(b *bench, _, br browser, _ []string, _ *session.Session) {
			s, err := b.open(br)
			if err == nil {
				_, err = s.Logout(b.t.Context())
			}
			if err != nil {
				b.t.Error(err)
			}
		},
		"logout with the old cookie": func(b *bench, old, _ browser, _ []string, _ *session.Session) {
			s, err := b.open(old)
			if err == nil {
				_, err = s.Logout(b.t.Context())
			}
			if err != nil {
				b.t.Error(err)
			}
		},
		"logout in flight": func(b *bench, _, _ browser, _ []string, inFlight *session.Session) {
			if _, err := inFlight.Logout(b.t.Context()); err != nil {
				b.t.Error(err)
			}
		},
		"by sub":         func(b *bench, _, _ browser, _ []string, _ *session.Session) { b.signOut("alice", "", 1) },
		"by the new sid": func(b *bench, _, _ browser, sids []string, _ *session.Session) { b.signOut("", sids[1], 1) },
		"by the old sid": func(b *bench, _, _ browser, sids []string, _ *session.Session) { b.signOut("", sids[0], 1) },
		"by both":        func(b *bench, _, _ browser, sids []string, _ *session.Session) { b.signOut("alice", sids[0], 1) },
		"by sid in front": func(b *bench, _, _ browser, sids []string, _ *session.Session) {
			if n, err := b.m.FrontchannelLogout(b.t.Context(), b.as.Issuer(), sids[0]); n != 1 || err != nil {
				b.t.Errorf("%d %v", n, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(t, levels())
				br := browser{}
				inFlight := a.login(br)
				old := maps.Clone(br)
				b.stepUp(br, gold())
				sids := a.as.SIDs("alice")
				if len(sids) != 2 || sids[0] == sids[1] {
					t.Fatalf("%q", sids)
				}
				end(a, old, br, sids, inFlight)
				for _, instance := range []*bench{a, b} {
					for _, cookies := range []browser{old, br} {
						if _, err := instance.token(cookies); !errors.As(err, new(*session.EndedError)) {
							t.Errorf("it goes on: %v", err)
						}
					}
					if _, err := inFlight.Token(t.Context()); !errors.As(err, new(*session.EndedError)) {
						t.Errorf("in flight it goes on: %v", err)
					}
				}
			})
		})
	}
}

// CB-13, SU-03: somebody else comes back, or nobody is there any more: a session of
// its own, and nothing of the old one.
func TestStepUpThatContinuesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		time.Sleep(time.Hour / 4)
		b.as.Configure(func(o *astest.Options) { o.User = "bob" })
		s := b.stepUp(br, gold())
		if s.Subject() != "bob" || !s.CreatedAt().Equal(time.Now().Truncate(time.Millisecond)) {
			t.Errorf("%s since %s", s.Subject(), s.CreatedAt())
		}
		b.ended(old, session.ReasonLoggedOut)
		time.Sleep(time.Second)
		if n := len(b.revoked("refresh_token")); n != 1 {
			t.Errorf("%d refresh tokens of alice were revoked", n)
		}

		// Logged out while the user was at the authorization server.
		params := b.beginStepUp(br, gold())
		kept := maps.Clone(br)
		if _, err := s.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		res, err := b.finish(br, params)
		if err != nil || res.Session.ID() == s.ID() {
			t.Errorf("%v", err)
		}
		b.ended(kept, session.ReasonLoggedOut)

		// Logged out in the very moment: what goes on would be what was ended.
		params = b.beginStepUp(br, gold())
		kept = maps.Clone(br)
		current, err := b.open(br)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // until the tokens of those that have ended are revoked
		var done atomic.Bool
		b.store.onReplace(func(_, _ *session.Record) error {
			if done.CompareAndSwap(false, true) {
				if _, err := current.Logout(t.Context()); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		_, err = b.finish(br, params)
		b.store.onReplace(nil)
		wantKind(t, err, session.LoginFailed)
		if !errors.As(err, new(*session.EndedError)) {
			t.Errorf("%v", err)
		}
		b.ended(kept, session.ReasonLoggedOut)
	})
}

// The lifetime starts anew for who has authenticated again, and for nobody else; the
// idle timeout does.
func TestLifetimeOfAContinuation(t *testing.T) {
	for name, tc := range map[string]struct {
		sso    bool
		wanted *session.StepUp
		anew   bool
	}{
		"authenticated again":    {true, gold(), true},
		"only more scope":        {true, &session.StepUp{Scope: []string{"orders"}}, false},
		"asked to sign in again": {false, &session.StepUp{Scope: []string{"orders"}}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := levels()
			o.SingleSignOn = tc.sso
			b := newBench(t, o)
			br := browser{}
			began := time.Now()
			b.login(br)
			time.Sleep(20 * time.Minute)
			s := b.stepUp(br, tc.wanted)
			want := began
			if tc.anew {
				want = time.Now()
			}
			want = want.Truncate(time.Millisecond)
			if !s.CreatedAt().Equal(want) || s.LifetimeEnd().Sub(want).Round(time.Second) != 12*time.Hour || s.IdleEnd().Sub(time.Now()).Round(time.Second) != 30*time.Minute {
				t.Errorf("%s: since %s, until %s, idle %s; now %s", name, s.CreatedAt(), s.LifetimeEnd(), s.IdleEnd(), time.Now())
			}
		})
	}
}

// Two step-ups of one session at the same time, and one after the other within the
// ten seconds: one session is left, and every cookie leads to it.
func TestParallelStepUps(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			a, b := pair(t, levels())
			br := browser{}
			a.login(br)
			old := maps.Clone(br)
			tab1, tab2 := maps.Clone(br), maps.Clone(br)
			params1, params2 := a.beginStepUp(tab1, gold()), b.beginStepUp(tab2, gold())
			var wg sync.WaitGroup
			var s1, s2 *session.LoginResult
			var err1, err2 error
			wg.Go(func() { s1, err1 = a.finish(tab1, params1) })
			wg.Go(func() {
				time.Sleep(pause)
				s2, err2 = b.finish(tab2, params2)
			})
			wg.Wait()
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			var live []string
			for _, s := range []*session.Session{s1.Session, s2.Session} {
				for _, cookies := range []browser{tab1, tab2, old} {
					found, err := a.open(cookies)
					if err == nil && found.ID() == s.ID() && !slices.Contains(live, s.ID()) {
						live = append(live, s.ID())
					}
				}
			}
			if len(live) != 1 {
				t.Errorf("after %s: %d sessions are left", pause, len(live))
			}
			a.signOut("alice", "", 1)
		})
	}
}

// Delivered twice, the callback of a step-up makes one session. A browser that has not
// got the cookie of it is not told to go on with the old one.
func TestStepUpReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		params := b.beginStepUp(br, gold())
		lost := maps.Clone(br)
		if _, err := b.finish(br, params); err != nil {
			t.Fatal(err)
		}
		n := exchanges(b)
		_, err := b.finish(lost, params)
		if e := wantKind(t, err, session.LoginStale); e.Live != nil || e.StepUp == nil {
			t.Errorf("%+v", e)
		}
		_, err = b.finish(br, params)
		if e := wantKind(t, err, session.LoginStale); e.Live == nil {
			t.Errorf("%+v", e)
		}
		if exchanges(b) != n {
			t.Error("the code was sent again")
		}
	})
}

// A refresh that comes back to a session which has gone on is let go of, and what
// waited for it goes on too. Nothing is revoked.
func TestStepUpDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := levels()
		o.AccessTokenLifetime = 5 * time.Minute
		b := newBench(t, o)
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		time.Sleep(6 * time.Minute)
		params := b.beginStepUp(br, gold())
		b.as.Script(astest.Token, astest.Answer{DelayReply: 2 * time.Second})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := b.token(old); err != nil {
					t.Errorf("a request in flight: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		if _, err := b.finish(br, params); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		b.mustToken(br)
		b.refreshes(1)
		if n := len(b.revoked("refresh_token")); n != 0 {
			t.Errorf("%d refresh tokens were revoked", n)
		}
	})
}

// An exchange that comes back to a session which has gone on is let go of in the same
// way.
func TestStepUpDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		params := b.beginStepUp(br, gold())
		b.as.Script(astest.Token, astest.Answer{DelayReply: 2 * time.Second})
		got := make(chan string, 1)
		go func() {
			tok, err := b.tokenFor(old, swapped)
			if err != nil {
				t.Errorf("a request in flight: %v", err)
			}
			got <- tok
		}()
		time.Sleep(time.Second)
		if _, err := b.finish(br, params); err != nil {
			t.Fatal(err)
		}
		if tok := <-got; tok != b.mustTokenFor(br, swapped) {
			t.Error("the token is not that of the session that goes on")
		}
		b.exchanges(2)
		time.Sleep(time.Minute)
		if n := len(b.revoked("refresh_token")) + len(b.revoked("access_token")); n != 0 {
			t.Errorf("%d tokens were revoked", n)
		}
	})
}

// A store that fails undoes no login, and ends nothing.
func TestStepUpWhileTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		params := b.beginStepUp(br, gold())
		b.store.onReplace(func(_, _ *session.Record) error { return errors.New("disk full") })
		res, err := b.finish(br, params)
		b.store.onReplace(nil)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := b.open(br); err != nil || s.ID() != res.Session.ID() {
			t.Errorf("the new session: %v", err)
		}
		b.mustToken(old)
	})
}

// On every kind of store, as another instance sees it.
func TestContinuationOnStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) [2]session.Store{
		"file": func(t *testing.T) [2]session.Store {
			s, err := filestore.Open(t.Context(), filestore.Options{Path: filepath.Join(t.TempDir(), "sessions")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() }) //nolint:errcheck // of a test
			return [2]session.Store{&unclosed{s}, &unclosed{s}}
		},
		"redis": func(t *testing.T) (stores [2]session.Store) {
			server := redistest.Start(t)
			address, err := redisstore.ParseAddress(server.Address())
			if err != nil {
				t.Fatal(err)
			}
			for i := range stores {
				if stores[i], err = redisstore.Open(redisstore.Options{Addresses: []redisstore.Address{address}}); err != nil {
					t.Fatal(err)
				}
			}
			return stores
		},
	} {
		t.Run(name, func(t *testing.T) {
			stores, as := open(t), astest.New(levels())
			a, b := newInstanceOn(t, as, stores[0]), newInstanceOn(t, as, stores[1])
			br := browser{}
			a.login(br)
			old := maps.Clone(br)
			b.mustToken(old)
			next := a.stepUp(br, gold())
			deadline := time.Now().Add(5 * time.Second)
			for { // local copies may be a moment behind
				s, err := b.open(old)
				if err == nil && s.ID() == next.ID() {
					break
				}
				if err != nil || time.Now().After(deadline) {
					t.Fatalf("the old cookie elsewhere: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if a.mustToken(br) != b.mustToken(br) {
				t.Error("two tokens")
			}
			b.signOut("alice", "", 1)
			a.ended(old, session.ReasonRevoked)
		})
	}
}

// unclosed is a store that instances share.
type unclosed struct{ session.Store }

func (*unclosed) Close() error { return nil }

// However often a session has gone on since, a login that saw it leaves one session,
// and a logout that its first cookie has begun ends the last one.
func TestLongContinuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := levels()
		o.CodeLifetime = 10 * time.Minute
		b := newBench(t, o)
		br := browser{}
		first := b.login(br)
		tab := maps.Clone(br)
		late := b.beginStepUp(tab, gold())
		for range 9 {
			b.stepUp(br, gold())
			time.Sleep(time.Minute)
		}
		before := maps.Clone(br)
		res, err := b.finish(tab, late)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := b.open(before); err != nil || s.ID() != res.Session.ID() {
			t.Errorf("two sessions are left: %v", err)
		}
		if _, err := first.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.ended(tab, session.ReasonLoggedOut)
	})
}

// SU-03, LO-14: each step-up may come of another session of the authorization server;
// whichever of them it signs out, the session ends.
func TestLogoutByEachSID(t *testing.T) {
	for i := range 4 {
		synctest.Test(t, func(t *testing.T) {
			a, b := pair(t, levels())
			br := browser{}
			a.login(br)
			for range 3 {
				b.stepUp(br, gold())
				time.Sleep(time.Minute)
			}
			sids := a.as.SIDs("alice")
			if len(sids) != 4 || len(slices.Compact(slices.Sorted(slices.Values(sids)))) != 4 {
				t.Fatalf("%q", sids)
			}
			a.signOut("", sids[i], 1)
			b.ended(br, session.ReasonRevoked)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, levels())
		br := browser{}
		b.login(br)
		for range 9 {
			b.stepUp(br, gold())
		}
		sids := b.as.SIDs("alice")
		for _, sid := range sids[1:5] { // more than a record remembers
			b.signOut("", sid, 0)
		}
		b.mustToken(br)
		b.signOut("", sids[0], 1)
	})
}
