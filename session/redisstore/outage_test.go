// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// recovery is how soon after the server's return everything has to work.
const recovery = 5 * time.Second

func createAll(t *testing.T, s session.Store, n int) (records []*session.Record) {
	t.Helper()
	for range n {
		rec := storetest.NewRecord(storetest.NewIndexKey())
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		records = append(records, rec)
	}
	return records
}

// allThere waits until every record is given again, and fails if one is ever
// said to be gone.
func allThere(t *testing.T, s session.Store, records []*session.Record) {
	t.Helper()
	start := time.Now()
	for _, rec := range records {
		redistest.Eventually(t, "a session is there", func() error {
			got, err := s.Load(t.Context(), rec.Key)
			if errors.Is(err, session.ErrNotFound) {
				t.Fatal("a session is lost")
			}
			if err == nil && got.Rev < rec.Rev {
				t.Fatalf("revision %d went back to %d", rec.Rev, got.Rev)
			}
			return err
		})
	}
	if took := time.Since(start); took > recovery {
		t.Errorf("recovery took %s", took)
	}
}

// HARDENING F201: kill -9, and back with what was on disk.
func TestKilledServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	s := open(t, at(t, server.Address()))
	records := createAll(t, s, 50)
	for range 2 {
		for _, rec := range records {
			if _, err := s.Load(t.Context(), rec.Key); err != nil {
				t.Fatal(err)
			}
		}
		server.Kill()
		killed := time.Now()
		for time.Since(killed) < 1500*time.Millisecond {
			start := time.Now()
			for i, rec := range records {
				_, err := s.Load(t.Context(), rec.Key)
				if err != nil && !errors.Is(err, session.ErrStoreUnavailable) {
					t.Fatalf("session %d while the server is down: %v", i, err)
				}
				if err == nil && time.Since(killed) > answered {
					t.Fatalf("a copy was believed %s after the server's end", time.Since(killed))
				}
				if time.Since(start) > 200*time.Millisecond {
					break
				}
			}
		}
		unavailableSoon(t, "replace", func() error { return s.Replace(t.Context(), records[0], records[0].Next()) })
		server.Run()
		allThere(t, s, records)
		for i, rec := range records {
			next := rec.Next()
			if err := s.Replace(t.Context(), rec, next); err != nil {
				t.Fatal(err)
			}
			records[i] = next
		}
	}
}

// HARDENING F209: a server that comes back empty has no sessions, and says so.
func TestEmptyServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	rec := createAll(t, s, 1)[0]
	if _, err := s.Load(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	server.Must("FLUSHALL")
	redistest.Eventually(t, "the session is gone", func() error {
		if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if keys, err := s.Find(t.Context(), rec.Index[0]); err != nil || len(keys) != 1 {
		t.Fatalf("find: %v, %v", keys, err)
	}
}

// A server that is stopped for three seconds (SIGSTOP), as a virtual machine is
// that moves.
func TestPausedServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	records := createAll(t, s, 20)
	server.Pause()
	paused := time.Now()
	for time.Since(paused) < 3*time.Second {
		start := time.Now()
		if _, err := s.Load(t.Context(), records[0].Key); err != nil && !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatal(err)
		}
		if took := time.Since(start); took > answered {
			t.Errorf("a load took %s", took)
		}
	}
	server.Continue()
	allThere(t, s, records)
	redistest.Eventually(t, "a session is replaced", func() error {
		rec, err := s.Fresh(t.Context(), records[1].Key)
		if err == nil {
			err = s.Replace(t.Context(), rec, rec.Next())
		}
		return err
	})
}

// HARDENING F206: the server takes no writes, for whatever reason: they fail,
// nothing is lost, reads go on, and it passes with the reason.
func TestRefusedWrites(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refuse func(*redistest.Server)
		accept func(*redistest.Server)
		args   []string
	}{
		"OOM": {
			func(s *redistest.Server) { s.Must("CONFIG", "SET", "maxmemory", "1") },
			func(s *redistest.Server) { s.Must("CONFIG", "SET", "maxmemory", "0") },
			nil,
		},
		"READONLY": {
			func(s *redistest.Server) { s.Must("REPLICAOF", "127.0.0.1", "1") },
			func(s *redistest.Server) { s.Must("REPLICAOF", "NO", "ONE") },
			nil,
		},
		"NOREPLICAS": {
			func(s *redistest.Server) { s.Must("CONFIG", "SET", "min-replicas-to-write", "1") },
			func(s *redistest.Server) { s.Must("CONFIG", "SET", "min-replicas-to-write", "0") },
			nil,
		},
		"MISCONF": {
			func(s *redistest.Server) {
				if err := os.Mkdir(filepath.Join(s.Dir(), "occupied"), 0o700); err != nil {
					t.Fatal(err)
				}
				s.Must("BGSAVE")
				redistest.Eventually(t, "saving fails", func() error {
					if !strings.Contains(s.Must("INFO", "persistence"), "rdb_last_bgsave_status:err") {
						return errors.New("not yet")
					}
					return nil
				})
			},
			func(s *redistest.Server) { s.Must("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") },
			[]string{"--dbfilename", "occupied", "--save", "3600 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, c.args...)
			s := open(t, at(t, server.Address()))
			rec := createAll(t, s, 1)[0]
			c.refuse(server)
			unavailableSoon(t, "create", func() error { return s.Create(t.Context(), storetest.NewRecord(storetest.NewIndexKey())) })
			unavailableSoon(t, "replace", func() error { return s.Replace(t.Context(), rec, rec.Next()) })
			if name != "OOM" { // what makes room is welcome
				unavailableSoon(t, "delete", func() error { return s.Delete(t.Context(), rec.Key) })
			}
			if got, err := s.Fresh(t.Context(), rec.Key); err != nil || got.Rev != rec.Rev {
				t.Errorf("read: %v, %v", got, err)
			}
			c.accept(server)
			redistest.Eventually(t, "writes are taken", func() error { return s.Replace(t.Context(), rec, rec.Next()) })
		})
	}
}

