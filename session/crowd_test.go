// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// F106, I2: whatever happens in the same moment, everybody gets his own token.
// Tokens run out again and again meanwhile.
func TestNoMixUp(t *testing.T) {
	const users, at, rounds = 20, 5, 200
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 20 * time.Second})
		browsers := make([]browser, users)
		for i := range browsers {
			b.as.Configure(func(o *astest.Options) { o.User = fmt.Sprintf("user-%d", i) })
			browsers[i] = browser{}
			b.login(browsers[i])
		}
		var wrong atomic.Int64
		var wg sync.WaitGroup
		for i, br := range browsers {
			for range at {
				wg.Go(func() {
					for range rounds {
						tok, err := b.token(br)
						if err != nil || b.as.Subject(tok) != fmt.Sprintf("user-%d", i) {
							wrong.Add(1)
						}
						time.Sleep(250 * time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		if n := wrong.Load(); n != 0 {
			t.Errorf("%d of %d requests got no token, or somebody else's", n, users*at*rounds)
		}
		if n := b.as.ReuseDetections(); n != 0 {
			t.Errorf("a refresh token was used twice, %d times", n)
		}
		if n := b.as.Refreshes(); n < 2*users {
			t.Errorf("only %d refreshes: nothing was put to the test", n)
		}
	})
}

// F107: all who wait for a refresh share what came of it, also when nothing did;
// who has a token that still lives goes on with it.
func TestWaitersShareAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		br, other := browser{}, browser{}
		b.login(br)
		time.Sleep(5 * time.Second)
		b.login(other)
		time.Sleep(5 * time.Second) // the one has run out, the other is not due
		b.as.Script(astest.Token, astest.Answer{Delay: time.Second, Status: 503})
		var told atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				_, err := b.token(br)
				if out, ok := errors.AsType[*session.UnavailableError](err); ok && out.RetryAfter >= time.Second {
					told.Add(1)
				}
			})
		}
		b.mustToken(other)
		wg.Wait()
		if told.Load() != 200 {
			t.Errorf("%d of 200 were told to come back", told.Load())
		}
		b.refreshes(1)
		time.Sleep(2 * time.Second)
		b.mustToken(br)
		b.refreshes(2)
	})
}

// panicking panics in the middle of a call of the token endpoint, when told to.
type panicking struct {
	http.RoundTripper
	now atomic.Bool
}

func (p *panicking) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/token") && p.now.CompareAndSwap(true, false) {
		panic("out of luck with a secret")
	}
	return p.RoundTripper.RoundTrip(r)
}

// F110, F311: a refresh that panics costs its waiters one answer, and nothing
// else: what it held is free, and the panic's text, which may be anything, is not
// in the log.
func TestRefreshThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var transport *panicking
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		http := *b.as.HTTPClient()
		transport = &panicking{RoundTripper: http.Transport}
		http.Transport = transport
		client, err := oauth.New(oauth.Config{
			Issuer: b.as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic",
			ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: &http, Logger: discard(),
		})
		if err != nil {
			t.Fatal(err)
		}
		b.m = b.manager(func(c *session.Config) { c.Client = client })
		br := browser{}
		b.login(br)
		time.Sleep(10 * time.Second)
		transport.now.Store(true)
		began := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := b.token(br); err == nil {
					t.Error("got a token that had run out")
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("the waiters were kept for %v", took)
		}
		time.Sleep(2 * time.Second)
		b.mustToken(br)
		b.refreshes(1)
		if log := b.log.String(); !strings.Contains(log, "refresh panicked") || strings.Contains(log, "out of luck") {
			t.Errorf("the log should tell of the panic, without its text:\n%s", log)
		}
	})
}
