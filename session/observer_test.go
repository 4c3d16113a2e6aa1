// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// tally counts what an observer is told, as "refresh early ok" for instance.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
	calls  []time.Duration // of refreshes
	took   []time.Duration // of the store
}

func (c *tally) add(words ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[strings.Join(words, " ")]++
}

func (c *tally) LoginEnded(o session.LoginOutcome) { c.add("login", string(o)) }

func (c *tally) RefreshEnded(trigger session.RefreshTrigger, result session.RefreshResult, call time.Duration) {
	c.add("refresh", string(trigger), string(result))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
}

func (c *tally) SessionEnded(r session.Reason) { c.add("end", string(r)) }

func (c *tally) LimitReached(l session.Limit) { c.add("limit", string(l)) }

func (c *tally) StoreCalled(op session.StoreOp, result session.StoreResult, took time.Duration) {
	c.add("store", op.String(), result.String())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, took)
}

// of gives what was told of one kind of event, without the first word.
func (c *tally) of(kind string) map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := make(map[string]int)
	for what, n := range c.counts {
		if rest, ok := strings.CutPrefix(what, kind+" "); ok {
			got[rest] = n
		}
	}
	return got
}

// counted checks all that was told of one kind of event.
func (b *bench) counted(kind string, want map[string]int) {
	b.t.Helper()
	if got := b.tally.of(kind); !maps.Equal(got, want) {
		b.t.Errorf("%s: counted %v, want %v", kind, got, want)
	}
}

// Each end of a session is counted once, whoever sees it afterwards.
func TestEndsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 24 * time.Hour}, func(c *session.Config) { c.MaxPerUser = 3 })
		all := []browser{{}, {}, {}, {}}
		for _, br := range all {
			b.login(br)
			time.Sleep(time.Second)
		}
		b.ended(all[0], session.ReasonLimit)
		if _, err := mustOpen(t, b, all[1]).Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			time.Sleep(time.Minute)
			extend(t, mustOpen(t, b, all[2]))
		}
		time.Sleep(20 * time.Minute)
		extend(t, mustOpen(t, b, all[2]))
		for range 3 {
			b.ended(all[0], session.ReasonLimit)
			b.ended(all[1], session.ReasonLoggedOut)
			b.ended(all[3], session.ReasonIdle)
			synctest.Wait()
		}
		for {
			time.Sleep(10 * time.Minute)
			s, err := b.open(all[2])
			if err != nil {
				break
			}
			extend(t, s)
		}
		b.ended(all[2], session.ReasonLifetime)
		synctest.Wait()
		b.counted("end", map[string]int{"limit": 1, "logged_out": 1, "idle": 1, "lifetime": 1})
	})
}

// What the sets say is all there is.
func TestClosedSets(t *testing.T) {
	for name, all := range map[string][]string{
		"outcomes": words(session.LoginOutcomes()), "triggers": words(session.RefreshTriggers()), "results": words(session.RefreshResults()),
		"reasons": words(session.EndReasons()), "limits": words(session.Limits()),
	} {
		slices.Sort(all)
		if len(slices.Compact(slices.Clone(all))) != len(all) || slices.Contains(all, "") {
			t.Errorf("%s: %q", name, all)
		}
	}
	for _, op := range session.StoreOps() {
		if op.String() == "" {
			t.Errorf("operation %d has no name", op)
		}
	}
	for _, r := range session.StoreResults() {
		if r.String() == "" {
			t.Errorf("result %d has no name", r)
		}
	}
}

func words[T ~string](all []T) (w []string) {
	for _, v := range all {
		w = append(w, string(v))
	}
	return w
}
