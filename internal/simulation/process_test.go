// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	origin   = "https://app.test"
	callback = origin + "/bff/callback"
	issuer   = "https://as.test"
)

// process is one gateway process: everything that it remembers is in here, and
// the world reaches it through its store handle and its transport alone.
type process struct {
	w    *world
	slot int
	name string

	backend *session.Backend
	manager *session.Manager
	site    *session.Site
	dead    chan struct{} // closed by a crash

	requests sync.WaitGroup

	mu        sync.Mutex
	crashed   bool
	resume    chan struct{} // not nil: paused until it is closed
	storeCut  cut
	serverCut cut
	cache     cache
	loads     map[session.Key]int // within the second
	second    int64
}

// asks counts how often a process loads a record within a second.
func (p *process) asks(key session.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now().Unix(); now != p.second || p.loads == nil {
		p.second, p.loads = now, map[session.Key]int{}
	}
	p.loads[key]++
	if p.loads[key] == busy {
		p.w.history.wasBusy(p, key)
	}
}

// busy is how many loads of one record within a second are too many: a page has
// some ten requests at a time, and who waits for a change looks again some times.
const busy = 500

// cut is a partition: calls are refused, or nothing is heard of them.
type cut struct {
	mode cutMode
	end  time.Time
}

type cutMode int

const (
	cutNone cutMode = iota
	cutRefused
	cutSilent
)

func cutOf(d *dice) cutMode { return oneOf(d, cutRefused, cutSilent) }

type staticRing struct{}

func (staticRing) LoadRing(context.Context) ([]session.RingKey, error) {
	return []session.RingKey{{Secret: bytes.Repeat([]byte{7}, session.MinKeySize)}}, nil
}

// newProcess starts a process with nothing in memory.
func (w *world) newProcess(slot int) *process {
	w.mu.Lock()
	w.started++
	p := &process{w: w, slot: slot, name: fmt.Sprintf("%c%d", 'A'+slot, w.started), dead: make(chan struct{})}
	w.mu.Unlock()
	p.cache.init(p)
	logger := slog.New(slog.DiscardHandler)
	if w.tracing {
		logger = slog.New(slog.NewTextHandler(&traceWriter{p}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	p.backend = session.NewBackend(func(context.Context) (session.Store, error) { return w.store.handle(p), nil }, logger)
	client, err := oauth.New(oauth.Config{
		Issuer: issuer, ClientID: "app", AuthMethod: "client_secret_basic",
		ClientSecret: func() (oauth.Secret, error) { return "secret", nil },
		HTTP:         &http.Client{Transport: &network{p}}, Logger: logger,
	})
	if err != nil {
		panic(err)
	}
	cfg := session.Config{
		Backend: p.backend, Ring: session.NewKeyRing(staticRing{}, logger), Client: client,
		Issuer: issuer, ClientID: "app", Rotation: w.plan.told, Logger: logger,
	}
	if w.plan.told == session.RotationGrace {
		cfg.RotationGrace = w.plan.window
	}
	if p.manager, err = session.NewManager(cfg); err != nil {
		panic(err)
	}
	p.site = p.manager.Site(origin)
	w.note(p, session.Key{}, "started")
	return p
}

// traceWriter puts what a process logs into the run's trace.
type traceWriter struct{ p *process }

func (t *traceWriter) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	if i := bytes.IndexByte(b, ' '); i > 0 { // the time is in the trace already
		line = string(bytes.TrimSpace(b[i:]))
	}
	t.p.w.note(t.p, session.Key{}, "    log %s", line)
	return len(b), nil
}

var errGone = errors.New("the process is gone")

// gate is where a process that does not run stops: a crashed one for good, a
// paused one until it is resumed. A pause is not broken by a context: a process
// that does not run does not see that its time is over.
func (p *process) gate(ctx context.Context) error {
	for {
		p.mu.Lock()
		crashed, resume := p.crashed, p.resume
		p.mu.Unlock()
		switch {
		case crashed:
			select { // as if it were not there; what it waits for never comes
			case <-ctx.Done():
			case <-p.w.over:
			}
			return errGone
		case resume == nil:
			return nil
		}
		select {
		case <-resume:
		case <-p.dead:
		}
	}
}

func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.crashed
}

// pause stops a process for a while.
func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	if p.resume != nil || p.crashed {
		p.mu.Unlock()
		return
	}
	resume := make(chan struct{})
	p.resume = resume
	p.mu.Unlock()
	f := p.w.fault(p, faultPause)
	p.w.background(func() {
		p.w.wait(d)
		p.cache.flush() // a copy that nobody has vouched for meanwhile does not count
		p.mu.Lock()
		p.resume = nil
		p.mu.Unlock()
		f.over()
		p.w.note(p, session.Key{}, "resumed")
		close(resume)
	})
}

// cut takes a process from the store, or from the authorization server.
func (p *process) cut(c *cut, kind faultKind, mode cutMode, d time.Duration) {
	p.mu.Lock()
	if c.mode != cutNone || p.crashed {
		p.mu.Unlock()
		return
	}
	c.mode = mode
	p.mu.Unlock()
	f := p.w.fault(p, kind)
	if kind == faultStore {
		p.cache.doubt()
		p.w.store.disturb(p)
	}
	p.w.background(func() {
		p.w.wait(d)
		if kind == faultStore {
			p.cache.flush()
		}
		p.mu.Lock()
		c.mode = cutNone
		p.mu.Unlock()
		f.over()
		p.w.note(p, session.Key{}, "%s: healed", kind)
	})
}

func (p *process) cutFrom(c *cut) cutMode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.mode
}

// crash ends a process at once. Another one starts in its place later.
func (w *world) crash(p *process, down time.Duration) {
	p.mu.Lock()
	if p.crashed {
		p.mu.Unlock()
		return
	}
	p.crashed = true
	close(p.dead)
	p.mu.Unlock()
	w.fault(p, faultCrash)
	w.mu.Lock()
	w.slots[p.slot] = nil
	w.mu.Unlock()
	p.backend.Release() // lets its goroutines end; they have no effect any more
	w.background(func() {
		w.wait(down)
		w.occupy(w.newProcess(p.slot))
	})
}

// restart ends a process as an operator does: no new requests, a bounded time
// for the refreshes in flight, then another one in its place. Nothing may be
// lost for it as long as the time suffices.
func (w *world) restart(p *process, down time.Duration) {
	w.mu.Lock()
	if w.slots[p.slot] != p {
		w.mu.Unlock()
		return
	}
	w.slots[p.slot] = nil
	w.mu.Unlock()
	w.note(p, session.Key{}, "stops")
	w.background(func() {
		p.requests.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		err := p.backend.Drain(ctx)
		cancel()
		p.mu.Lock()
		died := p.crashed
		p.crashed = true
		if !died {
			close(p.dead)
		}
		p.mu.Unlock()
		switch {
		case died: // meanwhile, and the place is taken care of
			return
		case err != nil:
			w.fault(p, faultCrash)
		}
		w.note(p, session.Key{}, "stopped: %v", err)
		p.backend.Release()
		w.wait(down)
		w.occupy(w.newProcess(p.slot))
	})
}

func (w *world) occupy(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[p.slot] = p
}

// dice is a stream of decisions for one process and one record.
func (p *process) dice(label string, key session.Key) *dice {
	return p.w.dice(fmt.Sprintf("%s/%s/%x", p.name, label, key[:8]))
}
