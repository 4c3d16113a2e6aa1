// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// watchInterval is how long a file is taken to be what it was. Looking costs
	// less than what the value is used for, but whoever asks for the public keys
	// may ask often.
	watchInterval  = time.Second
	maxWatchedFile = 256 << 10
)

// watched is a value made of the contents of files, and made again when those
// change, whatever their times of modification say. While they cannot be read,
// or make no value (they are being replaced), the last value serves. Safe for
// concurrent use.
type watched[T any] struct {
	what  string // for the log
	paths []string
	parse func(contents [][]byte) (T, error)
	// changed is told of each new value but the first, before anybody gets it.
	changed func(T)
	log     *slog.Logger

	mu      sync.Mutex
	current T
	digest  [sha256.Size]byte // of the contents that were seen last, good or not
	missing bool              // they could not be read then
	lookAt  time.Time
}

// start makes the first value. Its errors name the file, and nothing in it.
func (w *watched[T]) start() error {
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	contents, digest, err := w.read()
	if err != nil {
		return err
	}
	w.current, err = w.parse(contents)
	if err != nil {
		return fmt.Errorf("%s: %w", w.paths[0], err)
	}
	w.digest, w.lookAt = digest, time.Now().Add(watchInterval)
	return nil
}

// value returns the value. One caller a second looks whether it is still what
// the files say; the others do not wait for that.
func (w *watched[T]) value() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Before(w.lookAt) {
		return w.current
	}
	w.lookAt = now.Add(watchInterval)
	w.mu.Unlock()
	contents, digest, err := w.read()
	w.mu.Lock()
	if err != nil {
		if !w.missing {
			w.log.Warn(w.what+" cannot be read; the last one stays in use", "error", err)
		}
		w.missing = true
		return w.current
	}
	w.missing = false
	if digest == w.digest {
		return w.current
	}
	w.digest = digest // also of what is broken: it is said once
	next, err := w.parse(contents)
	if err != nil {
		w.log.Warn(w.what+" has changed and is not usable; the last one stays in use", "file", w.paths[0], "error", err)
		return w.current
	}
	w.current = next
	w.changed(next)
	return next
}

// read returns what the files hold.
func (w *watched[T]) read() (contents [][]byte, digest [sha256.Size]byte, err error) {
	all := sha256.New()
	for _, path := range w.paths {
		data, err := readBounded(path)
		if err != nil {
			return nil, digest, err
		}
		contents = append(contents, data)
		sum := sha256.Sum256(data)
		all.Write(sum[:])
	}
	all.Sum(digest[:0])
	return contents, digest, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxWatchedFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxWatchedFile:
		return nil, fmt.Errorf("%s: %w: more than %d bytes", path, errTooLarge, maxWatchedFile)
	case len(data) == 0:
		return nil, fmt.Errorf("%s: %w", path, errEmptyFile)
	}
	return data, nil
}

var errEmptyFile = errors.New("file is empty")
