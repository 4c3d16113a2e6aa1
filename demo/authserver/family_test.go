// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRotationSpendsTheToken(t *testing.T) {
	t.Parallel()
	s := newFamilies()
	f, first := s.start(family{userID: "alice"})
	_, second, err := s.rotate(first)
	if err != nil || second == first || second == "" {
		t.Fatalf("rotate: %q, %v", second, err)
	}
	if got, err := s.find(second); err != nil || got.id != f.id {
		t.Fatalf("the new token must be current: %v", err)
	}
}

func TestReuseEndsTheFamily(t *testing.T) {
	t.Parallel()
	for name, present := range map[string]func(*families, string) error{
		"seen when looked up": func(s *families, token string) error { _, err := s.find(token); return err },
		"seen when rotated":   func(s *families, token string) error { _, _, err := s.rotate(token); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFamilies()
			_, first := s.start(family{userID: "alice"})
			_, second, err := s.rotate(first)
			if err != nil {
				t.Fatal(err)
			}
			if err := present(s, first); !errors.Is(err, errRefreshTokenReused) {
				t.Fatalf("a spent token: %v", err)
			}
			if _, _, err := s.rotate(second); !errors.Is(err, errRefreshTokenUnknown) {
				t.Fatalf("the rest of the family must be dead: %v", err)
			}
			if err := present(s, first); !errors.Is(err, errRefreshTokenUnknown) {
				t.Fatalf("a reuse is told once: %v", err)
			}
		})
	}
}

// All hundred callers have looked the token up and found it current before the first of them rotates it.
func TestParallelRotationHasOneWinnerAndEndsTheFamily(t *testing.T) {
	t.Parallel()
	s := newFamilies()
	_, token := s.start(family{userID: "alice"})

	const callers = 100
	var looked, done sync.WaitGroup
	var won, reused, unknown atomic.Int32
	var successor atomic.Value
	looked.Add(callers)
	for range callers {
		done.Go(func() {
			_, err := s.find(token)
			looked.Done()
			if err != nil {
				t.Errorf("find: %v", err)
				return
			}
			looked.Wait()
			_, next, err := s.rotate(token)
			switch {
			case err == nil:
				won.Add(1)
				successor.Store(next)
			case errors.Is(err, errRefreshTokenReused):
				reused.Add(1)
			case errors.Is(err, errRefreshTokenUnknown):
				unknown.Add(1)
			}
		})
	}
	done.Wait()
	if won.Load() != 1 || reused.Load() != 1 || unknown.Load() != callers-2 {
		t.Fatalf("%d won, %d were told of the reuse, %d came after it", won.Load(), reused.Load(), unknown.Load())
	}
	if _, err := s.find(successor.Load().(string)); !errors.Is(err, errRefreshTokenUnknown) {
		t.Fatalf("the winner's token must be dead too: %v", err)
	}
}

func TestFamilyExpiresAndIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFamilies()
		_, first := s.start(family{userID: "alice"})
		time.Sleep(refreshLifetime - time.Second)
		_, second, err := s.rotate(first)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := s.find(second); !errors.Is(err, errRefreshTokenUnknown) {
			t.Fatalf("rotation must not prolong a family: %v", err)
		}
		s.start(family{userID: "bob"})
		if len(s.byID) != 1 || len(s.byToken) != 1 {
			t.Fatalf("%d families and %d tokens are kept", len(s.byID), len(s.byToken))
		}
	})
}
