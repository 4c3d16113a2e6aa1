// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// world is one run: the processes, what they share, who uses them, and what
// goes wrong. All of it is decided by the plan and its seed.
type world struct {
	plan    *plan
	start   time.Time
	history history
	store   *modelStore
	server  *server
	tracing bool

	quiet  atomic.Bool   // nothing goes wrong any more
	calmed chan struct{} // closed then
	over   chan struct{} // closed at the end of the run
	jobsMu sync.Mutex
	jobs   sync.WaitGroup
	users  sync.WaitGroup

	streams sync.Map // label → *dice

	mu       sync.Mutex
	started  int        // processes, ever
	slots    []*process // nil: none runs there now
	sessions []*sess
	reached  int       // how often the step of the target was
	refusals []attempt // connections that the server refused

	traceMu sync.Mutex
	trace   strings.Builder
}

func newWorld(p *plan, tracing bool) *world {
	w := &world{
		plan: p, start: time.Now(), tracing: tracing,
		calmed: make(chan struct{}), over: make(chan struct{}), slots: make([]*process, p.instances),
	}
	w.store = newModelStore(w)
	w.server = newServer(w)
	for i := range w.slots {
		w.slots[i] = w.newProcess(i)
	}
	return w
}

func (w *world) calm() bool { return w.quiet.Load() || w.plan.profile == profileCalm }

// dice gives the stream of a label, always the same one.
func (w *world) dice(label string) *dice {
	if d, ok := w.streams.Load(label); ok {
		return d.(*dice)
	}
	d, _ := w.streams.LoadOrStore(label, newDice(w.plan.seed, label))
	return d.(*dice)
}

// note adds a line to the trace.
func (w *world) note(p *process, key session.Key, format string, args ...any) {
	if !w.tracing {
		return
	}
	who, what := "--", "----"
	if p != nil {
		who = p.name
	}
	if key != (session.Key{}) {
		what = fmt.Sprintf("%x", key[:2])
	}
	w.traceMu.Lock()
	defer w.traceMu.Unlock()
	fmt.Fprintf(&w.trace, "%12.6f %-4s %s %s\n", time.Since(w.start).Seconds(), who, what, fmt.Sprintf(format, args...))
}

// background runs a part of the world that ends when the faults do.
func (w *world) background(f func()) {
	w.jobsMu.Lock()
	defer w.jobsMu.Unlock()
	if w.quiet.Load() { // it began in the very moment in which the faults ended
		go f()
		return
	}
	w.jobs.Go(f)
}

// wait sleeps, but not past the end of the faults.
func (w *world) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.calmed:
	}
}

// attempt is a connection that somebody tried to make to the authorization server.
type attempt struct {
	at   time.Time
	proc *process
}

func (w *world) refused(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusals = append(w.refusals, attempt{time.Now(), p})
}

// process gives the one that a request gets to: the one in a slot, or another
// where none runs there.
func (w *world) process(slot int) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.slots {
		if p := w.slots[(slot+i)%len(w.slots)]; p != nil {
			return p
		}
	}
	return nil
}

func (w *world) anyProcess(d *dice) *process { return w.process(d.pick(len(w.slots))) }

func (w *world) sessionOf(key session.Key) *sess {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		if s.key == key {
			return s
		}
	}
	return nil
}

// trouble makes larger things go wrong until the end of the faults.
func (w *world) trouble() {
	d := w.dice("trouble")
	for {
		d.mu.Lock()
		pause := time.Duration(d.r.ExpFloat64() * float64(w.plan.troubleEvery))
		d.mu.Unlock()
		w.wait(min(pause, 10*time.Minute))
		if w.calm() {
			return
		}
		p := w.anyProcess(d)
		if p == nil {
			continue
		}
		n := d.pick(12)
		w.note(p, session.Key{}, "trouble %d", n)
		switch n {
		case 0, 1:
			w.crash(p, d.between(100*time.Millisecond, 40*time.Second))
		case 2:
			w.restart(p, d.between(100*time.Millisecond, 10*time.Second))
		case 3:
			p.pause(d.between(time.Second, 10*time.Second))
		case 4:
			p.pause(d.between(15*time.Second, 4*time.Minute))
		case 5, 6:
			p.cut(&p.storeCut, faultStore, cutOf(d), w.lasting(d))
		case 7, 8:
			p.cut(&p.serverCut, faultServer, cutOf(d), w.lasting(d))
		case 9:
			mode, lasts := cutOf(d), w.lasting(d)
			for i := range w.slots {
				if p := w.process(i); p != nil && p.slot == i {
					p.cut(&p.storeCut, faultStore, mode, lasts+time.Duration(i)) // not all in the same moment
				}
			}
		default:
			w.unwell(oneOf(d, modeDown, modeSilent, modeUnavailable, modeTooMany, modeInvalidClient, modeHTML), w.lasting(d))
		}
	}
}

// lasting is how long a trouble lasts: as likely some tenths of a second as two
// minutes.
func (w *world) lasting(d *dice) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(float64(100*time.Millisecond) * math.Pow(1200, d.r.Float64()))
}

// unwell makes the authorization server answer something else for a while.
func (w *world) unwell(m serverMode, lasts time.Duration) {
	if w.server.currentMode() != modeWell {
		return
	}
	w.server.setMode(m)
	f := w.fault(nil, faultServerDown)
	w.background(func() {
		w.wait(lasts)
		w.server.setMode(modeWell)
		f.over()
	})
}

// heal ends all faults and waits until everything runs again.
func (w *world) heal() {
	w.jobsMu.Lock()
	w.quiet.Store(true)
	w.jobsMu.Unlock()
	close(w.calmed)
	w.jobs.Wait()
	w.note(nil, session.Key{}, "no more faults")
}

const (
	// recovery is how long after the last fault every session works again: a
	// minute that a Retry-After may ask for, a lease, two calls that time out,
	// and what an access token lives of which a refresh got no answer.
	recovery = 4 * time.Minute
	// proof is how long it has to go on working then.
	proof = time.Minute
	// rest is how long all is left alone before the end is looked at: nothing
	// that goes on in the background takes longer.
	rest = 12 * time.Minute
)

// run is the whole run. It returns when nothing moves any more.
func (w *world) run() {
	w.open()
	time.Sleep(time.Minute) // everybody is in
	if w.plan.profile == profileStorm {
		w.background(w.trouble)
	}
	time.Sleep(w.plan.length)
	w.heal()
	w.history.healed = time.Now()
	time.Sleep(recovery + proof)
	w.close()
}

// open lets the users in.
func (w *world) open() {
	for i := range w.plan.users {
		w.users.Go(func() { w.user(i) })
	}
}

// close sends the users away and lets everything come to rest.
func (w *world) close() {
	w.history.ended = time.Now()
	close(w.over)
	w.users.Wait()
	time.Sleep(rest)
	for _, p := range w.slots {
		p.backend.Release()
	}
	time.Sleep(rest)
}
