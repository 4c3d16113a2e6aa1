// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package filestore

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// childRole says that this test binary is to be a process that is killed, or
// that runs out of disk, and not to run tests.
const (
	childRole = "FILESTORE_TEST_CHILD"
	childPath = "FILESTORE_TEST_PATH"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childRole) {
	case "":
		os.Exit(m.Run())
	case "write":
		writeUntilKilled(os.Getenv(childPath))
	case "disk full":
		if err := fillDisk(os.Getenv(childPath)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func child(role, path string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childPath+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// writeUntilKilled creates and replaces records, and prints a line for each
// change once the store has said that it is made.
func writeUntilKilled(path string) {
	ctx := context.Background()
	s, err := Open(ctx, Options{Path: path, SweepInterval: 5 * time.Millisecond})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	for writer := range 8 {
		wg.Go(func() {
			for {
				rec := storetest.NewRecord(storetest.NewIndexKey())
				storetest.Fill(rec, 100+writer*700)
				change := func() error { return s.Create(ctx, rec) }
				for range 10 {
					if err := change(); err != nil {
						fmt.Println("change:", err)
						os.Exit(1)
					}
					fmt.Printf("%x %d %x\n", rec.Key[:], rec.Rev, rec.Index[0])
					old, next := rec, rec.Next()
					storetest.Fill(next, 100+int(next.Rev)*writer*300)
					change = func() error { return s.Replace(ctx, old, next) }
					rec = next
				}
			}
		})
	}
	wg.Wait()
}

// HARDENING F301: after a kill -9 at any moment every change that was
// acknowledged is there, and every record is old or new, never mixed.
func TestKill9(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	const rounds = 20
	acknowledged := map[session.Key]uint64{}
	indexes := map[session.Key]session.IndexKey{}
	for round := range rounds {
		cmd := child("write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stuck := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		seen, cut := 0, ""
		for lines.Scan() {
			if cut != "" {
				t.Fatalf("round %d: the child says %q", round, cut)
			}
			var key, index []byte
			var rev uint64
			if _, err := fmt.Sscanf(lines.Text(), "%x %d %x", &key, &rev, &index); err != nil || len(key) != 32 || len(index) != 32 {
				cut = lines.Text() // fine if it is the last one
				continue
			}
			acknowledged[session.Key(key)] = rev
			indexes[session.Key(key)] = session.IndexKey(index)
			if seen++; seen == 1 {
				// From the first change on, at a moment that nobody chose.
				delay := time.Duration(rand.Int64N(int64(60 * time.Millisecond)))
				time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
			}
		}
		stuck.Stop()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the child was not killed: %v", round, err)
		}
		s := open(t, Options{Path: path, SweepInterval: time.Hour})
		for key, rev := range acknowledged {
			rec, err := s.Load(t.Context(), key)
			if err != nil {
				t.Fatalf("round %d: acknowledged revision %d of %s: %v", round, rev, hex.EncodeToString(key[:4]), err)
			}
			if rec.Rev != rev && rec.Rev != rev+1 {
				t.Fatalf("round %d: revision %d is there, %d was acknowledged last", round, rec.Rev, rev)
			}
			if storetest.Mixed(rec) {
				t.Fatalf("round %d: revision %d is mixed with another", round, rec.Rev)
			}
			if keys, err := s.Find(t.Context(), indexes[key]); err != nil || len(keys) != 1 || keys[0] != key {
				t.Fatalf("round %d: find: %v, %v", round, keys, err)
			}
			acknowledged[key] = rec.Rev
		}
		if n := entries(t, s); n["records"] != n["expiry"] || n["records"] != n["index"] || n["damaged"] != 0 {
			t.Fatalf("round %d: the buckets disagree: %v", round, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acknowledged) < rounds {
		t.Fatalf("only %d records were written in %d rounds", len(acknowledged), rounds)
	}
	t.Logf("%d records over %d kills", len(acknowledged), rounds)
}

// HARDENING F305: a disk that is full takes nothing from what is there, is
// reported as an outage, and is over when there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	out, err := child("disk full", filepath.Join(t.TempDir(), "sessions.db")).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// fillDisk runs in a process of its own, since the limit that plays the disk
// holds for a whole process.
func fillDisk(path string) error {
	ctx := context.Background()
	var log lockedBuffer
	s, err := Open(ctx, Options{Path: path, Logger: logTo(&log)})
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	room := limit
	room.Cur = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &room); err != nil {
		return err
	}
	index := storetest.NewIndexKey()
	var stored []*session.Record
	var refused error
	for refused == nil {
		if len(stored) > 1000 {
			return errors.New("a disk of 1 MiB never was full")
		}
		rec := storetest.NewRecord(index)
		storetest.Fill(rec, 5000)
		if refused = s.Create(ctx, rec); refused == nil {
			stored = append(stored, rec)
		}
	}
	if !errors.Is(refused, session.ErrStoreUnavailable) {
		return fmt.Errorf("on a full disk: %w, want ErrStoreUnavailable", refused)
	}
	check := func(s *Store) error {
		for i, rec := range stored {
			got, err := s.Load(ctx, rec.Key)
			if err != nil || got.Rev != rec.Rev || storetest.Mixed(got) {
				return fmt.Errorf("record %d of %d: %+v, %w", i, len(stored), got, err)
			}
		}
		if keys, err := s.Find(ctx, index); err != nil || len(keys) != len(stored) {
			return fmt.Errorf("find gives %d keys of %d, %w", len(keys), len(stored), err)
		}
		return nil
	}
	if err := check(s); err != nil {
		return fmt.Errorf("while the disk is full: %w", err)
	}
	for range 20 { // it stays an outage, and is logged once
		next := stored[0].Next()
		storetest.Fill(next, 30_000)
		if err := s.Replace(ctx, stored[0], next); !errors.Is(err, session.ErrStoreUnavailable) {
			return fmt.Errorf("replace on a full disk: %w", err)
		}
	}
	if n := strings.Count(log.String(), "takes no changes"); n != 1 {
		return fmt.Errorf("logged %d times:\n%s", n, log.String())
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	next := stored[0].Next()
	storetest.Fill(next, 30_000)
	if err := s.Replace(ctx, stored[0], next); err != nil {
		return fmt.Errorf("replace when there is room again: %w", err)
	}
	stored[0] = next
	if err := check(s); err != nil {
		return fmt.Errorf("when there is room again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(ctx, Options{Path: path}); err != nil {
		return err
	}
	if err := check(s); err != nil {
		return fmt.Errorf("after a restart: %w", err)
	}
	return s.Close()
}
