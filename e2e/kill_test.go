// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
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

// trap does something to an instance, once, when a point of its next refresh has
// come.
type trap struct {
	victim *instance
	act    func()
	asked  atomic.Bool // the authorization server has the request
	sprung atomic.Bool
}

func (tr *trap) spring() {
	if !tr.sprung.Swap(true) {
		tr.act()
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

// unacknowledged has a write executed and its reply lost, and springs the
// trap when it asks again.
func (tr *trap) unacknowledged() func() redistest.Fault {
	var executed atomic.Bool
	return func() redistest.Fault {
		if executed.Swap(true) {
			tr.spring()
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
		tr.onWrite(func() redistest.Fault { tr.spring(); return redistest.Fault{LoseRequest: true} }, nil)
	}},
	{"K1 intent executed, not acknowledged", false, func(tr *trap) {
		tr.onWrite(tr.unacknowledged(), nil)
	}},
	{"K2 intent acknowledged, nothing sent", false, func(tr *trap) {
		tr.onCall(astest.Answer{CutUnread: true}, tr.spring)
	}},
	{"K3 request arrived, not acted upon", false, func(tr *trap) {
		tr.onCall(astest.Answer{Cut: true}, tr.spring)
	}},
	{"K4 acted upon, not answered", true, func(tr *trap) {
		tr.onCall(astest.Answer{DelayReply: 300 * time.Millisecond, CutReply: true}, func() { time.AfterFunc(150*time.Millisecond, tr.spring) })
	}},
	{"K5 answered", true, func(tr *trap) {
		tr.onCall(astest.Answer{DelayReply: 100 * time.Millisecond}, func() { time.AfterFunc(101*time.Millisecond, tr.spring) })
	}},
	{"K6 store refuses the commit, then killed", true, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault {
			time.AfterFunc(500*time.Millisecond, tr.spring)
			return redistest.Fault{Answer: "-OOM command not allowed when used memory > 'maxmemory'."}
		})
	}},
	{"K7 commit sent, not executed", true, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { tr.spring(); return redistest.Fault{LoseRequest: true} })
	}},
	{"K8 commit executed, not acknowledged", false, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, tr.unacknowledged())
	}},
	{"K9 commit acknowledged", false, func(tr *trap) {
		tr.onCall(astest.Answer{}, nil)
		tr.onWrite(nil, func() redistest.Fault { time.AfterFunc(50*time.Millisecond, tr.spring); return redistest.Fault{} })
	}},
}

// cell is a cell of the matrix: what became of its repetitions.
type cell struct {
	p     policy
	point killPoint

	runs, lost    int
	presentations [3]int // runs with none, one, two
	unavailable   int    // most answers 503 that a browser saw
	takeover      time.Duration
	settled       time.Duration
}

func (c *cell) String() string {
	return fmt.Sprintf("%-12s %-40s %3d runs, %2d lost, refresh token presented once %d times and twice %d times, taken over within %5.1f s, settled within %5.1f s after %d answers 503 at most",
		c.p.name, c.point.name, c.runs, c.lost, c.presentations[1], c.presentations[2], c.takeover.Seconds(), c.settled.Seconds(), c.unavailable)
}

// HARDENING G4: a gateway is killed at every point of a refresh, for every kind
// of authorization server, and another goes on. No session but that one is
// touched, and that one is lost only where nothing could have saved it. What
// BFF_KILL_REPETITIONS says is how often; by default once.
func TestKillPoints(t *testing.T) {
	n := repetitions(t, killRepetitions, 1)
	// They wait more than they work, so more of them go on at a time than there
	// are processors.
	limit := make(chan struct{}, 12)
	var cells []*cell
	var wg sync.WaitGroup
	for _, p := range slices.Backward(policies) { // the longest leases first
		for _, point := range killPoints {
			c := &cell{p: p, point: point}
			cells = append(cells, c)
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				t.Run(p.name+"/"+point.name, func(t *testing.T) { testKillPoint(t, c, n) })
			})
		}
	}
	wg.Wait()
	for _, c := range cells {
		if c.runs > 0 {
			t.Logf("%s", c)
		}
	}
}

