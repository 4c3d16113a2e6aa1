// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// crowd makes n signed-in browsers, of as many users.
func (b *bench) crowd(n int) []browser {
	b.t.Helper()
	all := make([]browser, n)
	for i := range all {
		b.as.Configure(func(o *astest.Options) { o.User = "user " + strconv.Itoa(i) })
		all[i] = browser{}
		b.login(all[i])
	}
	return all
}

// F102, F406: a thousand sessions that run out in the same second are a thousand
// calls, of which no more than the bound go on at a time.
func TestHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 32
		var now, most atomic.Int64
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second, Latency: map[string]time.Duration{astest.Token: 0}})
		all := b.crowd(1000)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 100 * time.Millisecond })
		b.as.Script(astest.Token, astest.Answer{Times: -1, OnRequest: func(astest.Request) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.AfterFunc(99*time.Millisecond, func() { now.Add(-1) })
		}})
		time.Sleep(10 * time.Second)
		together(len(all), func(i int) {
			if _, err := b.token(all[i]); err != nil {
				t.Error(err)
			}
		})
		b.refreshes(1000)
		if most.Load() > bound || most.Load() < bound/2 {
			t.Errorf("%d calls at a time", most.Load())
		}
	})
}

// F401, F402, RF-06: a server that is out is asked once in two seconds by all
// sessions together; nobody is signed out, and all are well soon after its return.
func TestOutageOfTheTokenEndpoint(t *testing.T) {
	for name, outage := range map[string]astest.Answer{
		"down": {CutUnread: true}, "503": {Status: http.StatusServiceUnavailable}, "HTML": {Status: 200, Body: "<html>"},
		"429": {Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const minutes = 10
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, func(c *session.Config) { c.Rotation = session.RotationNone })
				all := b.crowd(25)
				time.Sleep(30 * time.Second)
				outage.Times = -1
				b.as.Script(astest.Token, outage)
				before := b.as.Count(astest.Token)
				for range minutes * 60 {
					for _, br := range all {
						if _, err := b.token(br); err != nil {
							if u, ok := errors.AsType[*session.UnavailableError](err); !ok || u.RetryAfter < time.Second || u.RetryAfter > time.Minute {
								t.Fatal(err)
							}
						}
					}
					time.Sleep(time.Second)
				}
				calls := b.as.Count(astest.Token) - before
				if calls < minutes*10 || calls > minutes*30+40 {
					t.Errorf("%d calls in %d minutes", calls, minutes)
				}
				b.as.ClearScript(astest.Token)
				before = b.as.Count(astest.Token)
				returned := time.Now()
				for well := 0; well < len(all); time.Sleep(100 * time.Millisecond) {
					if well = 0; time.Since(returned) > 10*time.Second {
						t.Fatalf("after %v not everybody is well", time.Since(returned))
					}
					for _, br := range all {
						if _, err := b.token(br); err == nil {
							well++
						}
					}
				}
				if calls := b.as.Count(astest.Token) - before; calls != len(all) {
					t.Errorf("%d calls after the return for %d sessions", calls, len(all))
				}
			})
		})
	}
}

// F405: one session that always fails closes the gate for nobody else.
func TestOneFailingSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		all := b.crowd(20)
		poisoned := all[0]
		for range 60 {
			time.Sleep(10 * time.Second)
			b.as.Script(astest.Token, astest.Answer{Status: 500})
			if _, err := b.token(poisoned); err == nil {
				t.Fatal("the poison does not work")
			}
			for _, br := range all[1:] {
				b.mustToken(br)
			}
		}
	})
}

// RF-06, F402: a server that is out for one resource is left in peace there by all
// sessions together, and asked for everything else as ever.
func TestOutageForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, patient)
		all := b.crowd(20)
		asked := 0
		b.as.Configure(func(o *astest.Options) {
			o.TokenAnswer = func(r astest.Request) *astest.Answer {
				if r.Form.Get("resource") != stockURI {
					return nil
				}
				asked++
				return &astest.Answer{Status: 503}
			}
		})
		for range 600 {
			for _, br := range all {
				var u *session.UnavailableError
				if _, err := b.tokenFor(br, stock); !errors.As(err, &u) {
					t.Fatal(err)
				}
				b.mustToken(br)
			}
			time.Sleep(time.Second)
		}
		if asked < 100 || asked > 350 {
			t.Errorf("asked %d times in ten minutes", asked)
		}
	})
}

// RF-06: where a server never answers for one resource, no session has to wait that
// wants something else.
func TestHangingForOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, patient)
		all := b.crowd(60)
		b.as.Configure(answerFor(stockURI, astest.Answer{Hang: true}))
		for _, br := range all[20:] {
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			go s.For(stock).Token(t.Context()) //nolint:errcheck // hangs
		}
		time.Sleep(time.Second)
		before := time.Now()
		for _, br := range all[:20] {
			b.mustTokenFor(br, orders)
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("waited %v", d)
		}
		time.Sleep(time.Minute)
	})
}

// TX-02, F402: an exchange for which the server has nothing but what cannot be used, asked
// for by all sessions, pauses in each by itself; it is no outage for anybody.
func TestUnusableExchanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, patient)
		all := b.crowd(20)
		b.as.Configure(func(o *astest.Options) {
			o.TokenResponse = func(_ string, body map[string]any) {
				if _, ok := body["issued_token_type"]; ok {
					body["token_type"] = "N_A"
				}
			}
		})
		for range 300 {
			for _, br := range all {
				if _, err := b.tokenFor(br, swapped); !errors.Is(err, session.ErrTokenUnavailable) {
					t.Fatal(err)
				}
				b.mustToken(br)
			}
			time.Sleep(time.Second)
		}
		if n := len(b.as.ExchangeRequests()); n != 10*len(all) {
			t.Errorf("%d exchanges in five minutes", n)
		}
	})
}

// A session that only waits for its turn at the gate of an upstream which hangs has
// presented nothing: it gets its tokens for the others.
func TestQueueAtTheGateOfAnotherUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, patient)
		all := b.crowd(60)
		b.as.Configure(answerFor(stockURI, astest.Answer{Hang: true}))
		for _, br := range all {
			go b.tokenFor(br, stock) //nolint:errcheck // hangs
		}
		time.Sleep(time.Second)
		presented := len(b.as.RefreshRequests())
		var failed atomic.Int64
		together(len(all), func(i int) {
			if _, err := b.tokenFor(all[i], orders); err != nil {
				failed.Add(1)
			}
		})
		if int(failed.Load()) > presented || presented == 0 {
			t.Errorf("%d sessions presented their refresh tokens for the upstream that hangs, and %d of %d got nothing for another one", presented, failed.Load(), len(all))
		}
		time.Sleep(2 * time.Minute)
	})
}
