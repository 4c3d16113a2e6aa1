// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

func TestOnlyTheOwnerCanReadTheFile(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("file modes have no such meaning here")
	}
	dir := filepath.Join(t.TempDir(), "made", "here")
	path := filepath.Join(dir, "sessions.db")
	mode := func(name string) fs.FileMode {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := open(t, Options{Path: path}).Close(); err != nil {
		t.Fatal(err)
	}
	if mode(path) != 0o600 || mode(dir) != 0o700 || mode(filepath.Dir(dir)) != 0o700 {
		t.Fatalf("modes: file %v, directory %v, its parent %v", mode(path), mode(dir), mode(filepath.Dir(dir)))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Fatalf("in the directory: %v, %v", left, err)
	}
	if err := errors.Join(os.Chmod(path, 0o644), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	open(t, Options{Path: path, Logger: logTo(&log)})
	if mode(path) != 0o600 || !strings.Contains(log.String(), "open to other users") ||
		!strings.Contains(log.String(), "can be written by other users") {
		t.Fatalf("file mode %v, log: %s", mode(path), log.String())
	}
}

func TestSecondOpenWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	first := open(t, Options{Path: path})

	start := time.Now()
	_, err := Open(t.Context(), Options{Path: path, LockWait: 300 * time.Millisecond})
	if !errors.Is(err, ErrLocked) || !errors.Is(err, session.ErrStoreUnavailable) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
	if waited := time.Since(start); waited < 200*time.Millisecond || waited > 5*time.Second {
		t.Fatalf("waited %s of 300ms", waited)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	if _, err := Open(ctx, Options{Path: path}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("open with a context that ends: %v", err)
	}
	if waited := time.Since(start); waited > 5*time.Second {
		t.Fatalf("a context of 50ms ended the wait after %s", waited)
	}

	rec := storetest.NewRecord()
	if err := first.Create(t.Context(), rec); err != nil {
		t.Fatalf("the first owner was disturbed: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		s, err := Open(t.Context(), Options{Path: path})
		if err == nil {
			_, err = s.Load(t.Context(), rec.Key)
			err = errors.Join(err, s.Close())
		}
		opened <- err
	}()
	time.Sleep(20 * time.Millisecond)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatalf("open after the first owner let go: %v", err)
	}
}

// Two processes that start together make one file, and one of them gets it.
func TestParallelFirstOpens(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "sessions.db")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := Open(t.Context(), Options{Path: path})
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			if err := errors.Join(s.Create(t.Context(), storetest.NewRecord()), s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := entries(t, open(t, Options{Path: path}))["records"]; n != 8 {
		t.Fatalf("%d of 8 records are there", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole := filepath.Join(dir, "whole.db")
	if err := open(t, Options{Path: whole}).Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	newer := write("newer.db", content)
	db, err := bolt.Open(newer, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(formatKey, []byte{fileFormat + 1})
	}), db.Close()); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	if db, err = bolt.Open(foreign, 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"a file that is something else":      {write("text.db", []byte(strings.Repeat("not a database\n", 5000))), errDamagedFile},
		"a short file":                       {write("short.db", []byte("x")), errDamagedFile},
		"a truncated file":                   {write("cut.db", content[:len(content)/4]), errDamagedFile},
		"a file full of zeros":               {write("zeros.db", make([]byte, len(content))), errDamagedFile},
		"a file with damaged pages":          {write("pages.db", append(bytes.Clone(content[:8192]), bytes.Repeat([]byte{0xff}, len(content)-8192)...)), errDamagedFile},
		"another program's database":         {foreign, errDamagedFile},
		"a newer version's file":             {newer, errNewerFile},
		"a directory that cannot be made":    {filepath.Join(whole, "sub", "sessions.db"), nil},
		"a directory in the place of a file": {dir, nil},
		"no path":                            {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, _ := os.ReadFile(c.path)
			s, err := Open(t.Context(), Options{Path: c.path})
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, session.ErrStoreUnavailable) || (c.want != nil && !errors.Is(err, c.want)) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.path != "" && !strings.Contains(err.Error(), filepath.Base(c.path)) && c.want != nil {
				t.Fatalf("the error does not name the file: %v", err)
			}
			if after, _ := os.ReadFile(c.path); !bytes.Equal(before, after) {
				t.Fatal("the file was changed")
			}
			if c.want != nil { // and it is not left locked
				if _, err := Open(t.Context(), Options{Path: c.path, LockWait: time.Second}); errors.Is(err, ErrLocked) {
					t.Fatal("the refused file is left locked")
				}
			}
		})
	}
}

// The file loses its end while it is open, as when a disk fails: an error, and
// not the end of the process.
func TestTruncatedWhileOpen(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated here")
	}
	path := filepath.Join(t.TempDir(), "sessions.db")
	s, err := Open(t.Context(), Options{Path: path, CacheBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	rec := storetest.NewRecord(storetest.NewIndexKey())
	for range 200 {
		next := storetest.NewRecord()
		storetest.Fill(next, 4000)
		if err := s.Create(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatalf("load: %v", err)
		}
		if _, err := s.Find(t.Context(), rec.Index[0]); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatalf("find: %v", err)
		}
		if err := s.Replace(t.Context(), rec, rec.Next()); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatalf("replace: %v", err)
		}
		if err := s.Create(t.Context(), storetest.NewRecord()); !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatalf("create: %v", err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("close: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("close hangs")
	}
	if _, err := Open(t.Context(), Options{Path: path, LockWait: time.Second}); !errors.Is(err, errDamagedFile) {
		t.Fatalf("open of the truncated file: %v", err)
	}
}

// HARDENING F306: the power goes while the last page of a change, the one that
// makes it count, is half on disk. The change is gone as a whole.
func TestTornCommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sessions.db")
	index := storetest.NewIndexKey()
	rec := storetest.NewRecord(index)
	s := open(t, Options{Path: path})
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	before := s.transactions(t)
	next := rec.Next()
	storetest.Fill(next, 20_000)
	next.Index = nil
	if err := s.Replace(t.Context(), rec, next); err != nil {
		t.Fatal(err)
	}
	if after := s.transactions(t); after != before+1 {
		t.Fatalf("transactions %d and %d", before, after)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	// bbolt writes its two meta pages by turns.
	torn := int64((before + 1) % 2 * os.Getpagesize())
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, 40), torn+40)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Path: path})
	got, err := s.Load(t.Context(), rec.Key)
	if err != nil || got.Rev != rec.Rev || storetest.Mixed(got) {
		t.Fatalf("load after a torn commit: %+v, %v", got, err)
	}
	if keys, err := s.Find(t.Context(), index); err != nil || len(keys) != 1 {
		t.Fatalf("find after a torn commit: %v, %v", keys, err)
	}
	if err := s.Replace(t.Context(), got, next); err != nil {
		t.Fatalf("replace after a torn commit: %v", err)
	}
}
