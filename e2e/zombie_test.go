// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// stop has the process stand still, as a frozen container does; goOn ends that.
func (in *instance) stop() { _ = in.process.cmd.Process.Signal(syscall.SIGSTOP) }
func (in *instance) goOn() { _ = in.process.cmd.Process.Signal(syscall.SIGCONT) }

// standstill is a moment in which the owner of an attempt drops out without
// dying, and comes back when another has taken over.
type standstill struct {
	name      string
	partition bool // cut off from Redis, which is a black hole; else stopped
	takeover  bool // others have an attempt to wait for
	lost      bool // with a strict server the session may be
	late      bool // the server acts upon the owner's call when all is over
	presented int  // how often the refresh token is
	arm       func(*trap, policy)
}

// standstills are those of the points of HARDENING's G4 at which the owner has
// something to do that another could do too.
var standstills = []standstill{
	{"stopped, intent executed, acknowledgement not read", false, true, false, false, 1, func(tr *trap, _ policy) {
		tr.onWrite(func() redistest.Fault { tr.spring(); return redistest.Fault{Delay: 100 * time.Millisecond} }, nil)
	}},
	{"stopped, request acted upon, answer not read", false, true, true, false, 2, func(tr *trap, _ policy) {
		tr.onCall(astest.Answer{Delay: 100 * time.Millisecond}, tr.spring)
	}},
	{"stopped, request not acted upon, connection cut", false, true, false, false, 2, func(tr *trap, _ policy) {
		tr.onCall(astest.Answer{Delay: 100 * time.Millisecond, Cut: true}, tr.spring)
	}},
	{"stopped, commit on its way until after the return", false, true, true, false, 2, func(tr *trap, p policy) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { tr.spring(); return redistest.Fault{Delay: 2*p.lease + time.Second} })
	}},
	{"stopped, commit lost", false, true, true, false, 2, func(tr *trap, _ policy) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { tr.spring(); return redistest.Fault{LoseRequest: true} })
	}},
	{"cut off, intent on its way until after the return", true, false, false, false, 1, func(tr *trap, _ policy) {
		tr.onWrite(func() redistest.Fault { tr.spring(); return redistest.Fault{} }, nil)
	}},
	{"cut off during the call, commit on its way until after the return", true, true, true, false, 2, func(tr *trap, _ policy) {
		tr.onCall(astest.Answer{}, tr.spring)
	}},
	{"cut off during a call that is acted upon after the return", true, true, true, true, 2, func(tr *trap, p policy) {
		tr.onCall(astest.Answer{Delay: 2*p.lease + time.Second}, tr.spring)
	}},
}

// HARDENING G4, F105, RF-04: the owner of an attempt stands still, or is cut off from
// Redis, for two leases. Others take over when one has passed. Then it goes on
// where it was: its commit is refused, it presents nothing more and revokes
// nothing, and its visitors get what the others have. No session but that one is
// touched, and that one is lost only with a strict server, at the points where
// the server had rotated.
func TestOwnerComesBack(t *testing.T) {
	t.Parallel()
	limit := make(chan struct{}, 12)
	var results []string
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range slices.Backward(policies) { // the longest leases first
		for _, s := range standstills {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				t.Run(p.name+"/"+s.name, func(t *testing.T) {
					result := s.test(t, p)
					mu.Lock()
					defer mu.Unlock()
					results = append(results, result)
				})
			})
		}
	}
	wg.Wait()
	slices.Sort(results)
	for _, r := range results {
		t.Log(r)
	}
}

func (s standstill) test(t *testing.T, p policy) string {
	f := newFleet(t, fleetOptions{instances: 3, as: p.as, rotation: p.rotation})
	owner, others := f.instances[0], f.instances[1:]
	bystander := f.loginAs("bystander", owner, time.Hour)
	owner.extend(bystander) // so that the script which changes records is at the server
	v := f.loginAs("user", owner, 2*time.Second)
	time.Sleep(2100 * time.Millisecond)
	f.as.ForgetRequests()

	out := make(chan struct{})
	tr := &trap{victim: owner, act: func() {
		defer close(out)
		if s.partition {
			owner.redis.Die()
		} else {
			owner.stop()
		}
	}}
	s.arm(tr, p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if status, err := owner.call(ctx, v); err == nil && status == http.StatusUnauthorized {
		t.Errorf("the owner answered %d", status)
	}
	select {
	case <-out:
	case <-time.After(5 * time.Second):
		t.Fatal("the trap was not sprung")
	}
	since := time.Now()
	owner.redis.Rule(nil)

	// Both others are asked at once: one of them takes over.
	settlement := make([]settled, len(others))
	var wg sync.WaitGroup
	for i, in := range others {
		wg.Go(func() { settlement[i] = in.settles(v, p.lease+20*time.Second) })
	}
	wg.Wait()
	status := settlement[0].status
	lost := status == http.StatusUnauthorized
	took := max(settlement[0].took, settlement[1].took)
	if settlement[1].status != status {
		t.Errorf("the others answer %d and %d", status, settlement[1].status)
	}
	if limit := p.lease + time.Second + tardiness; took > limit || s.takeover && took < p.lease-time.Second-tardiness {
		t.Errorf("taken over after %s, the lease is %s", took, p.lease)
	}
	// Whom the owner still serves may have 503, or be served with the tokens that
	// only the owner has.
	meanwhile := make(map[int]int)
	for time.Since(since) < 2*p.lease {
		if s.partition {
			ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
			got, err := owner.call(ctx, v)
			cancel()
			if err != nil {
				t.Errorf("cut off, the owner: %v", err)
			}
			meanwhile[got]++
		}
		time.Sleep(300 * time.Millisecond)
	}
	before := len(f.as.RefreshRequests())
	if s.partition {
		owner.redis.Revive()
	} else {
		owner.goOn()
	}
	back := owner.settles(v, 30*time.Second)
	time.Sleep(2 * time.Second) // what was held up comes through
	want := s.presented
	if s.late && p.name == "strict" {
		// To the server the owner's call is a reuse: it revokes what the others
		// got, and whoever asks next finds out.
		lost, status, want = true, http.StatusUnauthorized, want+1
	}
	for _, in := range f.instances {
		if got, err := in.call(t.Context(), v); got != status || err != nil {
			t.Errorf("in the end instance %d answers %d, %v", in.number, got, err)
		}
		in.mustCall(bystander)
	}
	presented := f.as.RefreshRequests()
	for _, r := range presented[:min(s.presented, len(presented))] {
		if r.Token != presented[0].Token {
			t.Error("the refresh token of another session was presented, or one that came of this refresh")
		}
	}
	if len(presented) != want {
		t.Errorf("the refresh token was presented %d times, %d of these after the return", len(presented), len(presented)-before)
	}
	if lost && !(s.lost && p.name == "strict") {
		t.Error("the session is lost")
	}
	if n := f.as.Count(astest.Revoke); n != 0 && !lost {
		t.Errorf("%d revocations", n)
	}
	for got := range meanwhile {
		if got != http.StatusOK && got != http.StatusServiceUnavailable && !(lost && got == http.StatusUnauthorized) {
			t.Errorf("cut off, the owner answers %d", got)
		}
	}
	result := fmt.Sprintf("%-12s %-66s lost %-5t presented %d times, others settled after %4.1f s, the owner %4.1f s after its return",
		p.name, s.name, lost, len(presented), took.Seconds(), back.took.Seconds())
	for _, got := range slices.Sorted(maps.Keys(meanwhile)) {
		result += fmt.Sprintf(", answered %d %d times while it was cut off", got, meanwhile[got])
	}
	return result
}
