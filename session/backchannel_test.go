// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// logoutToken makes a logout token; an empty subject or sid is left out.
func (b *bench) logoutToken(subject, sid string) oauth.Secret {
	return oauth.Secret(b.as.LogoutToken(subject, sid, nil))
}

// signOut delivers a new logout token here, and wants it to end so many sessions.
func (b *bench) signOut(subject, sid string, want int) {
	b.t.Helper()
	if n, err := b.m.BackchannelLogout(b.t.Context(), b.logoutToken(subject, sid)); err != nil || n != want {
		b.t.Errorf("a logout token of sub %q, sid %q: %d sessions ended, %v; want %d", subject, sid, n, err, want)
	}
}

// loginAs signs a user in and gives the browser and the sid.
func (b *bench) loginAs(user string) (browser, string) {
	b.t.Helper()
	b.as.Configure(func(o *astest.Options) { o.User = user })
	br := browser{}
	b.login(br)
	sids := b.as.SIDs(user)
	return br, sids[len(sids)-1]
}

// pair is two instances on one store.
func pair(t *testing.T, o astest.Options, edit ...func(*session.Config)) (a, b *bench) {
	t.Helper()
	a = newBench(t, o, edit...)
	a.store.exclusive = false
	return a, newInstance(t, a.as, a.store, edit...)
}

// LO-14, C6, A326: by sid that session, by sub all of the user, by both that of the
// sid if it is the user's; on all instances, and nobody else's.
func TestBackchannelLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		bob, bobSID := a.loginAs("bob")
		var alice []browser
		var sids []string
		for i := range 5 {
			br, sid := []*bench{a, b}[i%2].loginAs("alice")
			alice, sids = append(alice, br), append(sids, sid)
		}
		live := func(want ...int) {
			t.Helper()
			for _, instance := range []*bench{a, b} {
				instance.mustToken(bob)
				for i, br := range alice {
					if slices.Contains(want, i) {
						instance.mustToken(br)
					} else {
						instance.ended(br, session.ReasonRevoked)
					}
				}
			}
		}
		live(0, 1, 2, 3, 4)
		a.signOut("", "unknown", 0)
		a.signOut("carol", "", 0)
		a.signOut("bob", sids[0], 0)
		a.signOut("alice", bobSID, 0)
		live(0, 1, 2, 3, 4)
		b.signOut("", sids[0], 1) // begun on the other instance
		live(1, 2, 3, 4)
		b.signOut("alice", sids[4], 1)
		live(1, 2, 3)
		if _, err := mustOpen(t, a, alice[2]).Logout(t.Context()); err != nil { // from the middle
			t.Fatal(err)
		}
		a.signOut("", sids[2], 0) // signed out already
		b.signOut("alice", "", 2)
		a.mustToken(bob)
		for _, i := range []int{0, 1, 3, 4} {
			a.ended(alice[i], session.ReasonRevoked)
		}
		a.signOut("bob", bobSID, 1)
		b.ended(bob, session.ReasonRevoked)
	})
}

// All sites of the client, whatever instance has seen them; other clients of the
// same authorization server get logout tokens of their own.
func TestBackchannelLogoutMeansTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		first, _ := a.loginAs("alice")
		a.site = a.m.Site("https://other.test")
		second, _ := a.loginAs("alice")
		named := a.manager(func(c *session.Config) { c.Name = "shop" })
		a.m, a.site = named, named.Site(origin)
		third, _ := a.loginAs("alice")
		stranger := a.manager(func(c *session.Config) { c.ClientID = "stranger" })
		a.m, a.site = stranger, stranger.Site(origin)
		kept, _ := a.loginAs("alice")
		b.signOut("alice", "", 3)
		a.mustToken(kept)
		a.m, a.site = named, named.Site(origin)
		a.ended(third, session.ReasonRevoked)
		b.ended(first, session.ReasonRevoked)
		b.site = b.m.Site("https://other.test")
		b.ended(second, session.ReasonRevoked)
	})
}

