// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"crypto/rand"
	"encoding/hex"
	"flag"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// TestMain lets more tests run at a time than there are processors: they wait
// for servers more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// at gives options for servers at these addresses.
func at(t testing.TB, addresses ...string) redisstore.Options {
	t.Helper()
	var o redisstore.Options
	for _, text := range addresses {
		a, err := redisstore.ParseAddress(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		o.Addresses = append(o.Addresses, a)
	}
	return o
}

func open(t testing.TB, o redisstore.Options) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// alone gives options for a part of the server that nobody else uses.
func alone(o redisstore.Options) redisstore.Options {
	var id [6]byte
	rand.Read(id[:])
	o.KeyPrefix = hex.EncodeToString(id[:]) + ":"
	return o
}

func conformance(t *testing.T, o redisstore.Options) {
	t.Helper()
	storetest.Run(t, func(t *testing.T) session.Store { return open(t, alone(o)) })
}

func TestConformance(t *testing.T) {
	t.Parallel()
	conformance(t, at(t, redistest.Start(t).Address()))
}

func TestConformanceWithoutClientCache(t *testing.T) {
	t.Parallel()
	o := at(t, redistest.Start(t).Address())
	o.NoClientCache = true
	conformance(t, o)
}

func TestConformanceSentinel(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, 1)
	o := at(t, g.Addresses()...)
	o.Sentinel = &redisstore.Sentinel{Master: redistest.MasterName}
	o.WaitReplicas = 1
	conformance(t, o)
}

func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	conformance(t, at(t, redistest.StartCluster(t, 3).Addresses()...))
}

// logRecorder keeps the messages of a logger.
type logRecorder struct {
	mu    sync.Mutex
	lines []string
}

func (l *logRecorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logRecorder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func BenchmarkLoad(b *testing.B) {
	storetest.BenchmarkLoad(b, open(b, at(b, redistest.Start(b).Address())))
}

func BenchmarkLoadWithoutClientCache(b *testing.B) {
	o := at(b, redistest.Start(b).Address())
	o.NoClientCache = true
	storetest.BenchmarkLoad(b, open(b, o))
}

func BenchmarkReplace(b *testing.B) {
	storetest.BenchmarkReplace(b, open(b, at(b, redistest.Start(b).Address())))
}
