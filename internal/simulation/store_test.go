// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// storeTimeout is how long a process waits for the store's answer.
const storeTimeout = time.Second

// modelStore is the store that all processes share: a map, one change at a
// time, and a log of what it accepted.
type modelStore struct {
	w *world

	mu       sync.Mutex
	records  map[session.Key]*session.Record
	watchers map[session.Key]map[*watcher]struct{}
}

type watcher struct {
	p       *process
	changed chan struct{}
	once    sync.Once
}

func (x *watcher) tell() { x.once.Do(func() { close(x.changed) }) }

func newModelStore(w *world) *modelStore {
	return &modelStore{w: w, records: make(map[session.Key]*session.Record), watchers: make(map[session.Key]map[*watcher]struct{})}
}

// now is the store's own clock, by which it lets records expire.
func (s *modelStore) now() time.Time { return time.Now().Add(s.w.plan.storeSkew) }

// live gives the record of a key. It is called with mu held.
func (s *modelStore) live(key session.Key) *session.Record {
	rec := s.records[key]
	if rec == nil || !s.now().Before(rec.Expiry) {
		return nil
	}
	return rec
}

// put is called with mu held.
func (s *modelStore) put(p *process, old, next *session.Record) {
	s.records[next.Key] = next
	kind := stepOther
	if old != nil {
		kind = kindOf(old, next)
	}
	s.w.history.wrote(&write{at: time.Now(), proc: p, key: next.Key, kind: kind, old: old, next: next})
	s.w.note(p, next.Key, "store: %s, rev %d, gen %d%s", kind, next.Rev, next.Gen, describe(next.Attempt))
	s.changed(next.Key)
}

func describe(a *session.Attempt) string {
	if a == nil {
		return ""
	}
	return fmt.Sprintf(", attempt %x lease %d takeover %t unanswered %t", a.ID[:3], a.Lease, a.Takeover, a.Unanswered)
}

func (s *modelStore) create(p *process, rec *session.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live(rec.Key) != nil {
		return session.ErrExists
	}
	s.put(p, nil, rec)
	return nil
}

func (s *modelStore) load(key session.Key) (*session.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec := s.live(key); rec != nil {
		return rec, nil
	}
	return nil, session.ErrNotFound
}

func (s *modelStore) replace(p *process, old, next *session.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cur := s.live(old.Key)
	switch {
	case cur == nil:
		return session.ErrNotFound
	case cur.Rev != old.Rev:
		return session.ErrConflict
	}
	s.put(p, cur, next)
	return nil
}

func (s *modelStore) find(index session.IndexKey) []session.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := []session.Key{}
	for key := range s.records {
		if rec := s.live(key); rec != nil && slices.Contains(rec.Index, index) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b session.Key) int { return slices.Compare(a[:], b[:]) })
	return keys
}

// changed tells the watchers of a key, each after a while of its own. It is
// called with mu held.
func (s *modelStore) changed(key session.Key) {
	for x := range s.watchers[key] {
		s.deliver(x.p, key, x.tell)
	}
	s.w.mu.Lock()
	slots := slices.Clone(s.w.slots)
	s.w.mu.Unlock()
	for _, p := range slots {
		if p != nil && s.w.plan.store == abilityCaching {
			s.deliver(p, key, func() { p.cache.drop(key) })
		}
	}
}

// deliver brings news to a process, unless it is cut off then: what it misses
// so, it is told of by disturb and the end of the cut.
func (s *modelStore) deliver(p *process, key session.Key, tell func()) {
	d := p.dice("news", key)
	delay := d.between(100*time.Microsecond, 5*time.Millisecond)
	if d.chance(0.05) {
		delay = d.between(5*time.Millisecond, 400*time.Millisecond)
	}
	go func() {
		time.Sleep(delay)
		if p.gate(context.Background()) == nil && p.cutFrom(&p.storeCut) == cutNone {
			tell()
		}
	}()
}

// disturb ends all watches of a process: the store can no longer tell it.
func (s *modelStore) disturb(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, set := range s.watchers {
		for x := range set {
			if x.p == p {
				x.tell()
			}
		}
	}
}

// handle is the store as one process has it.
func (s *modelStore) handle(p *process) session.Store {
	h := &handle{s: s, p: p}
	switch s.w.plan.store {
	case abilityWatching:
		return &watchingHandle{h}
	case abilityCaching:
		return &cachingHandle{watchingHandle{h}}
	}
	return h
}

type handle struct {
	s *modelStore
	p *process
}

func unavailable(why string) error {
	return fmt.Errorf("%w: %s", session.ErrStoreUnavailable, why)
}

