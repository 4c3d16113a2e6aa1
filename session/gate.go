// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// maxCalls is how many refreshes, or token exchanges, for one purpose call one
	// authorization server at a time.
	maxCalls = 32
	// maxGates is how many gates are remembered, if nothing is going on at them.
	maxGates = 1024
	// gateFailures in a row, or more than half of at least gateSample calls
	// within gateWindow, close the gate.
	gateFailures = 5
	gateSample   = 20
	gateWindow   = 10 * time.Second
	// gateProbe is how often, while the gate is closed, one call is let through
	// to see whether the authorization server is back.
	gateProbe = 2 * time.Second
	// maxQueued is how many refreshes wait for a place. It is beyond what may run
	// out in the same second: a thousand sessions that began together are a
	// thousand calls, and none of them is turned away. Whoever is, asks again.
	maxQueued = 4096
	// queueRetry is when that makes sense.
	queueRetry = 2 * time.Second
)

// errGateClosed goes with the outage that others have met.
var errGateClosed = errors.New("the token endpoint is left in peace for a moment")

// errQueueFull: too many refreshes wait already.
var errQueueFull = errors.New("too many refreshes wait for the token endpoint")

// gates are the gates of a process, for all the managers that there are and will
// be. They are safe for concurrent use.
type gates struct {
	mu sync.Mutex
	m  map[gateID]*gate
}

// gateID says before what a gate stands. Each purpose has its own: a server that
// fails, or hangs, for one resource may well serve the others.
type gateID struct {
	issuer  string
	purpose purposeID
}

func (g *gates) of(id gateID) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if found := g.m[id]; found != nil {
		return found
	}
	if len(g.m) >= maxGates {
		maps.DeleteFunc(g.m, func(_ gateID, found *gate) bool { return found.idle() })
	}
	if g.m == nil {
		g.m = make(map[gateID]*gate)
	}
	made := newGate()
	g.m[id] = made
	return made
}

// gate gives the one that calls for an aim go through.
func (m *Manager) gate(to aim) *gate {
	return m.cfg.Backend.gates.of(gateID{issuer: m.cfg.Issuer, purpose: to.id})
}

// gate stands before the token endpoint of one authorization server. It bounds
// how many refreshes call at a time, and keeps them away while the server is
// out, so that its return is not a storm. It is safe for concurrent use.
type gate struct {
	places chan struct{}
	queued atomic.Int64 // refreshes that wait for a place

	mu         sync.Mutex
	inARow     int
	began      time.Time // of the window
	calls      int       // in the window
	failed     int       // of these
	closed     bool
	closedTill time.Time // then one call may probe
	why        error     // it is closed
	probing    bool
}

func newGate() *gate { return &gate{places: make(chan struct{}, maxCalls)} }

// idle reports that nobody is at the gate and that it is open: forgetting it costs
// nothing.
func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.places) == 0 && !g.closed
}

// pass is the permission to call once. It has to be given back, once.
type pass struct {
	g     *gate
	probe bool
}

// refusal says why nobody may call now, or nil. The observer is the caller's.
func (g *gate) refusal(now time.Time, observer Observer) error {
	if g.queued.Load() >= maxQueued {
		return turnedAway(observer)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refuses(now)
}

func turnedAway(observer Observer) error {
	observer.LimitReached(LimitCallQueue)
	return &UnavailableError{RetryAfter: queueRetry, Err: errQueueFull}
}

func (g *gate) refuses(now time.Time) error {
	switch {
	case !g.closed:
		return nil
	case now.Before(g.closedTill):
		return &UnavailableError{RetryAfter: max(g.closedTill.Sub(now), time.Second), Err: g.why}
	case g.probing:
		return &UnavailableError{RetryAfter: gateProbe, Err: g.why}
	}
	return nil
}

// enter waits for a place. waited reports that it took a while, in which
// anything may have happened.
func (g *gate) enter(ctx context.Context, observer Observer) (p *pass, waited bool, err error) {
	if err := g.refusal(time.Now(), observer); err != nil {
		return nil, false, err
	}
	select {
	case g.places <- struct{}{}:
	default:
		waited = true
		if err := g.queue(ctx, observer); err != nil {
			return nil, true, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.refuses(time.Now()); err != nil {
		<-g.places
		return nil, waited, err
	}
	p = &pass{g: g, probe: g.closed}
	g.probing = g.probing || p.probe
	return p, waited, nil
}

// queue waits until a place is free, and takes it.
func (g *gate) queue(ctx context.Context, observer Observer) error {
	defer g.queued.Add(-1)
	if g.queued.Add(1) > maxQueued {
		return turnedAway(observer)
	}
	observer.LimitReached(LimitCalls)
	select {
	case g.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &UnavailableError{RetryAfter: time.Second, Err: context.Cause(ctx)}
	}
}

// unused gives the pass back without a call.
func (p *pass) unused() {
	<-p.g.places
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.g.probing = p.g.probing && !p.probe
}

// used gives the pass back after a call that ended with err. Any answer that
// makes sense is one of a server that works.
func (p *pass) used(err error) {
	p.unused()
	g, now := p.g, time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.began) > gateWindow {
		g.began, g.calls, g.failed = now, 0, 0
	}
	g.calls++
	if !out(err) {
		g.inARow = 0
		if g.closed {
			g.closed, g.began, g.calls, g.failed = false, now, 0, 0
		}
		return
	}
	g.inARow++
	g.failed++
	if p.probe || g.inARow >= gateFailures || g.calls >= gateSample && 2*g.failed > g.calls {
		g.closed, g.closedTill = true, now.Add(max(gateProbe, retryAfter(err)))
		g.why = fmt.Errorf("%w: %w", errGateClosed, err)
	}
}

// out reports an error of a server that does not work at the moment.
func out(err error) bool {
	if err == nil {
		return false
	}
	switch oauth.ClassOf(err) {
	case oauth.ClassOutage, oauth.ClassAmbiguous, oauth.ClassNotSent:
		return true
	}
	return false
}

// retryAfter is what the authorization server asked for, or nothing.
func retryAfter(err error) time.Duration {
	var answer *oauth.Error
	if errors.As(err, &answer) {
		return answer.RetryAfter
	}
	return 0
}
