// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/session"
)

// What outlives a configuration: two of them overlap on a reload, and equal
// ones share. Keys hold digests where they are made from secrets, since Caddy
// prints them in a panic.
var (
	backends = pool[string, *session.Backend]{UsagePool: caddy.NewUsagePool(), end: endBackend}
	keyRings = pool[string, *sharedRing]{UsagePool: caddy.NewUsagePool(), end: func(*sharedRing) {}}
	// By the files and what is asked of them: what is in the files may change.
	credentials = pool[string, *clientCredentials]{UsagePool: caddy.NewUsagePool(), end: func(*clientCredentials) {}}
	managers    = pool[managerKey, *session.Manager]{UsagePool: caddy.NewUsagePool(), end: func(*session.Manager) {}}
)

// managerKey is what makes two configurations of `bff` the same application.
type managerKey struct {
	backend string
	ring    string
	config  [sha256.Size]byte
}

// drainTimeout bounds how long a process that exits waits for refreshes: a new
// refresh token that is not in the store yet would be lost with it.
const drainTimeout = 10 * time.Second

// endBackend gives back the reference that the pool held. Requests and
// refreshes hold their own; the last one closes the store. When the process
// exits nothing runs after this, so it waits.
func endBackend(b *session.Backend) {
	if caddy.Exiting() {
		drain(b)
	}
	b.Release()
}

func drain(b *session.Backend) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		processLog.Error("exiting while a refresh is in flight", "error", err)
	}
}

// pool is a usage pool of one type.
type pool[K comparable, V any] struct {
	*caddy.UsagePool
	end func(V)
}

// take gives the value of key, made if there is none, and the function that
// gives it back, to be called once.
func (p pool[K, V]) take(key K, construct func() (V, error)) (value V, release func(), err error) {
	v, _, err := p.LoadOrNew(key, func() (caddy.Destructor, error) {
		value, err := construct()
		if err != nil {
			return nil, err
		}
		return &pooled[V]{value: value, end: p.end}, nil
	})
	if err != nil {
		return value, nil, err
	}
	return v.(*pooled[V]).value, func() {
		if _, err := p.Delete(key); err != nil {
			processLog.Error("giving back what configurations share", "error", err)
		}
	}, nil
}

type pooled[V any] struct {
	value V
	end   func(V)
}

// Destruct implements [caddy.Destructor].
func (p *pooled[V]) Destruct() error {
	p.end(p.value)
	return nil
}

// processLog is the logger of what outlives a configuration: it writes where
// the running configuration says.
var processLog = slog.New(&currentLog{root: &logRoot, failures: &failureLog{}})

var logRoot atomic.Pointer[slog.Handler]

// logTo makes a logger the current one.
func logTo(l *slog.Logger) {
	h := l.Handler()
	logRoot.Store(&h)
}

// currentLog is a log handler that passes on to the current one. What was added
// with WithAttrs and WithGroup is added again each time, which lines that are
// written seldom can afford.
type currentLog struct {
	root     *atomic.Pointer[slog.Handler]
	add      []func(slog.Handler) slog.Handler
	failures *failureLog // of each message
}

func (c *currentLog) handler() slog.Handler {
	var h slog.Handler = slog.DiscardHandler
	if p := c.root.Load(); p != nil {
		h = *p
	}
	for _, add := range c.add {
		h = add(h)
	}
	return h
}

// Enabled implements [slog.Handler].
func (c *currentLog) Enabled(ctx context.Context, level slog.Level) bool {
	p := c.root.Load()
	return p != nil && (*p).Enabled(ctx, level)
}

// Handle implements [slog.Handler]. Of what is wrong it says the same thing ten
// times a second: a client that is refused fails every refresh of every session.
func (c *currentLog) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelWarn {
		ok, suppressed, since := c.failures.allow(rec.Message, rec.Time)
		if !ok {
			metrics.suppressed.Inc()
			return nil
		}
		if suppressed > 0 {
			rec = rec.Clone()
			rec.AddAttrs(slog.Int("suppressed", suppressed), slog.Time("suppressed_since", since))
		}
	}
	return c.handler().Handle(ctx, rec)
}

// WithAttrs implements [slog.Handler].
func (c *currentLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return c.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements [slog.Handler].
func (c *currentLog) WithGroup(name string) slog.Handler {
	return c.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (c *currentLog) with(add func(slog.Handler) slog.Handler) slog.Handler {
	return &currentLog{root: c.root, failures: c.failures, add: append(c.add[:len(c.add):len(c.add)], add)}
}
