// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
)

// sealedSize is what the tokens of a session take, or the facts, in bytes: a
// few signed tokens of usual size.
const sealedSize = 2000

// BenchmarkLoad measures loads of a thousand records by parallel readers, as
// requests of signed-in browsers make them.
func BenchmarkLoad(b *testing.B, s session.Store) {
	keys := make([]session.Key, 1000)
	ctx := b.Context()
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			rec := NewRecord(NewIndexKey())
			Fill(rec, sealedSize)
			keys[i] = rec.Key
			if err := s.Create(ctx, rec); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.Load(ctx, keys[i%len(keys)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkReplace measures replaces by 64 parallel writers, each of a session
// of its own, as refreshes make them.
func BenchmarkReplace(b *testing.B, s session.Store) {
	ctx := b.Context()
	b.ReportAllocs()
	b.SetParallelism(64)
	var writers atomic.Int32
	b.RunParallel(func(pb *testing.PB) {
		writers.Add(1)
		rec := NewRecord(NewIndexKey())
		Fill(rec, sealedSize)
		if err := s.Create(ctx, rec); err != nil {
			b.Error(err)
			return
		}
		for pb.Next() {
			next := rec.Next()
			if err := s.Replace(ctx, rec, next); err != nil {
				b.Error(err)
				return
			}
			rec = next
		}
	})
	b.ReportMetric(float64(writers.Load()), "writers")
}