// An authorization server that puts no sid into ID tokens signs users out by sub,
// also when its logout tokens have one.
func TestBackchannelLogoutWithoutSID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, Claims: map[string]any{"sid": nil}})
		one, sid := b.loginAs("alice")
		bob, _ := b.loginAs("bob")
		b.signOut("", sid, 0)
		b.mustToken(one)
		b.as.Configure(func(o *astest.Options) { o.Claims = nil })
		other, _ := b.loginAs("alice")
		b.signOut("alice", sid, 1)
		b.ended(one, session.ReasonRevoked)
		b.mustToken(other)
		b.mustToken(bob)
	})
}

// LO-12, C6, A313, A317: a token has its effect once, over all instances, and a
// session that came after it is not touched.
func TestLogoutTokenReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		a.loginAs("alice")
		token := a.logoutToken("alice", "")
		if n, err := a.m.BackchannelLogout(t.Context(), token); err != nil || n != 1 {
			t.Fatal(n, err)
		}
		time.Sleep(time.Millisecond)
		again, _ := a.loginAs("alice")
		for range 12 {
			for _, instance := range []*bench{a, b} {
				if _, err := instance.m.BackchannelLogout(t.Context(), token); !errors.Is(err, oauth.ErrLogoutToken) {
					t.Errorf("again: %v", err)
				}
			}
			time.Sleep(30 * time.Second) // until long after it has expired
		}
		a.mustToken(again)
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{})
		a.loginAs("alice")
		token := a.logoutToken("alice", "")
		var took, refused atomic.Int32
		together(20, func(i int) {
			_, err := []*bench{a, b}[i%2].m.BackchannelLogout(t.Context(), token)
			switch {
			case err == nil:
				took.Add(1)
			case errors.Is(err, oauth.ErrLogoutToken):
				refused.Add(1)
			}
		})
		if took.Load() != 1 || refused.Load() != 19 {
			t.Errorf("%d took the token, %d were refused", took.Load(), refused.Load())
		}
	})
}

// LO-17, C6, A317: while the store is out nothing is promised, and when it is back
// the same token works.
func TestBackchannelLogoutInAStoreOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br, _ := b.loginAs("alice")
		token := b.logoutToken("alice", "")
		deliver := func() error {
			_, err := b.m.BackchannelLogout(t.Context(), token)
			return err
		}
		out := errors.New("cable cut")
		b.store.setFail(out)
		if err := deliver(); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("without the store: %v", err)
		}
		b.store.setFail(nil)
		b.mustToken(br)
		// It goes away in the middle, and the token cannot be given back.
		b.store.onReplace(func(_, next *session.Record) error {
			if next.Ended != "" {
				b.store.setFail(out)
				return out
			}
			return nil
		})
		b.store.onDelete(func() error { return out })
		if err := deliver(); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("in the middle: %v", err)
		}
		b.store.setFail(nil)
		b.store.onReplace(nil)
		b.mustToken(br)
		if err := deliver(); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("while it may be at work elsewhere: %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := deliver(); err != nil {
			t.Errorf("when it is at work nowhere: %v", err)
		}
		b.ended(br, session.ReasonRevoked)
		if err := deliver(); !errors.Is(err, oauth.ErrLogoutToken) {
			t.Errorf("after its effect: %v", err)
		}
	})
	// Given back, the token works at once; the last write counts too.
	for name, fails := range map[string]func(next *session.Record) bool{
		"tombstone": func(next *session.Record) bool { return next.Ended != "" },
		"token":     func(next *session.Record) bool { return next.Ended == "" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
				br, _ := b.loginAs("alice")
				token := b.logoutToken("alice", "")
				b.store.onReplace(func(_, next *session.Record) error {
					if fails(next) {
						return errors.New("disk full")
					}
					return nil
				})
				if _, err := b.m.BackchannelLogout(t.Context(), token); !errors.Is(err, session.ErrStoreUnavailable) {
					t.Errorf("got %v", err)
				}
				b.store.onReplace(nil)
				if _, err := b.m.BackchannelLogout(t.Context(), token); err != nil {
					t.Errorf("again: %v", err)
				}
				b.ended(br, session.ReasonRevoked)
			})
		})
	}
}

