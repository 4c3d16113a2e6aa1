// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// meeting is what the stores of several instances share beside their records.
type meeting struct {
	mu    sync.Mutex
	sets  map[string][]string
	fail  error
	joins int
}

func (m *meeting) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *meeting) asked() (n int) {
	m.change(func() { n, m.joins = m.joins, 0 })
	return n
}

// sharedStore is one instance's.
type sharedStore struct {
	*faultyStore
	*meeting
}

func (s *sharedStore) Join(_ context.Context, name string, members []string) (session.Joined, error) {
	joined := session.Joined{Place: "place of " + name}
	s.meeting.mu.Lock()
	defer s.meeting.mu.Unlock()
	s.joins++
	if s.meeting.fail != nil {
		return joined, s.meeting.fail
	}
	set := s.sets[name]
	if len(set) > 0 && !slices.ContainsFunc(members, func(m string) bool { return slices.Contains(set, m) }) {
		joined.Members = slices.Clone(set)
		return joined, nil
	}
	for _, m := range members {
		if !slices.Contains(set, m) {
			set = append(set, m)
		}
	}
	s.sets[name] = set
	joined.OK = true
	return joined, nil
}

// fleet is instances that share a store. Each has keys of its own.
type fleet struct {
	t     *testing.T
	as    *astest.Server
	store *faultyStore
	*meeting
}

func newFleet(t *testing.T) *fleet {
	b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
	b.store.exclusive = false
	return &fleet{t: t, as: b.as, store: b.store, meeting: &meeting{sets: make(map[string][]string)}}
}

// member is one instance.
type member struct {
	*bench
	source *changingRing
	ring   *session.KeyRing
	leave  func()
}

func withKeys(t *testing.T, as *astest.Server, store session.Store, keys ...session.RingKey) *member {
	m := &member{source: &changingRing{keys: keys}}
	m.ring = session.NewKeyRing(m.source, discard())
	m.bench = newInstanceOn(t, as, store, func(c *session.Config) { c.Ring = m.ring })
	if err := m.backend.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.leave = m.backend.Join(m.ring)
	t.Cleanup(func() { m.leave() })
	return m
}

func (f *fleet) instance(keys ...session.RingKey) *member {
	f.t.Helper()
	m := withKeys(f.t, f.as, &sharedStore{f.store, f.meeting}, keys...)
	synctest.Wait()
	return m
}

// reload gives the instance other keys, as a reload of the configuration does.
func (m *member) reload(keys ...session.RingKey) {
	m.t.Helper()
	m.source.set(keys...)
	if err := m.ring.Reload(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) start() error {
	_, err := m.m.StartLogin(m.t.Context(), m.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/"})
	return err
}

func (m *member) refused() *session.KeyMismatchError {
	m.t.Helper()
	mismatch, ok := errors.AsType[*session.KeyMismatchError](m.start())
	if !ok {
		m.t.Fatal("a login was begun with keys of its own")
	}
	return mismatch
}

func (m *member) accepted() {
	m.t.Helper()
	if err := m.start(); err != nil {
		m.t.Fatalf("a login is refused: %v", err)
	}
}
