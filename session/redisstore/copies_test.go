// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// playedRead is a read in three steps: it is sent, the reply comes in at the
// connection's reader, and the caller takes it in.
type playedRead struct {
	c *copies
	t *tracker
	r reading
}

func play(c *copies, t *tracker, rec *session.Record) *playedRead {
	p := &playedRead{c: c, t: t, r: reading{rec: rec, sum: rec.Rev, size: 100, began: c.now(), mark: readMark(int64(rec.Rev))}}
	t.Flight(c.keys.record(rec.Key), p.r.mark, copyLife, time.Now())
	return p
}

func (p *playedRead) reply() *playedRead {
	p.t.replied(p.c.keys.record(p.r.rec.Key), p.r.mark, true)
	return p
}

func (p *playedRead) settle() (*session.Record, verdict) { return p.c.settle(p.r) }

func newTestCopies(records int, bytes int64) (*copies, *tracker) {
	c := newCopies("p:", records, bytes)
	return c, c.newTracker(rueidis.CacheStoreOption{}).(*tracker)
}

// The order in which a reply, what invalidates it and the caller's own doing
// come decides whether there is a copy: each order in turn.
func TestOrderOfEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		run  func(c *copies, tr *tracker, p *playedRead)
		kept bool
	}{
		"nothing else":                 {func(_ *copies, _ *tracker, p *playedRead) { p.reply().settle() }, true},
		"invalidated before the reply": {func(c *copies, _ *tracker, p *playedRead) { c.distrust(p.r.rec.Key); p.reply().settle() }, true},
		"invalidated after the reply":  {func(c *copies, _ *tracker, p *playedRead) { p.reply(); c.distrust(p.r.rec.Key); p.settle() }, false},
		"invalidated after all":        {func(c *copies, _ *tracker, p *playedRead) { p.reply().settle(); c.distrust(p.r.rec.Key) }, false},
		"flushed after the reply":      {func(_ *copies, tr *tracker, p *playedRead) { p.reply(); tr.Delete(nil); p.settle() }, false},
		"flushed after all":            {func(_ *copies, tr *tracker, p *playedRead) { p.reply().settle(); tr.Delete(nil) }, false},
		"the connection ended":         {func(_ *copies, tr *tracker, p *playedRead) { p.reply().settle(); tr.Close(nil) }, false},
		"the reply was given up": {func(c *copies, tr *tracker, p *playedRead) {
			tr.Cancel(c.keys.record(p.r.rec.Key), p.r.mark, nil)
			p.reply().settle()
		}, false},
		"withdrawn": {func(c *copies, _ *tracker, p *playedRead) {
			p.reply()
			c.unmark(p.r.rec.Key, p.r.mark)
			p.settle()
		}, false},
		"the mark is another read's": {func(_ *copies, _ *tracker, p *playedRead) { p.reply(); p.r.mark += "0"; p.settle() }, false},
		"deleted meanwhile":          {func(c *copies, _ *tracker, p *playedRead) { p.reply(); c.forget(p.r.rec.Key); p.settle() }, false},
	} {
		copies, tr := newTestCopies(1000, 1<<20)
		p := play(copies, tr, storetest.NewRecord())
		c.run(copies, tr, p)
		if got := copies.get(p.r.rec.Key); (got != nil) != c.kept {
			t.Errorf("%s: copy is %v, want one: %t", name, got, c.kept)
		}
	}
}

// A read that a newer revision overtook gives the newer one.
func TestOvertakenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, tr := newTestCopies(1000, 1<<20)
		rec := storetest.NewRecord()
		p := play(c, tr, rec).reply()
		time.Sleep(time.Millisecond)
		newer := rec.Next()
		c.wrote(newer, []byte("v"), c.now(), time.Hour)
		if got, v := p.settle(); v != given || got != newer {
			t.Fatalf("%v, %d", got, v)
		}
		time.Sleep(time.Millisecond)
		// One that began afterwards and gives less is the server's doing.
		if got, v := play(c, tr, rec).reply().settle(); v != wentBack || got != rec {
			t.Fatalf("%v, %d", got, v)
		}
		time.Sleep(rolledBackPatience)
		if got, v := play(c, tr, rec).reply().settle(); v != given || got != rec {
			t.Fatalf("%v, %d", got, v)
		}
	})
}

// A copy counts for a second after its connection proved alive, counted from
// when the proof was asked for, and not after the record's expiry.
func TestCopiesAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, tr := newTestCopies(1000, 1<<20)
		rec, short := storetest.NewRecord(), storetest.NewRecord()
		short.Expiry = time.Now().Add(3 * time.Second)
		a, b := play(c, tr, rec), play(c, tr, short)
		time.Sleep(400 * time.Millisecond)
		a.reply().settle()
		b.reply().settle()
		time.Sleep(599 * time.Millisecond)
		if c.get(rec.Key) == nil {
			t.Error("a copy is gone too early")
		}
		time.Sleep(time.Millisecond)
		if c.get(rec.Key) != nil {
			t.Error("a copy lasts longer than its connection is known to live")
		}
		beat := func() {
			tr.Flight(c.keys.record(rec.Key), "GETRANGE11", copyLife, time.Now())
			tr.replied(c.keys.record(rec.Key), "GETRANGE11", false)
		}
		beat()
		if c.get(rec.Key) == nil || c.get(short.Key) == nil {
			t.Error("a connection that proves alive does not vouch for its copies")
		}
		time.Sleep(2 * time.Second)
		beat()
		if c.get(rec.Key) == nil || c.get(short.Key) != nil {
			t.Error("a copy outlives its record")
		}
	})
}

// However many records are used, copies are bounded in number and in size, and
// those that are used stay.
func TestCopiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			records int
			bytes   int64
			size    int
		}{"by number": {1280, 1 << 30, 100}, "by size": {1 << 30, 1280 * (10_000 + copyOverhead), 10_000}} {
			copies, tr := newTestCopies(c.records, c.bytes)
			used := storetest.NewRecord()
			play(copies, tr, used).reply().settle()
			for range 20_000 {
				p := play(copies, tr, storetest.NewRecord())
				p.r.size = c.size
				p.reply().settle()
				time.Sleep(time.Millisecond)
				if copies.get(used.Key) == nil {
					play(copies, tr, used).reply().settle()
				}
			}
			n, bytes := 0, int64(0)
			for i := range copies.shards {
				sh := &copies.shards[i]
				n += len(sh.entries)
				bytes += sh.bytes
				if len(sh.marks)+len(sh.flights)+len(sh.watches) != 0 {
					t.Error("something is left behind")
				}
			}
			if n < 1000 || n > 1280+copyShards || bytes > c.bytes+copyShards*(int64(c.size)+copyOverhead) {
				t.Errorf("%s: %d copies of %d bytes", name, n, bytes)
			}
			if copies.get(used.Key) == nil {
				t.Errorf("%s: the one that is used all the time is gone", name)
			}
		}
	})
}
