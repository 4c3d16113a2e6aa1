// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

var (
	errDamagedFile = errors.New("the session file is damaged; to start without sessions, move it away")
	errNewerFile   = errors.New("the session file was written by a newer version of this program")
)

// lockPoll is how often the wait for the file's lock looks at its context.
const lockPoll = 200 * time.Millisecond

// file is the database. It turns the panics and memory faults with which bbolt
// meets a damaged or truncated file into errors: they must not end the process
// and with it everything else that it serves.
type file struct {
	path   string
	db     *bolt.DB
	handle *os.File
	broken atomic.Bool // a transaction panicked: its lock may be held for ever
}

// openFile opens or makes the file, waiting for its lock, and counts its records.
func openFile(ctx context.Context, o Options) (f *file, records int, err error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, 0, fmt.Errorf("session file: %w", err)
	}
	if err := prepare(path, o.Logger); err != nil {
		return nil, 0, err
	}
	f = &file{path: path}
	if err := f.lock(ctx, o.LockWait); err != nil {
		return nil, 0, fmt.Errorf("opening session file %s: %w", path, err)
	}
	if records, err = f.check(); err != nil {
		return nil, 0, fmt.Errorf("opening session file %s: %w", path, errors.Join(err, f.close()))
	}
	return f, records, nil
}

// prepare makes the directory and an empty file where they are missing, and
// keeps others from reading the file.
func prepare(path string, logger *slog.Logger) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := initialize(path); err != nil {
			return fmt.Errorf("making session file %s: %w", path, err)
		}
	case err != nil:
		return fmt.Errorf("session file: %w", err)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		logger.Warn("session file was open to other users", slog.String("file", path), slog.String("mode", info.Mode().String()))
		if err := os.Chmod(path, 0o600); err != nil {
			return fmt.Errorf("session file: %w", err)
		}
	}
	if info, err := os.Stat(dir); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		logger.Warn("directory of the session file can be written by other users", slog.String("directory", dir))
	}
	return nil
}

// initialize makes the file beside its place and links it there when it is
// whole, so that a crash leaves no half of a database, and two processes that
// start together agree on one.
func initialize(path string) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	name := temporary.Name()
	defer os.Remove(name)
	if err := temporary.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(name, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(formatKey, []byte{fileFormat})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(name, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes a new name survive a power cut, where that can be asked
// for.
func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *file) lock(ctx context.Context, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f.open(max(min(lockPoll, time.Until(deadline)), time.Millisecond))
		if !errors.Is(err, bolterrors.ErrTimeout) {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%w (waited %s)", ErrLocked, wait)
		}
	}
}

func (f *file) open(timeout time.Duration) (err error) {
	opened := false
	defer func() {
		if !opened && f.handle != nil {
			// bbolt does this for its errors, and not for its panics.
			_ = unlock(f.handle)
			_ = f.handle.Close()
		}
	}()
	defer f.guard(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
		Timeout:      timeout,
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			h, err := os.OpenFile(name, flag, mode)
			f.handle = h
			return h, err
		},
	})
	opened = err == nil
	switch {
	case errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %w", errNewerFile, err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("%w: %w", errDamagedFile, err)
	}
	return err
}

// check refuses the layout of another version, and counts the records.
func (f *file) check() (records int, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: it has no bucket %q", errDamagedFile, name)
			}
		}
		if v := tx.Bucket(metaBucket).Get(formatKey); len(v) != 1 {
			return fmt.Errorf("%w: it has no format", errDamagedFile)
		} else if v[0] > fileFormat {
			return fmt.Errorf("%w: format %d", errNewerFile, v[0])
		}
		// Each record has one entry here, and they are small.
		cursor := tx.Bucket(expiryBucket).Cursor()
		for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
			records++
		}
		return nil
	})
	return records, err
}

// view runs fn in a read transaction.
func (f *file) view(fn func(*bolt.Tx) error) (err error) {
	if f.broken.Load() {
		return errDamagedFile
	}
	defer f.guard(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	return f.db.View(fn)
}

// update runs fn in a write transaction, and commits it unless fn fails.
func (f *file) update(fn func(*bolt.Tx) error) (err error) {
	if f.broken.Load() {
		return errDamagedFile
	}
	finished := false
	defer func() {
		if !finished {
			f.broken.Store(true)
		}
	}()
	defer f.guard(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = f.db.Update(fn)
	finished = true
	return err
}

// guard turns a panic into an error.
func (f *file) guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errDamagedFile, p)
	}
}

func (f *file) close() error {
	if f.broken.Load() {
		// bbolt would wait for the lock of the transaction that panicked.
		return errors.Join(unlock(f.handle), f.handle.Close())
	}
	return f.db.Close()
}