// CONTRACT POST backchannel: while the key ring may not be the others' any more,
// their sessions may not be found.
func TestBackchannelLogoutWithAStaleRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail error
		keys := session.NewKeyRing(ringFunc(func() ([]session.RingKey, error) {
			return []session.RingKey{{Secret: bytes.Repeat([]byte{1}, 32)}}, fail
		}), discard())
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.Ring = keys })
		br, _ := b.loginAs("alice")
		fail = errors.New("no such file")
		token := b.logoutToken("alice", "")
		if _, err := b.m.BackchannelLogout(t.Context(), token); err != nil {
			t.Errorf("the ring has just been read: %v", err)
		}
		b.ended(br, session.ReasonRevoked)
		time.Sleep(time.Millisecond)
		br, sid := b.loginAs("alice")
		time.Sleep(2 * time.Minute)
		b.mustToken(br)
		token = b.logoutToken("alice", "")
		if _, err := b.m.BackchannelLogout(t.Context(), token); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("a stale ring: %v", err)
		}
		if _, err := b.m.FrontchannelLogout(t.Context(), b.as.Issuer(), sid); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("a stale ring: %v", err)
		}
		fail = nil
		if n, err := b.m.BackchannelLogout(t.Context(), token); err != nil || n != 1 {
			t.Errorf("the ring can be read again: %d, %v", n, err)
		}
	})
}

// E108: keys that rotate, in whatever order instances hear of it, hide no session
// and no mark.
func TestBackchannelLogoutWithRotatedKeys(t *testing.T) {
	first := session.RingKey{Secret: bytes.Repeat([]byte{1}, 32)}
	second := session.RingKey{Secret: bytes.Repeat([]byte{2}, 32)}
	with := func(keys ...session.RingKey) func(*session.Config) {
		ring := session.NewKeyRing(ringFunc(func() ([]session.RingKey, error) { return keys, nil }), discard())
		return func(c *session.Config) { c.Ring = ring }
	}
	synctest.Test(t, func(t *testing.T) {
		older := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, with(first, second))
		older.store.exclusive = false
		newer := newInstance(t, older.as, older.store, with(second, first))
		a, _ := older.loginAs("alice")
		b, _ := newer.loginAs("alice")
		older.signOut("alice", "", 2)
		older.ended(b, session.ReasonRevoked)
		newer.ended(a, session.ReasonRevoked)
	})
	synctest.Test(t, func(t *testing.T) {
		older := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second}, with(first))
		older.store.exclusive = false
		br, _ := older.loginAs("alice")
		newer := newInstance(t, older.as, older.store, with(second, first))
		time.Sleep(10 * time.Second)
		newer.mustToken(br) // a refresh seals with the new key, and indexes with it
		last := newInstance(t, older.as, older.store, with(second))
		last.signOut("alice", "", 1)
	})
}

// H104: all of a user's sessions are over within two seconds, with a store that
// takes its time.
func TestBackchannelLogoutOfFiftySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		var all []browser
		for range session.DefaultMaxPerUser {
			br, _ := b.loginAs("alice")
			all = append(all, br)
		}
		b.store.onReplace(func(_, _ *session.Record) error { time.Sleep(100 * time.Millisecond); return nil })
		began := time.Now()
		b.signOut("alice", "", len(all))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		for _, br := range all {
			b.ended(br, session.ReasonRevoked)
		}
	})
}

// H207: 50 a second, and those that come at once wait for their turn before one is
// sent away.
func TestBackchannelLogoutPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		var (
			mu      sync.Mutex
			slowest time.Duration
			sent    int
		)
		began := time.Now()
		together(400, func(int) {
			_, err := b.m.BackchannelLogout(t.Context(), b.logoutToken("nobody", ""))
			mu.Lock()
			defer mu.Unlock()
			var limited *session.RateLimitedError
			switch {
			case errors.As(err, &limited) && limited.RetryAfter >= time.Second:
				sent++
			case err != nil:
				t.Error(err)
			default:
				slowest = max(slowest, time.Since(began))
			}
		})
		if sent < 90 || sent > 110 || slowest > 6*time.Second {
			t.Errorf("%d of 400 were sent away, the slowest took %s", sent, slowest)
		}
		b.counted("limit", map[string]int{"logouts": sent})
		time.Sleep(10 * time.Second)
		b.signOut("nobody", "", 0)
	})
}

