// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// changingRing is a source whose keys change.
type changingRing struct {
	mu   sync.Mutex
	keys []session.RingKey
}

func (c *changingRing) set(keys ...session.RingKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = keys
}

func (c *changingRing) LoadRing(context.Context) ([]session.RingKey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys, nil
}

// E108: a new key in front signs nobody out. What is used is sealed and indexed
// anew, by activity as well as by a refresh.
func TestNewKeyResealsLazily(t *testing.T) {
	for name, use := range map[string]func(*bench, *session.Session) error{
		"activity": func(b *bench, s *session.Session) error { return s.Extend(b.t.Context()) },
		"refresh": func(b *bench, s *session.Session) error {
			_, err := s.ForceRefresh(b.t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old, next := session.NewRingKey(), session.NewRingKey()
				source := &changingRing{keys: []session.RingKey{old}}
				ring := session.NewKeyRing(source, discard())
				b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, func(c *session.Config) { c.Ring = ring })
				br := browser{}
				before := b.stored(b.login(br))
				source.set(next, old)
				if err := ring.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				s := mustOpen(t, b, br)
				if err := use(b, s); err != nil {
					t.Fatal(err)
				}
				after := b.stored(s)
				if bytes.Equal(before.Tokens[:9], after.Tokens[:9]) || bytes.Equal(before.Facts[:9], after.Facts[:9]) {
					t.Error("sealed by the old key still")
				}
				if name == "activity" && before.Index[0] == after.Index[0] {
					t.Error("indexed under the old key still")
				}
				b.mustToken(br)
				if len(br.request().Cookies()) != 1 {
					t.Error("the browser lost its cookie")
				}
			})
		})
	}
}

// E108, E112: instances that do not have the same first key yet open each other's
// sessions as long as both have both, and an instance that lacks a key leaves
// alone what it cannot open.
func TestMixedFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k1, k2 := session.NewRingKey(), session.NewRingKey()
		with := func(keys ...session.RingKey) func(*session.Config) {
			return func(c *session.Config) { c.Ring = session.NewKeyRing(&changingRing{keys: keys}, discard()) }
		}
		a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute}, with(k1, k2))
		a.store.exclusive = false
		b := newInstance(t, a.as, a.store, with(k2, k1))
		behind := newInstance(t, a.as, a.store, with(k1))
		onA, onB := browser{}, browser{}
		a.login(onA)
		b.login(onB)
		for range 3 {
			time.Sleep(time.Minute)
			b.mustToken(onA)
			a.mustToken(onB)
			time.Sleep(time.Minute)
			a.mustToken(onA)
			b.mustToken(onB)
		}
		if _, err := behind.token(onB); err == nil {
			t.Error("opened without the key")
		}
		time.Sleep(time.Minute)
		b.mustToken(onB)
	})
}
