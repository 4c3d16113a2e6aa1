// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// flood has n requests of a browser wait for a token, and gives the function that
// tells how many got one, were turned away, or got anything else.
func (b *bench) flood(ctx context.Context, br browser, n int) (result func() (tokens, away, others int)) {
	b.t.Helper()
	var mu sync.Mutex
	var tokens, away, others int
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			s, err := b.open(br)
			if err == nil {
				_, err = s.Token(ctx)
			}
			var u *session.UnavailableError
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				tokens++
			case errors.As(err, &u) && u.RetryAfter == 2*time.Second:
				away++
			default:
				others++
			}
		})
	}
	synctest.Wait()
	return func() (int, int, int) {
		wg.Wait()
		return tokens, away, others
	}
}

// H203: a thousand requests wait for one session, and no more; none longer than
// ten seconds. Who is turned away is told when to come back, and takes no part of
// the bound with him.
func TestWaitersOfASessionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		b.login(br)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 5 * time.Second })
		time.Sleep(10 * time.Minute)
		waiting := b.flood(t.Context(), br, 1000)
		for range 3 {
			if tokens, away, others := b.flood(t.Context(), br, 7)(); tokens != 0 || away != 7 || others != 0 {
				t.Errorf("beyond the bound: %d tokens, %d turned away, %d others", tokens, away, others)
			}
		}
		b.counted("limit", map[string]int{"session_waiters": 21})
		if tokens, away, others := waiting(); tokens != 1000 || away != 0 || others != 0 {
			t.Errorf("within it: %d tokens, %d turned away, %d others", tokens, away, others)
		}
		b.refreshes(1)

		// Those who go before the end leave their places.
		time.Sleep(10 * time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		impatient := b.flood(ctx, br, 1000)
		cancel()
		if tokens, away, others := impatient(); others != 1000 {
			t.Errorf("%d tokens, %d turned away, %d others", tokens, away, others)
		}
		if tokens, _, _ := b.flood(t.Context(), br, 1000)(); tokens != 1000 {
			t.Errorf("%d tokens where all had gone", tokens)
		}
		b.refreshes(2)
	})
}

// H203: ten thousand wait for all sessions together. Who is turned away has the
// refresh begun all the same.
func TestWaitersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Second})
		all := b.crowd(21)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 20 * time.Second })
		time.Sleep(10 * time.Second)
		began := time.Now()
		var results []func() (int, int, int)
		for _, br := range all {
			results = append(results, b.flood(t.Context(), br, 500))
		}
		b.counted("limit", map[string]int{"waiters": 500})
		for i, result := range results {
			tokens, away, others := result()
			if i < 20 && (tokens != 0 || away != 0 || others != 500) || i == 20 && away != 500 {
				t.Errorf("browser %d: %d tokens, %d turned away, %d others", i, tokens, away, others)
			}
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("the last waited %v", waited)
		}
		time.Sleep(11 * time.Second)
		b.refreshes(21)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = 0 })
		b.mustToken(all[20])
	})
}

// H203: those who wait for a token exchange do not stand in the way of the refresh
// that the exchange itself waits for.
func TestWaitersOfAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour, Latency: map[string]time.Duration{astest.Token: time.Second}}, patient)
		br := browser{}
		b.login(br)
		b.as.Script(astest.Token, astest.OAuthError(400, "invalid_grant"))
		var failed atomic.Int64
		together(1000, func(int) {
			if _, err := b.tokenFor(br, swapped); err != nil {
				failed.Add(1)
			}
		})
		if failed.Load() != 0 {
			t.Errorf("%d of 1000 got no token", failed.Load())
		}
	})
}
