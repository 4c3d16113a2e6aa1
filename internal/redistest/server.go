// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package redistest runs real Redis servers for tests, on free ports of the
// loopback interface, alone, behind sentinels or as a cluster, and a proxy
// between them and a client that knows the protocol: it loses single requests
// and replies, delays them, answers in the server's place, and goes dead.
//
// Where redis-server is not installed tests skip, or fail when the environment
// has BFF_REQUIRE_COMPONENTS=1. Servers are stopped by their process.
package redistest

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second // for anything that has to come

// Binary gives the path of redis-server, or of valkey-server.
func Binary(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const remedy = "redis-server is missing: install the package redis-server"
	if os.Getenv("BFF_REQUIRE_COMPONENTS") == "1" {
		t.Fatalf("%s; BFF_REQUIRE_COMPONENTS=1 is set", remedy)
	}
	t.Skip(remedy)
	return ""
}

// Server is one process. Its methods may be called by several goroutines.
type Server struct {
	t    testing.TB
	args []string
	dir  string
	port int
	auth []string // for Do

	mu  sync.Mutex
	cmd *exec.Cmd
}

// Start runs a server that keeps nothing on disk and listens on a free port.
// args are further command line options, and may take that back; each stands
// for itself, as in "--maxmemory", "10mb".
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := newServer(t, args...)
	s.Run()
	return s
}

func newServer(t testing.TB, args ...string) *Server {
	t.Helper()
	Binary(t)
	s := &Server{t: t, args: args, dir: t.TempDir(), port: FreePort(t)}
	t.Cleanup(s.Kill)
	return s
}

// WithAuth has Do sign in first.
func (s *Server) WithAuth(args ...string) *Server {
	s.auth = append([]string{"AUTH"}, args...)
	return s
}

// Port of the server.
func (s *Server) Port() int { return s.port }

// Address is host:port.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Dir is where the server works.
func (s *Server) Dir() string { return s.dir }

// Run starts the process, as before when it was killed, and waits until it
// answers.
func (s *Server) Run() {
	s.t.Helper()
	args := append([]string{
		"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no",
		"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
	}, s.args...)
	s.start(args...)
}

func (s *Server) start(args ...string) {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(Binary(s.t), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.cmd = cmd
	s.mu.Unlock()
	Eventually(s.t, "the server answers", func() error {
		reply, err := s.Do("PING")
		if err == nil && reply != "PONG" && !strings.HasPrefix(reply, "-NOAUTH") && !strings.HasPrefix(reply, "-DENIED") {
			err = errors.New(reply)
		}
		if err != nil && s.t.Failed() {
			return nil
		}
		return err
	})
}

// Kill ends the process as kill -9 does, and waits for its end.
func (s *Server) Kill() {
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// Pause stops the process (SIGSTOP): it keeps its connections and says nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Continue has it go on.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		s.t.Fatal("the server does not run")
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do sends a command on a connection of its own. Replies come as text: an error
// with a dash before it, elements of an array one a line, nothing as "(nil)".
func (s *Server) Do(args ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Address(), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	commands := [][]string{args}
	if s.auth != nil {
		commands = [][]string{s.auth, args}
	}
	var reply frame
	for _, c := range commands {
		if _, err := conn.Write(encodeCommand(c)); err != nil {
			return "", err
		}
		if reply, err = readFrame(r); err != nil {
			return "", err
		}
	}
	return reply.text(), nil
}

// Must is Do for commands that succeed.
func (s *Server) Must(args ...string) string {
	s.t.Helper()
	reply, err := s.Do(args...)
	if err != nil || strings.HasPrefix(reply, "-") {
		s.t.Fatalf("%q at %s: %q, %v", args, s.Address(), reply, err)
	}
	return reply
}

// taken are the ports that FreePort has given.
var taken sync.Map

// FreePort gives a port of the loopback interface that was free a moment ago, and
// its cluster port, 10000 above, with it. Neither is one that the system gives to
// connections and to whoever asks for any, nor was the port given before: a server
// that is started again finds its own free.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		var b [4]byte
		_, _ = rand.Read(b[:]) // it does not fail
		port := 10000 + int(binary.BigEndian.Uint32(b[:])%10000)
		if _, given := taken.LoadOrStore(port, true); !given && free(port) && free(port+10000) {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

// Eventually waits until try gives no error.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", patience, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