// H207, LO-17: nothing of a token that does not pass gets to the store.
func TestForgedLogoutTokensMakeNoWrites(t *testing.T) {
	b := newBench(t, astest.Options{})
	br, sid := b.loginAs("alice")
	b.store.setFail(errors.New("the store was asked"))
	forged := astest.NewKey("ES256", b.as.SigningKey().ID)
	for i := range 100 {
		token := forged.Sign(forged.Header("logout+jwt"), b.as.LogoutClaims("alice", sid))
		if i%2 == 0 {
			token = forged.Sign(map[string]any{"alg": "none"}, b.as.LogoutClaims("alice", sid))
		}
		if _, err := b.m.BackchannelLogout(t.Context(), oauth.Secret(token)); !errors.Is(err, oauth.ErrLogoutToken) && !errors.Is(err, oauth.ErrKeysUnavailable) {
			t.Fatal(err)
		}
	}
	b.store.setFail(nil)
	b.mustToken(br)
}

// F108, LO-16, RF-14: a logout at each step of a refresh, on another instance, is
// final, and what the refresh obtained is revoked within seconds.
func TestBackchannelLogoutDuringRefresh(t *testing.T) {
	for name, tc := range map[string]struct {
		answer astest.Answer
		hook   func(old, next *session.Record) bool // which write it comes before
	}{
		"before the intent":      {hook: func(old, next *session.Record) bool { return old.Attempt == nil && next.Attempt != nil }},
		"before the server acts": {answer: astest.Answer{Delay: time.Second}},
		"after it has acted":     {answer: astest.Answer{DelayReply: time.Second}},
		"while the lease moves": {
			answer: astest.Answer{DelayReply: 9 * time.Second},
			hook: func(old, next *session.Record) bool {
				return old.Attempt != nil && next.Attempt != nil && next.Attempt.Lease != old.Attempt.Lease
			},
		},
		"before the commit": {hook: func(old, next *session.Record) bool { return next.Gen != old.Gen }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
				br, _ := a.loginAs("alice")
				a.as.Script(astest.Token, tc.answer)
				time.Sleep(10 * time.Second)
				logout := sync.OnceFunc(func() { b.signOut("alice", "", 1) })
				if tc.hook != nil {
					a.store.onReplace(func(old, next *session.Record) error {
						if tc.hook(old, next) {
							logout()
						}
						return nil
					})
				}
				done := make(chan error)
				go func() {
					_, err := a.token(br)
					done <- err
				}()
				synctest.Wait()
				if tc.hook == nil {
					logout()
				}
				var ended *session.EndedError
				if err := <-done; !errors.As(err, &ended) || ended.Reason != session.ReasonRevoked {
					t.Errorf("the waiter got %v", err)
				}
				a.ended(br, session.ReasonRevoked)
				b.ended(br, session.ReasonRevoked)
				time.Sleep(5 * time.Second)
				if len(a.revoked("refresh_token")) == 0 {
					t.Error("nothing was revoked")
				}
				for _, r := range append(a.as.RefreshRequests(), a.revoked("refresh_token")...) {
					if a.as.RefreshTokenLive(r.Token) {
						t.Error("a refresh token is alive")
					}
				}
			})
		})
	}
}

