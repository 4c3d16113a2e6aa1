// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// answered is how long any call may take, whatever the server does: a second,
// and something for a machine that is busy with other tests.
const answered = time.Second + slack

// isData reports the commands that carry what the store asks for.
func isData(command []string) bool {
	return slices.Contains([]string{"EVALSHA", "EVAL", "GETRANGE", "ZRANGE", "EXISTS", "WAIT"}, command[0])
}

// calls are one of each kind, on records that are there.
func calls(t *testing.T, s *redisstore.Store) map[string]func() error {
	t.Helper()
	make := func() *session.Record {
		rec := storetest.NewRecord(storetest.NewIndexKey())
		if err := s.Create(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	replaced, deleted, read := make(), make(), make()
	return map[string]func() error{
		"create": func() error { return s.Create(t.Context(), storetest.NewRecord(storetest.NewIndexKey())) },
		"replace": func() error {
			next := replaced.Next()
			err := s.Replace(t.Context(), replaced, next)
			if err == nil {
				replaced = next
			}
			return err
		},
		"delete": func() error { return s.Delete(t.Context(), deleted.Key) },
		"fresh":  func() error { _, err := s.Fresh(t.Context(), read.Key); return err },
		"find": func() error {
			keys, err := s.Find(t.Context(), read.Index[0])
			if err == nil && len(keys) != 1 {
				return errors.New("a session is not found")
			}
			return err
		},
		"join": func() error {
			joined, err := s.Join(t.Context(), "n", []string{"v"})
			if err == nil && !joined.OK {
				return errors.New("not let in")
			}
			return err
		},
	}
}

// unavailableSoon checks that a call cannot say, and says so within a second.
func unavailableSoon(t *testing.T, name string, call func() error) {
	t.Helper()
	start := time.Now()
	err := call()
	if !errors.Is(err, session.ErrStoreUnavailable) || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
		t.Errorf("%s: %v, want ErrStoreUnavailable", name, err)
	}
	if took := time.Since(start); took > answered {
		t.Errorf("%s took %s", name, took)
	}
}

func proxied(t *testing.T) (*redistest.Server, *redistest.Proxy, redisstore.Options) {
	t.Helper()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Address())
	return server, proxy, at(t, proxy.Address())
}

// HARDENING F204: the connection breaks after the server has done what it was
// asked to, or before, for every kind of call: each succeeds, once.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	for name, fault := range map[string]redistest.Fault{"request": {LoseRequest: true}, "reply": {LoseReply: true}} {
		for call, do := range calls(t, s) {
			for range 10 {
				var lost atomic.Bool
				proxy.Rule(func(command []string) redistest.Fault {
					if isData(command) && lost.CompareAndSwap(false, true) {
						return fault
					}
					return redistest.Fault{}
				})
				if err := do(); err != nil {
					t.Errorf("%s with a lost %s: %v", call, name, err)
				}
				if !lost.Load() {
					t.Errorf("%s lost no %s", call, name)
				}
			}
		}
	}
	// A chain of writes, with every third reply lost: none is missing, none
	// happened twice.
	var n atomic.Int64
	lost := int64(0)
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	proxy.Rule(func(command []string) redistest.Fault {
		if command[0] != "EVALSHA" || n.Add(1)%3 != 0 {
			return redistest.Fault{}
		}
		lost++
		return redistest.Fault{LoseReply: true}
	})
	const writes = 700
	for range writes {
		next := rec.Next()
		next.Gen++
		if err := s.Replace(t.Context(), rec, next); err != nil {
			t.Fatalf("revision %d: %v", next.Rev, err)
		}
		rec = next
	}
	proxy.Rule(nil)
	got, err := s.Fresh(t.Context(), rec.Key)
	if err != nil || got.Gen != writes+1 {
		t.Fatalf("after %d writes: %v, %v", writes, got, err)
	}
	if lost < writes/3 {
		t.Fatalf("only %d replies were lost", lost)
	}
	t.Logf("%d writes, %d lost replies", writes, lost)
}

