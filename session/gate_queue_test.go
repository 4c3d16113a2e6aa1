// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type limitsReached struct {
	unobserved
	calls, queue atomic.Int64
}

func (l *limitsReached) LimitReached(limit Limit) {
	switch limit {
	case LimitCalls:
		l.calls.Add(1)
	case LimitCallQueue:
		l.queue.Add(1)
	}
}

// H204: thirty-two call at a time, some thousands wait for a place, and more are
// turned away at once, before and after they have seen the store.
func TestQueueOfTheGateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reached limitsReached
		g := newGate()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var passed atomic.Int64
		leave := make(chan struct{})
		for range maxCalls + maxQueued {
			go func() {
				if p, _, err := g.enter(ctx, &reached); err == nil {
					passed.Add(1)
					<-leave
					p.used(nil)
				}
			}()
		}
		synctest.Wait()
		if n := passed.Load(); n != maxCalls {
			t.Fatalf("%d passed", n)
		}
		var u *UnavailableError
		for name, err := range map[string]error{"a session": g.refusal(time.Now(), &reached), "a refresh": g.queue(ctx, &reached)} {
			if !errors.As(err, &u) || !errors.Is(err, errQueueFull) || u.RetryAfter != queueRetry {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if reached.calls.Load() != maxQueued || reached.queue.Load() != 2 {
			t.Errorf("counted: %d waited, %d turned away", reached.calls.Load(), reached.queue.Load())
		}
		leave <- struct{}{}
		synctest.Wait()
		if err := g.refusal(time.Now(), &reached); err != nil || passed.Load() != maxCalls+1 {
			t.Errorf("a place is free, %d passed: %v", passed.Load(), err)
		}
		cancel() // who gives up leaves the queue
		synctest.Wait()
		if n := g.queued.Load(); n != 0 {
			t.Errorf("%d are left", n)
		}
		close(leave)
		synctest.Wait()
		p, waited, err := g.enter(t.Context(), &reached)
		if err != nil || waited {
			t.Errorf("an idle gate: waited %t, %v", waited, err)
		}
		p.unused()
	})
}
