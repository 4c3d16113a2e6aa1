// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

const maxMembers = 4096 // of an index

func indexName(index session.IndexKey) string {
	return "bff:i:{" + base64.RawURLEncoding.EncodeToString(index[:]) + "}"
}

// enter puts keys without a record into an index, as they are when they were
// entered that long ago and expire in an hour.
func enter(server *redistest.Server, index session.IndexKey, ago time.Duration, n int) (keys []session.Key) {
	args := []string{"ZADD", indexName(index)}
	now := time.Now()
	score := now.Add(time.Hour).Unix()<<20 + now.Add(-ago).Unix()&(1<<20-1)
	for range n {
		k := storetest.NewKey()
		keys = append(keys, k)
		args = append(args, strconv.FormatInt(score, 10), string(k[:]))
	}
	server.Must(args...)
	return keys
}

// HARDENING H104: an index is bounded, and takes off what is over before it
// refuses anything. A session that is there can always be replaced.
func TestIndexIsBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	index := storetest.NewIndexKey()
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	enter(server, index, 10*time.Second, maxMembers) // somebody may be about to write these
	if err := s.Create(t.Context(), storetest.NewRecord(index)); !errors.Is(err, session.ErrFull) {
		t.Fatalf("create with a full index: %v, want ErrFull", err)
	}
	next := rec.Next()
	next.Index = []session.IndexKey{index}
	if err := s.Replace(t.Context(), rec, next); err != nil {
		t.Fatalf("replace with a full index: %v", err)
	}
	if keys, err := s.Find(t.Context(), index); err != nil || !slices.Equal(keys, []session.Key{rec.Key}) {
		t.Fatalf("find: %v, %v", keys, err)
	}
	full := storetest.NewIndexKey()
	enter(server, full, 2*time.Minute, maxMembers)
	if err := s.Create(t.Context(), storetest.NewRecord(full)); err != nil {
		t.Fatalf("create with an index full of what is over: %v", err)
	}
	if n := server.Must("ZCARD", indexName(full)); n != "1" {
		t.Errorf("%s entries are left", n)
	}
}

// What is over leaves the index: when a session ends, when somebody looks, and
// by itself in the end. What was entered a moment ago stays.
func TestIndexCleansItself(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	index := storetest.NewIndexKey()
	rec := storetest.NewRecord(index)
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	age := func() { // make the entry one of two minutes ago
		now := time.Now()
		score := now.Add(2*time.Hour).Unix()<<20 + now.Add(-2*time.Minute).Unix()&(1<<20-1)
		server.Must("ZADD", indexName(index), "XX", strconv.FormatInt(score, 10), string(rec.Key[:]))
	}
	entries := func(want string) {
		t.Helper()
		redistest.Eventually(t, "entries: "+want, func() error {
			if n := server.Must("ZCARD", indexName(index)); n != want {
				return errors.New(n)
			}
			return nil
		})
	}
	ttl, err := strconv.Atoi(server.Must("TTL", indexName(index)))
	if err != nil || ttl < 3600 || ttl > 3600+15*60 {
		t.Errorf("the index lives for %d s, its record for an hour", ttl)
	}
	age()
	if err := s.Delete(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	entries("0")
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	server.Must("DEL", "bff:s:{"+rec.Key.String()+"}") // as it expires
	if keys, err := s.Find(t.Context(), index); err != nil || len(keys) != 0 {
		t.Fatalf("find: %v, %v", keys, err)
	}
	entries("1")
	age()
	if keys, err := s.Find(t.Context(), index); err != nil || len(keys) != 0 {
		t.Fatalf("find: %v, %v", keys, err)
	}
	entries("0")
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	next := rec.Next()
	next.Index = nil
	age()
	if err := s.Replace(t.Context(), rec, next); err != nil {
		t.Fatal(err)
	}
	entries("0")
	// Entries of the past go with the next one.
	enter(server, index, 2*time.Hour, 10)
	server.Must("ZADD", indexName(index), strconv.FormatInt(time.Now().Add(-time.Second).Unix()<<20, 10), "past")
	if err := s.Create(t.Context(), storetest.NewRecord(index)); err != nil {
		t.Fatal(err)
	}
	entries("11")
}

// Indexes first, records second: whoever looks while a session is made, moved
// between indexes or made to live longer, and whatever is lost on the way, never
// misses one that is there.
func TestLiveRecordIsNeverMissing(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s, other := open(t, o), open(t, o)
	a, b := storetest.NewIndexKey(), storetest.NewIndexKey()
	n := 0
	proxy.Rule(func(command []string) redistest.Fault {
		if n++; command[0] == "EVALSHA" && n%29 == 0 {
			return redistest.Fault{LoseReply: n%2 == 0, LoseRequest: n%2 == 1}
		}
		return redistest.Fault{}
	})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 60 {
				rec := storetest.NewRecord(a)
				rec.Expiry = time.Now().Add(time.Minute)
				if err := s.Create(t.Context(), rec); err != nil {
					t.Errorf("create: %v", err)
					continue
				}
				finds(t, other, a, rec.Key)
				next := rec.Next()
				next.Index = []session.IndexKey{b}
				next.Expiry = time.Now().Add(time.Hour)
				if err := s.Replace(t.Context(), rec, next); err != nil {
					t.Errorf("replace: %v", err)
					continue
				}
				finds(t, other, b, rec.Key)
			}
		})
	}
	wg.Wait()
	proxy.Rule(nil)
	if keys, err := s.Find(t.Context(), b); err != nil || len(keys) != 180 {
		t.Errorf("%d sessions are found, %v", len(keys), err)
	}
	if keys, err := s.Find(t.Context(), a); err != nil || len(keys) != 0 {
		t.Errorf("%d sessions are found where they were before, %v", len(keys), err)
	}
}

func finds(t *testing.T, s *redisstore.Store, index session.IndexKey, key session.Key) {
	t.Helper()
	if keys, err := s.Find(t.Context(), index); err != nil || !slices.Contains(keys, key) {
		t.Errorf("a live session is not found among %d: %v", len(keys), err)
	}
}
