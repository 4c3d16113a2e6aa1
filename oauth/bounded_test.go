// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"testing"
	"time"
)

// bounded calls f, which reads an input of so many bytes, and wants it to take neither
// long nor much memory. The memory is that of the whole process: fuzz targets run
// alone in theirs.
func bounded(t *testing.T, size int, f func()) {
	t.Helper()
	const (
		most    = 2 * time.Second // the machine has other things to do
		fixed   = 1 << 20
		forByte = 1 << 9
	)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	f()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; took > most || used > uint64(fixed+forByte*size) {
		t.Errorf("%d bytes took %v and %d bytes of memory", size, took, used)
	}
}

// readPlainly reads a JSON object as any program would.
func readPlainly(t *testing.T, data []byte) (map[string]any, error) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var m map[string]any
	err := dec.Decode(&m)
	return m, err
}

// settled lets a client fetch metadata and keys, and gives a context in which it waits
// for nothing else.
func settled(f *testing.F, c *Client) context.Context {
	f.Helper()
	if _, err := c.Metadata(f.Context()); err != nil {
		f.Fatal(err)
	}
	if _, err := c.keys.get(f.Context()); err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
