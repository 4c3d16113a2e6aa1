// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// spoolSuffix ends the names of the files in the spool.
	spoolSuffix = ".refreshed"
	// deliverEvery is how often what is in the spool is tried again.
	deliverEvery = 5 * time.Second
)

// spooled is a record that an earlier process could not store before it had to
// end: refreshed tokens, sealed as they would be in the store.
type spooled struct {
	rec  *Record
	path string
}

// SpoolTo names a directory for refreshed tokens that could not be stored when
// the process had to end; see [Backend.Shutdown]. What is there is delivered
// when the store is opened. To be called before first use. Default: none, such
// tokens are lost.
func (b *Backend) SpoolTo(dir string) { b.spoolDir = dir }

// Shutdown is for the end of the process: it waits until no refresh is in flight
// or until ctx is done. Then it writes the tokens that the store did not take to
// the spool, so that the next process can store them. An error says that not all
// refreshes ended in time, and which tokens could not be written either.
func (b *Backend) Shutdown(ctx context.Context) error {
	b.endOnce.Do(func() { close(b.ending) })
	err := b.Drain(ctx)
	if err == nil {
		return nil
	}
	var errs []error
	b.live.each(func(e *entry) {
		if res := e.held.Load(); res != nil {
			errs = append(errs, b.spool(res.rec()))
		}
	})
	return errors.Join(append([]error{err}, errs...)...)
}

// spool writes one record: a temporary file, synced and renamed, so that no
// half-written one is ever read.
func (b *Backend) spool(rec *Record) error {
	if b.spoolDir == "" {
		return fmt.Errorf("refreshed tokens of session %s are lost: there is no spool", rec.Key.short())
	}
	data, err := rec.MarshalBinary()
	if err == nil {
		err = os.MkdirAll(b.spoolDir, 0o700)
	}
	if err == nil {
		err = writeSynced(b.spoolDir, hex.EncodeToString(rec.Key[:])+spoolSuffix, data)
	}
	b.observer.StoreCalled(StoreSpool, storeResult(err), unmeasured)
	if err != nil {
		return fmt.Errorf("refreshed tokens of session %s are lost: %w", rec.Key.short(), err)
	}
	b.logger.Warn("refreshed tokens are in the spool; the next process stores them", "session", rec.Key.short())
	return nil
}

func writeSynced(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, ".spool-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it was renamed, or is of no use
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // read only
	return d.Sync()
}

// loadSpool reads the spool. From then on no refresh of these sessions begins
// before what was spooled has been delivered. A file that is no record is left
// where it is.
func (b *Backend) loadSpool() {
	if b.spoolDir == "" {
		return
	}
	files, err := os.ReadDir(b.spoolDir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.logger.Error("reading the spool of refreshed tokens", "error", err)
		}
		return
	}
	var waiting []*entry
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), spoolSuffix) || !file.Type().IsRegular() {
			continue
		}
		path := filepath.Join(b.spoolDir, file.Name())
		rec, err := readSpooled(path)
		if err != nil {
			b.logger.Error("a file of the spool is not usable; it is left alone", "file", path, "error", err)
			continue
		}
		e := b.live.of(rec.Key)
		e.spooled.Store(&spooled{rec: rec, path: path})
		waiting = append(waiting, e)
	}
	if len(waiting) > 0 {
		go b.deliverAll(waiting)
	}
}

func readSpooled(path string) (*Record, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.Size() > MaxRecordSize {
		return nil, ErrTooLarge
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rec := new(Record)
	return rec, rec.UnmarshalBinary(data)
}

// deliverAll stores what was spooled, as soon as the store takes it.
func (b *Backend) deliverAll(waiting []*entry) {
	for {
		var left []*entry
		for _, e := range waiting {
			sp := e.spooled.Load()
			if sp == nil {
				continue // a refresh was faster
			}
			ctx, cancel := context.WithTimeout(context.Background(), deliverEvery)
			store, err := b.current(ctx)
			if err == nil {
				err = b.deliver(ctx, store, e, sp)
			}
			cancel()
			if err != nil {
				left = append(left, e)
			}
		}
		if len(left) == 0 {
			return
		}
		waiting = left
		timer := time.NewTimer(deliverEvery)
		select {
		case <-timer.C:
		case <-b.closed:
			timer.Stop()
			return
		}
	}
}

// deliver stores one spooled record, fenced as every commit is, and removes its
// file when that is done or of no use any more. If the session has ended meanwhile,
// its tombstone gets the tokens, to be revoked; if the store went back in time, it
// is brought forward again. An error means: not yet.
func (b *Backend) deliver(ctx context.Context, store Store, e *entry, sp *spooled) error {
	for {
		cur, err := store.Load(ctx, e.key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return unavailable(err)
		}
		if err == nil && sp.rec.Gen > cur.Gen {
			next := cur.Next()
			next.adopt(sp.rec)
			switch err := store.Replace(ctx, cur, next); {
			case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
				continue
			case err != nil:
				return unavailable(err)
			}
			b.logger.Info("refreshed tokens of an earlier process are stored", "session", e.key.short(), "ended", string(cur.Ended))
		} else if err == nil && !bytes.Equal(sp.rec.Tokens, cur.Tokens) {
			err = ErrConflict // the session has gone on
		}
		if e.spooled.CompareAndSwap(sp, nil) { // a refresh may deliver it at the same time
			b.observer.StoreCalled(StoreDeliver, storeResult(err), unmeasured)
		}
		if err := os.Remove(sp.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.logger.Warn("removing a file of the spool", "file", sp.path, "error", err)
		}
		return nil
	}
}