// Two deliveries of one login response claim its state with records that are
// equal to the byte. One of them wins, also when its reply is lost and it asks
// again.
func TestEqualClaimsHaveOneWinner(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	stores := []*redisstore.Store{open(t, o), open(t, o)}
	for _, s := range stores {
		if _, err := s.Find(t.Context(), storetest.NewIndexKey()); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 60 {
		var lost atomic.Int32
		proxy.Rule(func(command []string) redistest.Fault {
			if command[0] == "EVALSHA" && int(lost.Add(1)) <= round%3 {
				return redistest.Fault{LoseReply: true}
			}
			return redistest.Fault{}
		})
		claim := &session.Record{Key: storetest.NewKey(), Rev: 1, Expiry: time.Now().Add(time.Minute)}
		var won atomic.Int32
		var wg sync.WaitGroup
		for _, s := range stores {
			for range 2 {
				wg.Go(func() {
					switch err := s.Create(t.Context(), claim); {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, session.ErrExists):
						t.Errorf("create: %v", err)
					}
				})
			}
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d claims won with %d lost replies", won.Load(), round%3)
		}
	}
}

// HARDENING F206: whatever the server says instead of doing it, nobody is told
// that a session is gone or changed; and where a moment helps, it is waited for.
func TestErrorReplies(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	faulty := func(t *testing.T) (*redistest.Proxy, *redisstore.Store) {
		t.Parallel()
		proxy := redistest.NewProxy(t, server.Address())
		return proxy, open(t, at(t, proxy.Address()))
	}
	for _, c := range []struct {
		reply  string
		passes bool
	}{
		{"-READONLY You can't write against a read only replica.", true},
		{"-LOADING Redis is loading the dataset in memory", true},
		{"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true},
		{"-TRYAGAIN Multiple keys request during rehashing of slot", true},
		{"-MOVED 1 127.0.0.1:1", true},
		{"-ASK 1 127.0.0.1:1", true},
		{"-CLUSTERDOWN Hash slot not served", true},
		{"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", true},
		{"-NOREPLICAS Not enough good replicas to write.", true},
		{"-ERR Error running script (call to f_x): @user_script:3: -READONLY You can't write against a read only replica.", true},
		{"-OOM command not allowed when used memory > 'maxmemory'.", false},
		{"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", false},
		{"-NOAUTH Authentication required.", false},
		{"-NOPERM this user has no permissions to run the command", false},
		{"-WRONGTYPE Operation against a key holding the wrong kind of value", false},
		{"-EXECABORT Transaction discarded because of previous errors.", false},
		{"-ERR max number of clients reached", false},
		{"+OK", false}, // a reply that is not to the question: F205
		{"$-1", false},
		{"*0", false},
	} {
		t.Run(strings.Fields(c.reply[1:] + " -")[0], func(t *testing.T) {
			proxy, s := faulty(t)
			each := calls(t, s)
			for call, do := range each {
				proxy.Rule(func(command []string) redistest.Fault {
					if isData(command) {
						return redistest.Fault{Answer: c.reply}
					}
					return redistest.Fault{}
				})
				if c.reply[0] == '-' || !slices.Contains([]string{"delete", "find"}, call) {
					unavailableSoon(t, call, do)
				} else {
					_ = do() // nothing that could be told from an answer
				}
				if !c.passes {
					continue
				}
				var told atomic.Bool
				proxy.Rule(func(command []string) redistest.Fault {
					if isData(command) && told.CompareAndSwap(false, true) {
						return redistest.Fault{Answer: c.reply}
					}
					return redistest.Fault{}
				})
				if err := do(); err != nil {
					t.Errorf("%s after %q once: %v", call, c.reply, err)
				}
			}
			proxy.Rule(nil)
			for call, do := range each {
				if err := do(); err != nil && !errors.Is(err, session.ErrConflict) {
					t.Errorf("%s afterwards: %v", call, err)
				}
			}
		})
	}
	t.Run("NOSCRIPT", func(t *testing.T) {
		proxy, s := faulty(t)
		for call, do := range calls(t, s) {
			proxy.Rule(func(command []string) redistest.Fault {
				if command[0] == "EVALSHA" {
					return redistest.Fault{Answer: "-NOSCRIPT No matching script. Please use EVAL."}
				}
				return redistest.Fault{}
			})
			if err := do(); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
	})
}

// HARDENING F206: new connections are refused.
func TestMaxClients(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	each := calls(t, s)
	proxy.Rule(func(command []string) redistest.Fault {
		if command[0] == "HELLO" {
			return redistest.Fault{Answer: "-ERR max number of clients reached"}
		}
		return redistest.Fault{}
	})
	proxy.Cut()
	for call, do := range each {
		unavailableSoon(t, call, do)
	}
	proxy.Rule(nil)
	for call, do := range each {
		redistest.Eventually(t, call, do)
	}
}

// HARDENING F202: a server that accepts and never answers. Everything is
// answered within a second, nothing piles up, and it passes with the fault.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	each := calls(t, s)
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), rec.Key); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	proxy.Die()
	died := time.Now()
	for time.Since(died) < 3*time.Second {
		start := time.Now()
		_, err := s.Load(t.Context(), rec.Key)
		if took := time.Since(start); took > answered {
			t.Errorf("a load took %s", took)
		}
		if err == nil && start.Sub(died) > answered {
			t.Fatalf("a copy was believed %s after the last word of the server", start.Sub(died))
		}
		if err != nil && !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	var wg sync.WaitGroup
	for call, do := range each {
		for range 30 {
			if call == "replace" || call == "delete" { // not concurrently with itself
				wg.Go(func() {})
				continue
			}
			wg.Go(func() { unavailableSoon(t, call, do) })
		}
	}
	wg.Go(func() { unavailableSoon(t, "replace", each["replace"]) })
	wg.Go(func() { unavailableSoon(t, "delete", each["delete"]) })
	wg.Wait()
	proxy.Revive()
	start := time.Now()
	for call, do := range each {
		redistest.Eventually(t, call, func() error {
			err := do()
			if errors.Is(err, session.ErrConflict) { // what was held up was done after all
				return nil
			}
			return err
		})
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("recovery took %s", took)
	}
	redistest.Eventually(t, "goroutines end", func() error {
		if n := runtime.NumGoroutine(); n > before+200 { // other tests run as well
			return errors.New("too many")
		}
		return nil
	})
}

