// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
)

func joins(t *testing.T, s *redisstore.Store, want bool, members ...string) session.Joined {
	t.Helper()
	joined, err := s.Join(t.Context(), "keys", members)
	if err != nil || joined.OK != want {
		t.Fatalf("join with %q: %+v, %v", members, joined, err)
	}
	return joined
}

// What nobody joins with any more is forgotten after 30 days by the server's
// clock, by the next one who joins: an instance that comes back with it is not
// let in. The key that is named is the one to delete; it does not expire.
func TestJoinForgets(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, alone(at(t, server.Address())))
	place := joins(t, s, true, "old", "middle").Place
	ago := func(d time.Duration, members ...string) {
		for _, m := range members {
			server.Must("ZADD", place, strconv.FormatInt(time.Now().Add(-d).UnixMicro(), 10), m)
		}
	}
	const day = 24 * time.Hour
	ago(31*day, "old", "middle")
	joins(t, s, true, "old") // it is not too late before somebody else came
	if got := server.Must("ZRANGE", place, "0", "-1"); got != "old" {
		t.Errorf("the set is %q", got)
	}
	joins(t, s, true, "old", "new")
	ago(29*day, "old")
	joins(t, s, true, "new")
	joins(t, s, true, "old")
	ago(31*day, "old")
	joins(t, s, true, "new")
	if refused := joins(t, s, false, "old"); !slices.Equal(refused.Members, []string{"new"}) {
		t.Errorf("the set has %q", refused.Members)
	}
	if server.Must("PERSIST", place) != "0" {
		t.Error("the set expires")
	}
	server.Must("DEL", place)
	joins(t, s, true, "old")
	// What others have written there is not brought into a log.
	server.Must("ZADD", place, "1", strings.Repeat("x", 1000))
	unavailableSoon(t, "join", func() error { _, err := s.Join(t.Context(), "keys", []string{"new"}); return err })
	joins(t, s, true, "old") // forgets it
	joins(t, s, false, "new")
}

// A failover does not forget who belongs together, and neither a restart of a
// server that keeps what it has.
func TestJoinOutlivesFailover(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, 1)
	o := at(t, g.Addresses()...)
	o.Sentinel = &redisstore.Sentinel{Master: redistest.MasterName}
	o.WaitReplicas = 1
	s := open(t, o)
	joins(t, s, true, "ours")
	o.WaitReplicas = 0 // there is nobody to wait for
	s = open(t, o)
	primary, err := g.Primary()
	if err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	redistest.Eventually(t, "the replica answers", func() error {
		joined, err := s.Join(t.Context(), "keys", []string{"theirs"})
		if err == nil && joined.OK {
			t.Fatal("a stranger was let in")
		}
		return err
	})
	joins(t, s, true, "ours")
}

// A stranger is told so also where the replicas that every write waits for are
// not there: nothing was written.
func TestJoinRefusedWithoutReplicas(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	o := alone(at(t, server.Address()))
	joins(t, open(t, o), true, "ours")
	o.WaitReplicas, o.WaitTimeout = 1, 50*time.Millisecond
	s := open(t, o)
	joins(t, s, false, "theirs")
	unavailableSoon(t, "join", func() error { _, err := s.Join(t.Context(), "keys", []string{"ours"}); return err })
}