// LO-16: a logout that comes while the login's code is exchanged, or between that
// and its record, wins; one who signs in afterwards is signed in.
func TestBackchannelLogoutDuringLogin(t *testing.T) {
	for name, who := range map[string]func(sid string) (subject, only string){
		"by sid":  func(sid string) (string, string) { return "", sid },
		"by sub":  func(string) (string, string) { return "alice", "" },
		"by both": func(sid string) (string, string) { return "alice", sid },
	} {
		for _, when := range []string{"before the code", "before the record", "seconds before the record", "before the answer"} {
			t.Run(name+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
					br := browser{}
					params := a.begin(br)
					subject, sid := who(a.as.SIDs("alice")[0])
					covered := true
					switch when {
					case "before the code": // the authorization server gives tokens after it: they count
						b.signOut(subject, sid, 0)
						time.Sleep(time.Millisecond)
						covered = false
					case "before the record":
						a.as.Script(astest.Token, astest.Answer{DelayReply: 300 * time.Millisecond})
						go func() {
							time.Sleep(100 * time.Millisecond)
							b.signOut(subject, sid, 0)
						}()
					case "seconds before the record":
						a.as.Script(astest.Token, astest.Answer{DelayReply: 5 * time.Second})
						late := oauth.Secret(a.as.LogoutToken(subject, sid, map[string]any{"iat": time.Now().Unix() - 10}))
						go func() {
							time.Sleep(2 * time.Second)
							b.signOut(subject, sid, 0)
							time.Sleep(time.Second)
							// An earlier one that comes after it takes nothing back.
							if _, err := b.m.BackchannelLogout(context.Background(), late); err != nil {
								t.Error(err)
							}
						}()
					case "before the answer":
						var once atomic.Bool
						a.store.onCreate(func(rec *session.Record) {
							if len(rec.Index) > 0 && once.CompareAndSwap(false, true) {
								b.signOut(subject, sid, 0)
							}
						})
					}
					res, err := a.finish(br, params)
					if !covered {
						if err != nil {
							t.Fatal(err)
						}
						a.mustToken(br)
						return
					}
					var ended *session.EndedError
					if wantKind(t, err, session.LoginFailed); !errors.As(err, &ended) || ended.Reason != session.ReasonRevoked || res != nil || len(br) != 0 {
						t.Fatalf("got %v", err)
					}
					time.Sleep(time.Second)
					if list := a.revoked("refresh_token"); len(list) != 1 || a.as.RefreshTokenLive(list[0].Token) {
						t.Errorf("%d revocations", len(list))
					}
					b.signOut("alice", "", 0) // no record is left
					time.Sleep(time.Millisecond)
					a.login(br)
					b.mustToken(br)
				})
			})
		}
	}
	// One with both means whoever has no sid as well.
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{Claims: map[string]any{"sid": nil}})
		br := browser{}
		params := a.begin(br)
		a.as.Script(astest.Token, astest.Answer{DelayReply: 300 * time.Millisecond})
		go func() {
			time.Sleep(100 * time.Millisecond)
			b.signOut("alice", "sid", 0)
		}()
		_, err := a.finish(br, params)
		wantKind(t, err, session.LoginFailed)
	})
	// Of two in one second, the later one means also who signed in between them.
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		b.signOut("alice", "", 0)
		time.Sleep(100 * time.Millisecond)
		br := browser{}
		params := a.begin(br)
		a.as.Script(astest.Token, astest.Answer{DelayReply: 300 * time.Millisecond})
		go func() {
			time.Sleep(100 * time.Millisecond)
			b.signOut("alice", "", 0)
		}()
		_, err := a.finish(br, params)
		wantKind(t, err, session.LoginFailed)
	})
	// A logout token of a minute ago means nobody who signed in since.
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		late := a.logoutToken("alice", "")
		time.Sleep(time.Minute)
		a.as.Script(astest.Token, astest.Answer{DelayReply: 300 * time.Millisecond})
		go func() {
			time.Sleep(100 * time.Millisecond)
			if _, err := b.m.BackchannelLogout(context.Background(), late); err != nil {
				t.Error(err)
			}
		}()
		br, _ := a.loginAs("alice")
		a.mustToken(br)
	})
}

// A login that cannot know whether it was signed out makes no session.
func TestLoginThatCannotSeeMarks(t *testing.T) {
	b := newBench(t, astest.Options{})
	br := browser{}
	params := b.begin(br)
	b.store.onCreate(func(rec *session.Record) {
		if len(rec.Index) > 0 {
			b.store.setFailLoads(errors.New("cable cut"))
		}
	})
	_, err := b.finish(br, params)
	wantKind(t, err, session.LoginUnavailable)
}