func testKillPoint(t *testing.T, c *cell, repetitions int) {
	o := c.p.as
	o.AccessTokenLifetime = time.Hour
	f := newFleet(t, fleetOptions{instances: 2, as: o, rotation: c.p.rotation, admin: true})
	others := []visitor{f.loginAs("bystander 0", f.instances[0], time.Hour), f.loginAs("bystander 1", f.instances[1], time.Hour)}
	// The script that changes records is at the server, so that the first attempt
	// to run it is the one that counts.
	f.instances[0].extend(others[0])
	for i := range repetitions {
		if v, kept := c.run(f, i); kept {
			others = append(others, v)
		}
		for _, in := range f.instances {
			for _, other := range others {
				in.mustCall(other)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// loginAs signs a user in whose first access token lives so long.
func (f *fleet) loginAs(user string, in *instance, life time.Duration) visitor {
	f.t.Helper()
	f.as.Configure(func(o *astest.Options) { o.User, o.AccessTokenLifetime = user, life })
	defer f.as.Configure(func(o *astest.Options) { o.AccessTokenLifetime = time.Hour })
	return in.login()
}

// run kills the first instance once, and sees how the second goes on.
func (c *cell) run(f *fleet, i int) (v visitor, kept bool) {
	t, p := f.t, c.p
	victim, survivor := f.instances[0], f.instances[1]
	user := "user " + strconv.Itoa(i)
	v = f.loginAs(user, victim, 2*time.Second)
	time.Sleep(2100 * time.Millisecond)
	f.as.ForgetRequests()
	counted, err := survivor.refreshResults()
	if err != nil {
		t.Fatal(err)
	}

	tr := &trap{victim: victim, act: victim.process.kill}
	c.point.arm(tr)
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
	killed := time.Now()
	f.as.ClearScript(astest.Token)

	s := survivor.settles(v, p.lease+20*time.Second)
	lost := s.status == http.StatusUnauthorized
	presented := f.as.RefreshRequests()
	c.runs++
	c.settled = max(c.settled, s.took)
	c.unavailable = max(c.unavailable, s.unavailable)
	recovered, given := 0, 0
	for _, r := range presented {
		if r.Token != presented[0].Token {
			t.Error("the refresh token of another session was presented, or one that came of this refresh")
		}
		after := r.Time.Sub(killed)
		c.takeover = max(c.takeover, after)
		switch {
		case after < p.lease-tardiness: // the victim's, or one with no attempt in its way
		case lost:
			given++
		default:
			recovered++
		}
	}
	survivor.counts(counted, recovered, given)
	if lost {
		c.lost++
		f.welcome(survivor, v, user)
	}
	if lost && !(c.point.lost && p.name == "strict") {
		t.Error("the session is lost")
	}
	// The survivor looks at the record as soon as it is asked, and then once a
	// second.
	if limit := p.lease + time.Second + tardiness; c.takeover > limit || s.took > limit+time.Second {
		t.Errorf("taken over after %s, settled after %s", c.takeover, s.took)
	}
	// A request waits ten seconds at most, and is told then to come again.
	if most := int((p.lease+tardiness)/(10*time.Second)) + 1; s.unavailable > most {
		t.Errorf("%d answers 503", s.unavailable)
	}
	// The victim comes back, and finds what there is.
	victim.redis.Rule(nil)
	victim.start()
	if again := victim.settles(v, 30*time.Second); again.status != s.status {
		t.Errorf("the victim, started again, answers %d", again.status)
	}
	n := len(f.as.RefreshRequests())
	if n > 2 {
		t.Fatalf("the refresh token was presented %d times", n)
	}
	c.presentations[n]++
	if !lost && f.as.Count(astest.Revoke) != 0 {
		t.Error("something was revoked")
	}
	return v, !lost
}

// tardiness is what a machine with more to do may add to what is measured.
const tardiness = time.Second

// welcome checks that whoever has lost a session is told once where to sign in,
// and that this is all it takes.
func (f *fleet) welcome(in *instance, v visitor, user string) {
	f.t.Helper()
	status, body, err := in.answer(f.t.Context(), v)
	var problem struct {
		Code     string `json:"code"`
		LoginURL string `json:"login_url"`
	}
	if err != nil || status != http.StatusUnauthorized || json.Unmarshal(body, &problem) != nil || problem.LoginURL == "" {
		f.t.Errorf("a lost session is answered %d, %v: %s", status, err, body)
	}
	in.mustCall(f.loginAs(user, in, time.Hour))
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
