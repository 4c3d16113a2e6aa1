// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// policy is what an authorization server does with a used refresh token, and what
// the gateway is told of it.
type policy struct {
	name     string
	as       astest.Options
	rotation string
	lease    time.Duration // until another instance takes over
}

var policies = []policy{
	{"no rotation", astest.Options{Rotation: astest.RotateSame}, "none", 5 * time.Second},
	{"grace", astest.Options{Rotation: astest.RotateGrace, Grace: 30 * time.Second}, "grace 9s", 3 * time.Second},
	{"strict", astest.Options{Rotation: astest.RotateStrict}, "strict", 15 * time.Second},
}

// trap kills an instance when a point of its next refresh has come.
type trap struct {
	victim *instance
	asked  atomic.Bool // the authorization server has the request
	sprung atomic.Bool
}

func (tr *trap) kill() {
	if !tr.sprung.Swap(true) {
		tr.victim.process.kill()
	}
}

// onWrite decides about the writes of records: the first is the intent, and the
// first after the authorization server was asked the commit.
func (tr *trap) onWrite(intent, commit func() redistest.Fault) {
	tr.victim.redis.Rule(func(command []string) redistest.Fault {
		if !strings.HasPrefix(command[0], "EVAL") {
			return redistest.Fault{}
		}
		if decide := map[bool]func() redistest.Fault{false: intent, true: commit}[tr.asked.Load()]; decide != nil {
			return decide()
		}
		return redistest.Fault{}
	})
}

// unacknowledged has a write executed and its reply lost, and kills the instance
// when it asks again.
func (tr *trap) unacknowledged() func() redistest.Fault {
	var executed atomic.Bool
	return func() redistest.Fault {
		if executed.Swap(true) {
			tr.kill()
			return redistest.Fault{LoseRequest: true}
		}
		return redistest.Fault{LoseReply: true}
	}
}

// onCall decides about the call of the authorization server.
func (tr *trap) onCall(answer astest.Answer, arrived func()) {
	answer.OnRequest = func(astest.Request) {
		tr.asked.Store(true)
		if arrived != nil {
			arrived()
		}
	}
	tr.victim.f.as.Script(astest.Token, answer)
}

type killPoint struct {
	name string
	lost bool
	arm  func(*trap)
}

// killPoints are HARDENING's K1 to K9. lost says where the session may be lost
// with a strict server; it never may with the others.
var killPoints = []killPoint{
	{"K1 intent not executed", false, func(tr *trap) {
		tr.onWrite(func() redistest.Fault { tr.kill(); return redistest.Fault{LoseRequest: true} }, nil)
	}},
	{"K1 intent executed, not acknowledged", false, func(tr *trap) {
		tr.onWrite(tr.unacknowledged(), nil)
	}},
	{"K2 intent acknowledged, nothing sent", false, func(tr *trap) {
		tr.onCall(astest.Answer{CutUnread: true}, tr.kill)
	}},
	{"K3 request arrived, not acted upon", false, func(tr *trap) {
		tr.onCall(astest.Answer{Cut: true}, tr.kill)
	}},
	{"K4 acted upon, not answered", true, func(tr *trap) {
		tr.onCall(astest.Answer{DelayReply: 300 * time.Millisecond, CutReply: true}, func() { time.AfterFunc(150*time.Millisecond, tr.kill) })
	}},
	{"K5 answered", true, func(tr *trap) {
		tr.onCall(astest.Answer{DelayReply: 100 * time.Millisecond}, func() { time.AfterFunc(101*time.Millisecond, tr.kill) })
	}},
	{"K6 store refuses the commit, then killed", true, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault {
			time.AfterFunc(500*time.Millisecond, tr.kill)
			return redistest.Fault{Answer: "-OOM command not allowed when used memory > 'maxmemory'."}
		})
	}},
	{"K7 commit sent, not executed", true, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { tr.kill(); return redistest.Fault{LoseRequest: true} })
	}},
	{"K8 commit executed, not acknowledged", false, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, tr.unacknowledged())
	}},
	{"K9 commit acknowledged", false, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { time.AfterFunc(50*time.Millisecond, tr.kill); return redistest.Fault{} })
	}},
}