// The sid that a refreshed ID token brings counts, and the login's goes on to; a
// logout that comes by the new one before it is stored wins.
func TestSIDChangesAtRefresh(t *testing.T) {
	var sid string
	o := astest.Options{AccessTokenLifetime: 10 * time.Second, IDTokenClaims: func(grant string, c map[string]any) {
		if grant == "refresh_token" {
			c["sid"] = sid
		}
	}}
	for _, which := range []string{"login", "second", "third"} {
		t.Run(which, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(t, o)
				br, first := a.loginAs("alice")
				for i, next := range []string{"second", "third"} {
					sid = next
					time.Sleep(10 * time.Second)
					[]*bench{a, b}[i].mustToken(br)
				}
				by := map[string]string{"login": first, "second": "second", "third": "third"}[which]
				if which == "second" { // nobody's any more
					b.signOut("", by, 0)
					a.mustToken(br)
					return
				}
				b.signOut("alice", by, 1)
				a.ended(br, session.ReasonRevoked)
			})
		})
	}
	t.Run("while it comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := pair(t, o)
			br, _ := a.loginAs("alice")
			sid = "new"
			time.Sleep(10 * time.Second)
			a.as.Script(astest.Token, astest.Answer{DelayReply: time.Second})
			go func() {
				time.Sleep(500 * time.Millisecond)
				b.signOut("", "new", 0)
			}()
			a.ended(br, session.ReasonRevoked)
			b.ended(br, session.ReasonRevoked)
			time.Sleep(5 * time.Second)
			if list := a.revoked("refresh_token"); len(list) == 0 || a.as.RefreshTokenLive(list[0].Token) {
				t.Errorf("%d revocations", len(list))
			}
		})
	})
}

// LO-05, LO-14: the instance that has a session's tokens open revokes them when it
// takes the logout; one that has not, when the cookie comes.
func TestBackchannelLogoutRevokes(t *testing.T) {
	for name, here := range map[string]bool{"here": true, "elsewhere": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
				br, _ := a.loginAs("alice")
				if here {
					a.signOut("alice", "", 1)
				} else {
					b.signOut("alice", "", 1)
				}
				time.Sleep(time.Second)
				if n := len(a.revoked("refresh_token")); (n == 1) != here {
					t.Errorf("%d revocations", n)
				}
				a.ended(br, session.ReasonRevoked)
				time.Sleep(time.Second)
				if list := a.revoked("refresh_token"); len(list) != 1 || a.as.RefreshTokenLive(list[0].Token) {
					t.Errorf("%d revocations", len(list))
				}
			})
		})
	}
}

// LO-19, LO-20, A311: by iss and sid, without a cookie, and nothing is revoked.
func TestFrontchannelLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, astest.Options{AccessTokenLifetime: time.Hour})
		one, sid := a.loginAs("alice")
		two, _ := a.loginAs("alice")
		a.as.Configure(func(o *astest.Options) { o.Claims = map[string]any{"sid": nil} })
		without, _ := a.loginAs("alice")
		for _, tc := range []struct {
			iss, sid string
			want     int
		}{
			{a.as.Issuer(), "unknown", 0}, {a.as.Issuer(), "", 0}, {"", sid, 0}, {a.as.Issuer() + "/", sid, 0}, {"https://evil.test", sid, 0},
			{a.as.Issuer(), sid, 1}, {a.as.Issuer(), sid, 0},
		} {
			if n, err := b.m.FrontchannelLogout(t.Context(), tc.iss, tc.sid); err != nil || n != tc.want {
				t.Errorf("%q, %q: %d, %v", tc.iss, tc.sid, n, err)
			}
			if tc.want == 0 && tc.sid != sid {
				b.mustToken(one)
			}
		}
		a.ended(one, session.ReasonRevoked)
		a.mustToken(two)
		a.mustToken(without)
		time.Sleep(time.Minute)
		if n := a.as.Count(astest.Revoke); n != 0 {
			t.Errorf("%d revocations: whoever knows a sid decided that", n)
		}
		var limited *session.RateLimitedError
		for range 60 {
			if _, err := a.m.FrontchannelLogout(t.Context(), a.as.Issuer(), "guess"); err != nil && !errors.As(err, &limited) {
				t.Fatal(err)
			}
		}
		if limited == nil {
			t.Error("guesses are not limited")
		}
	})
}
