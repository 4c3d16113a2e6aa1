// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// A reader that was slow must not put back what a commit has replaced.
func TestSlowReaderPutsNothingOldBack(t *testing.T) {
	t.Parallel()
	rev1 := storetest.NewRecord()
	rev2 := rev1.Next()
	t.Run("after a replace", func(t *testing.T) {
		c := newCache(1 << 20)
		before := c.generation(rev1.Key)
		c.committed(rev2.Key, rev2, 100)
		if got := c.fill(rev1, 100, before); got != rev2 || c.get(rev1.Key) != rev2 {
			t.Fatal("the slow reader put the old revision back")
		}
	})
	t.Run("after a delete", func(t *testing.T) {
		c := newCache(1 << 20)
		c.committed(rev1.Key, rev1, 100)
		before := c.generation(rev1.Key)
		c.committed(rev1.Key, nil, 0)
		c.fill(rev1, 100, before)
		if c.get(rev1.Key) != nil {
			t.Fatal("the slow reader put a deleted record back")
		}
	})
	t.Run("after a reader that came later", func(t *testing.T) {
		c := newCache(1 << 20)
		generation := c.generation(rev1.Key)
		c.fill(rev2, 100, generation) // committed, and not yet told to the cache
		if got := c.fill(rev1, 100, generation); got != rev2 || c.get(rev1.Key) != rev2 {
			t.Fatal("somebody has seen revision 2, and now it is 1 again")
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	const perShard = 10 * (cacheOverhead + 1000)
	c := newCache(cacheShards * perShard)
	hot := storetest.NewRecord()
	c.committed(hot.Key, hot, 1000)
	for range 5000 {
		rec := storetest.NewRecord()
		rec.Key[0] = hot.Key[0]
		c.committed(rec.Key, rec, 1000)
		if c.get(hot.Key) == nil {
			t.Fatal("a record that is read all the time was evicted")
		}
	}
	sh := c.shard(hot.Key)
	if len(sh.records) != 10 || sh.bytes != perShard {
		t.Fatalf("%d records, %d bytes", len(sh.records), sh.bytes)
	}
	huge := storetest.NewRecord()
	huge.Key[0] = hot.Key[0]
	c.committed(huge.Key, huge, session.MaxRecordSize)
	if c.get(huge.Key) != nil || c.get(hot.Key) == nil {
		t.Fatal("a record larger than a shard emptied it")
	}
}