// HARDENING G4: a gateway is killed at every point of a refresh, for every kind
// of authorization server, and another goes on. No session but that one is
// touched, and that one is lost only where nothing could have saved it.
func TestKillPoints(t *testing.T) {
	// They wait more than they work, so more of them go on at a time than there
	// are processors.
	limit := make(chan struct{}, 12)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, p := range policies {
		for _, point := range killPoints {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				t.Run(p.name+"/"+point.name, func(t *testing.T) { testKillPoint(t, p, point) })
			})
		}
	}
}

func testKillPoint(t *testing.T, p policy, point killPoint) {
	o := p.as
	o.AccessTokenLifetime = 2 * time.Second
	f := newFleet(t, fleetOptions{instances: 2, as: o, rotation: p.rotation})
	victim, survivor := f.instances[0], f.instances[1]
	o.AccessTokenLifetime = time.Hour
	f.as.Configure(func(as *astest.Options) { as.AccessTokenLifetime = time.Hour })
	bystander := survivor.login()
	f.as.Configure(func(as *astest.Options) { as.AccessTokenLifetime = 2 * time.Second })
	v := victim.login()
	time.Sleep(2100 * time.Millisecond)
	f.as.Configure(func(as *astest.Options) { as.AccessTokenLifetime = time.Hour })

	tr := &trap{victim: victim}
	point.arm(tr)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if status, err := victim.call(ctx, v); err == nil && status == http.StatusUnauthorized {
		t.Errorf("the victim answered %d", status)
	}
	select {
	case <-victim.process.exited:
	case <-time.After(5 * time.Second):
		t.Fatal("the trap was not sprung")
	}
	f.as.ClearScript(astest.Token)

	status, took := survivor.settles(v, p.lease+20*time.Second)
	lost := status == http.StatusUnauthorized
	t.Logf("status %d after %s, %d presentations", status, took.Round(100*time.Millisecond), len(f.as.RefreshRequests()))
	if lost && !(point.lost && p.name == "strict") {
		t.Error("the session is lost")
	}
	if took > p.lease+12*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := len(f.as.RefreshRequests()); n > 2 {
		t.Errorf("the refresh token was presented %d times", n)
	}
	survivor.mustCall(bystander)
	// The victim comes back, and finds what there is.
	victim.redis.Rule(nil)
	victim.start()
	victim.mustCall(bystander)
	if again, _ := victim.settles(v, 30*time.Second); again != status {
		t.Errorf("the victim, started again, answers %d", again)
	}
	if n := len(f.as.RefreshRequests()); n > 2 {
		t.Errorf("the refresh token was presented %d times", n)
	}
}

// K6 without a kill: a process that is asked to end while the store takes nothing
// leaves the new tokens to the next one. Nothing is lost with any server.
func TestSpoolOutlivesTheProcess(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, p := range policies {
		wg.Go(func() {
			t.Run(p.name, func(t *testing.T) {
				o := p.as
				o.AccessTokenLifetime = 2 * time.Second
				f := newFleet(t, fleetOptions{instances: 1, as: o, rotation: p.rotation})
				in := f.instances[0]
				v := in.login()
				time.Sleep(2100 * time.Millisecond)
				f.as.Configure(func(as *astest.Options) { as.AccessTokenLifetime = time.Hour })
				tr := &trap{victim: in}
				tr.onCall(astest.Answer{}, nil)
				tr.onWrite(nil, func() redistest.Fault {
					return redistest.Fault{Answer: "-READONLY You can't write against a read only replica."}
				})
				in.mustCall(v) // with tokens that are nowhere but in this process
				if err := in.process.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				select {
				case <-in.process.exited:
				case <-time.After(30 * time.Second):
					t.Fatal("the gateway does not end")
				}
				in.redis.Rule(nil)
				in.start()
				in.mustCall(v)
				f.refreshes(1)
			})
		})
	}
}