// HARDENING E109, E110, E112, F307: what is under a session's key is no record,
// or one of a newer version. It is not "not found", and nothing touches it.
func TestForeignValues(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	o := at(t, server.Address())
	for name, put := range map[string]func(key string, rec *session.Record){
		"a list":          func(key string, _ *session.Record) { server.Must("RPUSH", key, "x") },
		"a hash":          func(key string, _ *session.Record) { server.Must("HSET", key, "x", "y") },
		"an empty string": func(key string, _ *session.Record) { server.Must("SET", key, "") },
		"garbage":         func(key string, _ *session.Record) { server.Must("SET", key, "garbage that is longer than a number") },
		"100 MB":          func(key string, _ *session.Record) { server.Must("SETRANGE", key, "100000000", "x") },
		"a newer version": func(key string, rec *session.Record) {
			b, _ := rec.MarshalBinary()
			server.Must("SET", key, "\x7f"+string(b[1:])+"12345678")
		},
		"another session's record": func(key string, _ *session.Record) {
			b, _ := storetest.NewRecord().MarshalBinary()
			server.Must("SET", key, string(b)+"12345678")
		},
		"half a record": func(key string, rec *session.Record) {
			b, _ := rec.MarshalBinary()
			server.Must("SET", key, string(b[:len(b)/2]))
		},
	} {
		for _, cache := range []bool{true, false} {
			o := alone(o)
			o.NoClientCache = !cache
			s := open(t, o)
			rec := storetest.NewRecord()
			key := o.KeyPrefix + "s:{" + rec.Key.String() + "}"
			put(key, rec)
			before := server.Must("DUMP", key)
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			allocated := memory.TotalAlloc
			unavailableSoon(t, name+": load", func() error { _, err := s.Load(t.Context(), rec.Key); return err })
			unavailableSoon(t, name+": fresh", func() error { _, err := s.Fresh(t.Context(), rec.Key); return err })
			if err := s.Create(t.Context(), rec); err == nil {
				t.Errorf("%s was created over", name)
			}
			switch name {
			case "half a record": // its head is right, and so is a write that makes it whole
			case "another session's record":
				if err := s.Replace(t.Context(), rec, rec.Next()); err == nil {
					t.Errorf("%s was replaced", name)
				}
			default:
				unavailableSoon(t, name+": replace", func() error { return s.Replace(t.Context(), rec, rec.Next()) })
			}
			runtime.ReadMemStats(&memory)
			if used := memory.TotalAlloc - allocated; name == "100 MB" && used > 60<<20 { // other tests run as well
				t.Errorf("%s cost %d bytes of memory", name, used)
			}
			if server.Must("DUMP", key) != before {
				t.Errorf("%s was changed", name)
			}
			server.Must("DEL", key)
			if err := s.Create(t.Context(), rec); err != nil {
				t.Errorf("after %s was taken away: %v", name, err)
			}
		}
	}
}

// HARDENING E111, F209: warnings, once, and none without a reason.
func TestWarnings(t *testing.T) {
	t.Parallel()
	plain := redistest.Start(t)
	evicting := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	closed := redistest.Start(t, "--maxmemory-policy", "allkeys-lru", "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-config")
	untracked := redistest.Start(t, "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-client|tracking")
	for name, c := range map[string]struct {
		address string
		change  func(*redisstore.Options)
		want    []string
	}{
		"nothing to warn of":        {plain.Address(), nil, nil},
		"sessions may be dropped":   {evicting.Address(), nil, []string{"noeviction"}},
		"it may not be looked at":   {closed.Address(), nil, nil},
		"tracking is not allowed":   {untracked.Address(), nil, []string{"client-side caching"}},
		"tracking is not asked for": {untracked.Address(), func(o *redisstore.Options) { o.NoClientCache = true }, nil},
		"in the clear off loopback": {"192.0.2.1:6379", nil, []string{"in the clear", "connecting"}},
		"in the clear by name":      {"redis.invalid", nil, []string{"in the clear", "connecting"}},
		"over TLS off loopback":     {"rediss://192.0.2.1:6379", nil, []string{"connecting"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logRecorder
			o := alone(at(t, c.address))
			o.Logger = log.logger()
			if c.change != nil {
				c.change(&o)
			}
			s := open(t, o)
			for range 3 {
				_, _ = s.Find(t.Context(), storetest.NewIndexKey())
			}
			if err := s.Close(); err != nil { // it has looked at all by then
				t.Fatal(err)
			}
			if len(log.lines) != len(c.want) {
				t.Fatalf("logged %q, want %q", log.lines, c.want)
			}
			for i, want := range c.want {
				if !strings.Contains(log.lines[i], want) {
					t.Errorf("logged %q, want %q", log.lines[i], want)
				}
			}
		})
	}
}

// HARDENING H212: neither KEYS nor SCAN, whatever is done.
func TestNoScan(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := open(t, at(t, server.Address()))
	for call, do := range calls(t, s) {
		if err := do(); err != nil {
			t.Fatalf("%s: %v", call, err)
		}
	}
	stats := server.Must("INFO", "commandstats")
	var used []string
	for line := range strings.Lines(stats) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":"); ok {
			used = append(used, name)
		}
	}
	for _, name := range []string{"keys", "scan", "zscan"} {
		if slices.Contains(used, name) {
			t.Errorf("%s was used", name)
		}
	}
	t.Logf("commands: %s", strings.Join(used, " "))
}
