// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
)

// let joins the set "keys" and wants to be let in, or not to be.
func let(t *testing.T, s session.Shared, want bool, members ...string) session.Joined {
	t.Helper()
	joined, err := s.Join(within(t), "keys", members)
	if err != nil {
		t.Fatalf("join with %q: %v", members, err)
	}
	if joined.OK != want || joined.Place == "" {
		t.Fatalf("join with %q: %+v, want %t", members, joined, want)
	}
	return joined
}

func joins(t *testing.T, store session.Store) {
	s, ok := store.(session.Shared)
	if !ok {
		return
	}
	let(t, s, true, "a")
	if refused := let(t, s, false, "x", "y"); !slices.Equal(refused.Members, []string{"a"}) {
		t.Errorf("who is in the set: %q", refused.Members)
	}
	let(t, s, false, "y") // who was refused has left nothing
	// A rotation, and an instance that is a step behind.
	let(t, s, true, "a", "b")
	let(t, s, true, "a")
	let(t, s, true, "b", "a")
	let(t, s, true, "a", "b")
	let(t, s, true, "b")
	let(t, s, true, "b", "a")
	refused := let(t, s, false, "x")
	if slices.Sort(refused.Members); !slices.Equal(refused.Members, []string{"a", "b"}) {
		t.Errorf("who is in the set: %q", refused.Members)
	}
	if other, err := s.Join(within(t), "others", []string{"x"}); err != nil || !other.OK || other.Place == refused.Place {
		t.Errorf("another set: %+v, %v", other, err)
	}
	for name, members := range map[string][]string{
		"none": nil, "an empty one": {"a", ""}, "a long one": {"a", strings.Repeat("b", 65)}, "too many": slices.Repeat([]string{"a"}, session.MaxMembers+1),
	} {
		if joined, err := s.Join(t.Context(), "keys", members); !errors.Is(err, session.ErrStoreUnavailable) || joined.OK {
			t.Errorf("%s: %+v, %v", name, joined, err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if joined, err := s.Join(cancelled, "keys", []string{"a"}); !errors.Is(err, context.Canceled) || joined.OK {
		t.Errorf("with a context that is done: %+v, %v", joined, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if joined, err := s.Join(t.Context(), "keys", []string{"a"}); !errors.Is(err, session.ErrStoreUnavailable) || joined.OK {
		t.Errorf("of a store that is closed: %+v, %v", joined, err)
	}
}

func strangers(t *testing.T, store session.Store) {
	s, ok := store.(session.Shared)
	if !ok {
		return
	}
	const parties = 10
	answers := make([]session.Joined, parties)
	own := func(i int) []string { return []string{"front " + strconv.Itoa(i), "back " + strconv.Itoa(i)} }
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			var err error
			if answers[i], err = s.Join(within(t), "keys", own(i)); err != nil {
				t.Errorf("join: %v", err)
			}
		})
	}
	wg.Wait()
	first := slices.IndexFunc(answers, func(j session.Joined) bool { return j.OK })
	if first < 0 {
		t.Fatal("nobody was let in")
	}
	for i, j := range answers {
		if i == first {
			continue
		}
		slices.Sort(j.Members)
		if want := slices.Sorted(slices.Values(own(first))); j.OK || !slices.Equal(j.Members, want) {
			t.Errorf("%d of %d: %+v, want those of %d", i, parties, j, first)
		}
	}
}

func joinedLast(t *testing.T, store session.Store) {
	s, ok := store.(session.Shared)
	if !ok {
		return
	}
	const changes = 2 * session.MaxMembers
	for i := range changes {
		let(t, s, true, strconv.Itoa(i), "stays")
	}
	refused := let(t, s, false, "0")
	if n := len(refused.Members); n != session.MaxMembers {
		t.Errorf("the set has %d members", n)
	}
	let(t, s, true, strconv.Itoa(changes-1))
	let(t, s, true, "stays")
	// Who comes with as many as there may be has all of them in it.
	all := []string{"stays"}
	for i := range session.MaxMembers - 1 {
		all = append(all, "all "+strconv.Itoa(i))
	}
	let(t, s, true, all...)
	refused = let(t, s, false, "0")
	if slices.Sort(all); !slices.Equal(slices.Sorted(slices.Values(refused.Members)), all) {
		t.Errorf("the set is %q", refused.Members)
	}
}