// HARDENING F203: 300 ms ± 200 for every reply, of a server that knows the
// scripts: to send it one is a second way there and back.
func TestLatency(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	each := calls(t, s)
	for call, do := range each {
		if err := do(); err != nil {
			t.Fatalf("%s: %v", call, err)
		}
	}
	proxy.Rule(func(command []string) redistest.Fault {
		if isData(command) {
			return redistest.Fault{Delay: 100*time.Millisecond + rand.N(400*time.Millisecond)}
		}
		return redistest.Fault{}
	})
	for range 2 {
		for call, do := range each {
			if err := do(); err != nil {
				t.Errorf("%s: %v", call, err)
			}
		}
	}
}

// HARDENING F210: connections that the server, or something between, closed
// while nobody used them. The first call after it succeeds.
func TestStaleConnections(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	each := calls(t, s)
	for range 10 {
		for call, do := range each {
			proxy.Cut()
			if err := do(); err != nil {
				t.Errorf("%s after the connection was cut: %v", call, err)
			}
		}
	}
}

// HARDENING F211: more calls than are let in at a time. They queue, but not for
// long, and the queue is empty again when the server answers.
func TestFullPool(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	o.MaxCalls = 10
	s := open(t, o)
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	all := func(each func(error)) {
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				start := time.Now()
				_, err := s.Fresh(t.Context(), rec.Key)
				if took := time.Since(start); took > answered {
					t.Errorf("a call took %s", took)
				}
				each(err)
			})
		}
		wg.Wait()
	}
	var served atomic.Int64
	all(func(err error) {
		if err == nil {
			served.Add(1)
		} else if !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("with a server that answers: %v", err)
		}
	})
	if served.Load() < 20 { // twice the places; all of them on a machine that is not busy
		t.Errorf("a server that answers served %d calls", served.Load())
	}
	t.Logf("%d of 500 calls were served", served.Load())
	proxy.Die()
	all(func(err error) {
		if !errors.Is(err, session.ErrStoreUnavailable) {
			t.Errorf("with a server that does not answer: %v", err)
		}
	})
	proxy.Revive()
	redistest.Eventually(t, "the queue is empty", func() error { _, err := s.Fresh(t.Context(), rec.Key); return err })
}

// The end of a caller's context is the caller's own: others that wait for the
// same read get their answer.
func TestCallerLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	_, proxy, o := proxied(t)
	s := open(t, o)
	rec := storetest.NewRecord()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	const late = 500 * time.Millisecond
	proxy.Rule(func(command []string) redistest.Fault {
		if command[0] == "GETRANGE" {
			return redistest.Fault{Delay: late}
		}
		return redistest.Fault{}
	})
	hasty, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		start := time.Now()
		if _, err := s.Load(hasty, rec.Key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the hasty one: %v", err)
		}
		if took := time.Since(start); took >= late { // it waited for the answer
			t.Errorf("the hasty one waited %s", took)
		}
	})
	time.Sleep(20 * time.Millisecond)
	for range 20 {
		wg.Go(func() {
			if _, err := s.Load(t.Context(), rec.Key); err != nil {
				t.Errorf("one with patience: %v", err)
			}
		})
	}
	wg.Wait()
}