// call is one round trip: it may be lost on the way there or back, come late,
// or be held up because the process does not run.
func (h *handle) call(ctx context.Context, label string, key session.Key, before, after step, do func() error) error {
	p, w := h.p, h.s.w
	if err := p.gate(ctx); err != nil {
		return h.gone(err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, err)
	}
	lose := before != "" && w.reach(p, key, before)
	d := p.dice(label, key)
	out, back := d.between(100*time.Microsecond, 2*time.Millisecond), d.between(100*time.Microsecond, 2*time.Millisecond)
	storm := w.plan.profile == profileStorm && !w.calm()
	if storm && d.chance(0.02) {
		out = d.between(2*time.Millisecond, 800*time.Millisecond)
	}
	err := h.travel(ctx, out)
	switch mode := p.cutFrom(&p.storeCut); {
	case mode == cutRefused:
		return unavailable("connection refused")
	case mode == cutSilent:
		h.travel(ctx, storeTimeout) //nolint:errcheck // the answer is the same
		return unavailable("timeout")
	case err != nil && d.chance(0.5): // it was on its way already
		return err
	}
	fate := 1.0
	if storm {
		d.mu.Lock()
		fate = d.r.Float64() / max(w.plan.storeFaults, 1e-9)
		d.mu.Unlock()
	}
	switch {
	case fate < 0.4: // lost on the way there
		w.callFault(p, faultStoreCall, key, storeTimeout)
		h.travel(ctx, storeTimeout) //nolint:errcheck // the answer is the same
		return unavailable("timeout")
	case fate < 0.6: // comes late
		w.callFault(p, faultStoreCall, key, storeTimeout)
		late := d.between(0, 8*time.Second)
		if label != "load" && label != "find" { // which change nothing
			go func() {
				time.Sleep(storeTimeout + late)
				w.note(p, key, "late call to the store")
				do() //nolint:errcheck // nobody hears of it
			}()
		}
		h.travel(ctx, storeTimeout) //nolint:errcheck // the answer is the same
		return unavailable("timeout")
	case fate < 1: // the answer is lost
		lose = true
	}
	result := do()
	if result == nil && after != "" && w.reach(p, key, after) {
		lose = true
	}
	if lose {
		w.callFault(p, faultStoreCall, key, storeTimeout)
		h.travel(ctx, oneOf(d, 0, storeTimeout)) //nolint:errcheck // the answer is the same
		return unavailable("connection reset")
	}
	if err == nil {
		err = h.travel(ctx, back)
	}
	if gone := p.gate(ctx); gone != nil {
		return h.gone(gone)
	}
	if err != nil {
		return err
	}
	return result
}

// gone is what a process that is no more gets: nothing while the run lasts, and
// then something that makes what is left of it give up.
func (h *handle) gone(err error) error {
	select {
	case <-h.s.w.over:
		return session.ErrNotFound
	default:
		return unavailable(err.Error())
	}
}

// travel waits for bytes on their way.
func (h *handle) travel(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", session.ErrStoreUnavailable, ctx.Err())
	}
}

func (h *handle) Create(ctx context.Context, rec *session.Record) error {
	return h.call(ctx, "create", rec.Key, "", "", func() error { return h.s.create(h.p, rec) })
}

func (h *handle) Load(ctx context.Context, key session.Key) (rec *session.Record, err error) {
	h.p.asks(key)
	err = h.call(ctx, "load", key, "", "", func() (err error) {
		rec, err = h.s.load(key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

var errMisuse = errors.New("next is not the record after old")

func (h *handle) Replace(ctx context.Context, old, next *session.Record) error {
	if next.Key != old.Key || next.Rev != old.Rev+1 {
		return errMisuse
	}
	sent := kindOf(old, next)
	done := map[step]step{stepIntentSent: stepIntentDone, stepCommitSent: stepCommitDone, stepTombSent: stepTombDone}[sent]
	return h.call(ctx, "replace", old.Key, sent, done, func() error { return h.s.replace(h.p, old, next) })
}

func (h *handle) Delete(ctx context.Context, key session.Key) error {
	return h.call(ctx, "delete", key, "", "", func() error {
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		delete(h.s.records, key)
		h.s.changed(key)
		return nil
	})
}

func (h *handle) Find(ctx context.Context, index session.IndexKey) (keys []session.Key, err error) {
	err = h.call(ctx, "find", session.Key(index), "", "", func() error {
		keys = h.s.find(index)
		return nil
	})
	return keys, err
}

func (h *handle) Close() error { return nil } // the store outlives the process
