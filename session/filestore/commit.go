// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// maxBatch bounds the changes of one transaction, and so how long the last
	// one in waits for the first.
	maxBatch = 256
	// maxQueued bounds the changes that wait while the disk does not answer.
	maxQueued = 16_384
)

var (
	errBusy     = errors.New("too many changes wait for the disk")
	errNoChange = errors.New("nothing to commit")
)

// committer makes all changes, from one goroutine. What arrives while a
// transaction is being written goes into the next one: nobody waits for company,
// and under load many changes share one flush.
type committer struct {
	file   *file
	cache  *cache
	logger *slog.Logger
	max    int

	mu     sync.Mutex
	queue  []*change
	closed bool
	wake   chan struct{} // one token: there may be work, or an end

	finished chan struct{}

	// Of the goroutine alone:
	count   int  // records in the file
	failing bool // the last transaction could not be committed
}

// change is one call that wants to change something.
type change struct {
	ctx    context.Context
	apply  func(*table) error
	answer chan error
}

func newCommitter(f *file, c *cache, logger *slog.Logger, maxRecords, count int) *committer {
	m := &committer{
		file: f, cache: c, logger: logger, max: maxRecords, count: count,
		wake: make(chan struct{}, 1), finished: make(chan struct{}),
	}
	go m.run()
	return m
}

// do gives the answer of apply once its transaction is on disk. When ctx is
// done first, the change may still happen.
func (m *committer) do(ctx context.Context, apply func(*table) error) error {
	c := &change{ctx: ctx, apply: apply, answer: make(chan error, 1)}
	if err := m.enqueue(c); err != nil {
		return err
	}
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

// later makes a change that nobody waits for and that may be left out.
func (m *committer) later(apply func(*table) error) {
	_ = m.enqueue(&change{ctx: context.Background(), apply: apply, answer: make(chan error, 1)})
}

func (m *committer) enqueue(c *change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return unavailable(errClosed)
	case len(m.queue) >= maxQueued:
		return unavailable(errBusy)
	}
	m.queue = append(m.queue, c)
	m.signal()
	return nil
}

func (m *committer) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// finish commits what waits, and returns when the goroutine has ended.
func (m *committer) finish() {
	m.mu.Lock()
	m.closed = true
	m.signal()
	m.mu.Unlock()
	<-m.finished
}

func (m *committer) run() {
	defer close(m.finished)
	for range m.wake {
		for {
			batch, last := m.take()
			if len(batch) > 0 {
				m.commit(batch)
				continue
			}
			if last {
				return
			}
			break
		}
	}
}

func (m *committer) take() (batch []*change, last bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := min(len(m.queue), maxBatch)
	batch = m.queue[:n:n]
	m.queue = m.queue[n:]
	if len(m.queue) == 0 {
		m.queue = nil
	}
	return batch, m.closed
}

func (m *committer) commit(batch []*change) {
	answers := make([]error, len(batch))
	t := &table{now: time.Now(), max: m.max, count: m.count}
	err := m.file.update(func(tx *bolt.Tx) error {
		t.tx = tx
		for i, c := range batch {
			if err := c.ctx.Err(); err != nil {
				answers[i] = unavailable(err)
				continue
			}
			answers[i] = c.apply(t)
			if t.fault != nil {
				return t.fault
			}
		}
		if !t.changed {
			return errNoChange
		}
		return nil
	})
	switch {
	case errors.Is(err, errNoChange):
	case err != nil:
		// It may be on disk all the same: the cache must not claim otherwise,
		// and no verdict counts, since it may rest on a change that was undone.
		for _, e := range t.effects {
			m.cache.committed(e.key, nil, 0)
		}
		for i := range answers {
			answers[i] = unavailable(err)
		}
		if !m.failing {
			m.logger.Error("session file takes no changes", slog.String("file", m.file.path), slog.Any("error", err))
		}
		m.failing = true
	default:
		m.count = t.count
		for _, e := range t.effects {
			m.cache.committed(e.key, e.rec, e.size)
		}
		for _, key := range t.aside {
			m.logger.Warn("damaged session record set aside; its user has to sign in again",
				slog.String("file", m.file.path), slog.String("session", key.String()))
		}
		if m.failing {
			m.logger.Info("session file takes changes again", slog.String("file", m.file.path))
		}
		m.failing = false
	}
	for i, c := range batch {
		c.answer <- answers[i]
	}
}
