// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// process is a program of the bench that runs until the test is over.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	lines  chan string // of its standard output
	exited chan struct{}

	once sync.Once
}

// start starts cmd. Its output is appended to a file in the test's output
// directory; its standard input stays open until it is ended.
func start(t *testing.T, name string, cmd *exec.Cmd) *process {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(outputDirectory(t), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	p := &process{cmd: cmd, stdin: stdin, lines: make(chan string, 1000), exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		defer log.Close()
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			_, _ = io.WriteString(log, scanner.Text()+"\n")
			select {
			case p.lines <- scanner.Text():
			default: // nobody reads on
			}
		}
		close(p.lines)
		_ = cmd.Wait()
	}()
	t.Cleanup(p.end)
	return p
}

// line waits for a line of output that holds text.
func (p *process) line(t *testing.T, text string, wait time.Duration) string {
	t.Helper()
	timeout := time.After(wait)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("%s ended before it said %q", filepath.Base(p.cmd.Path), text)
			}
			if strings.Contains(line, text) {
				return line
			}
		case <-timeout:
			t.Fatalf("%s did not say %q within %s", filepath.Base(p.cmd.Path), text, wait)
		}
	}
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// end asks the process to end, and kills it if it does not.
func (p *process) end() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(os.Interrupt)
		_ = p.stdin.Close()
		select {
		case <-p.exited:
		case <-time.After(15 * time.Second):
			p.kill()
		}
	})
}
