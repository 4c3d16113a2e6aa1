// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type ringFunc func() ([]RingKey, error)

func (f ringFunc) LoadRing(context.Context) ([]RingKey, error) { return f() }

func TestKeyRingRereadsForAnUnknownKeyAndNotMoreOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		keys := []RingKey{testKey(1)}
		k := NewKeyRing(ringFunc(func() ([]RingKey, error) { reads++; return keys, nil }), slog.New(slog.DiscardHandler))
		if err := k.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		unknown := mustRing(t, testKey(2)).sealing().id
		for range 100 {
			if r, err := k.reread(t.Context(), unknown); err != nil || r.find(unknown) != nil {
				t.Fatal(r, err)
			}
		}
		if reads != 1 {
			t.Errorf("read %d times within the pause", reads)
		}
		keys = []RingKey{testKey(1), testKey(2)}
		time.Sleep(ringReread)
		for range 100 {
			if r, err := k.reread(t.Context(), unknown); err != nil || r.find(unknown) == nil {
				t.Fatal(r, err)
			}
		}
		if reads != 2 {
			t.Errorf("read %d times, want 2", reads)
		}
	})
}

// A key that is taken off the source stops opening without anybody's doing, and a
// source that cannot be read, or has nonsense in it, changes nothing.
func TestKeyRingFollowsItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		keys, fail := []RingKey{testKey(1)}, error(nil)
		set := func(err error, k ...RingKey) {
			mu.Lock()
			defer mu.Unlock()
			keys, fail = k, err
		}
		var log bytes.Buffer
		k := NewKeyRing(ringFunc(func() ([]RingKey, error) {
			mu.Lock()
			defer mu.Unlock()
			return keys, fail
		}), slog.New(slog.NewTextHandler(&log, nil)))
		use := func() *ring {
			t.Helper()
			r, err := k.current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return r
		}
		first := use()
		time.Sleep(ringCheck)
		if use() != first || use() != first {
			t.Error("a ring that did not change was made anew")
		}
		set(nil, testKey(2), testKey(1))
		if use() != first {
			t.Error("looked at the source again at once")
		}
		time.Sleep(ringCheck)
		use() // makes it look
		if r := use(); r.sealing().id != mustRing(t, testKey(2)).sealing().id || r.find(first.sealing().id) == nil {
			t.Error("a new first key does not seal, or the old one does not open")
		}
		for _, err := range []error{errors.New("disk on fire"), nil} {
			set(err) // an error, an empty ring
			time.Sleep(ringCheck)
			use()
			if use().find(first.sealing().id) == nil || !strings.Contains(log.String(), "cannot be read again") {
				t.Errorf("after %v the ring is another one, or the log is silent", err)
			}
			log.Reset()
		}
		// Who comes after a long pause does not meet the ring of long ago.
		set(nil, testKey(2))
		time.Sleep(time.Hour)
		if r, err := k.current(t.Context()); err != nil || r.find(first.sealing().id) != nil {
			t.Errorf("after a pause a key that was taken off opens: %v", err)
		}
		set(errors.New("disk on fire"))
		time.Sleep(time.Hour)
		if r, err := k.current(t.Context()); err != nil || len(r.keys) != 1 {
			t.Errorf("after a pause, and with a source that is out: %v", err)
		}
		set(nil, testKey(2), testKey(1))
		time.Sleep(ringCheck)
		use()
		set(nil, testKey(2))
		if err := k.Reload(t.Context()); err != nil || use().find(first.sealing().id) != nil {
			t.Errorf("a key that was taken off still opens after a reload: %v", err)
		}
	})
}

// A successor finds what was indexed before it.
func TestSuccessorKeepsTheIndex(t *testing.T) {
	old := NewRingKey()
	next := old.Successor().Successor()
	if bytes.Equal(next.Secret, old.Secret) || len(next.Secret) < MinKeySize {
		t.Fatal("the secret is the same, or short")
	}
	before, after := mustRing(t, old), mustRing(t, next, testKey(7), old)
	a, b := before.indexKeys("sub", "iss", "alice"), after.indexKeys("sub", "iss", "alice")
	if len(b) != 2 || a[0] != b[0] {
		t.Errorf("%d index keys, the first of them changed: %t", len(b), a[0] != b[0])
	}
}

func TestKeyRingDoesNotRememberAnError(t *testing.T) {
	fail := true
	k := NewKeyRing(ringFunc(func() ([]RingKey, error) {
		if fail {
			return nil, errors.New("disk on fire")
		}
		return []RingKey{testKey(1)}, nil
	}), slog.New(slog.DiscardHandler))
	if err := k.Load(t.Context()); !errors.Is(err, ErrStoreUnavailable) {
		t.Errorf("got %v", err)
	}
	fail = false
	if err := k.Load(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKeyRingRefusesShortKeys(t *testing.T) {
	for name, keys := range map[string][]RingKey{"none": nil, "short": {{Secret: make([]byte, 31)}}, "second": {testKey(1), {Secret: []byte("x")}}} {
		if _, err := newRing(keys); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
