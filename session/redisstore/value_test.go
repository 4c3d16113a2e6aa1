// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"bytes"
	"errors"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// HARDENING E103: whatever is stored, it is a record of this very key that
// encodes to the same bytes, or it is refused.
func FuzzDecode(f *testing.F) {
	rec := storetest.NewRecord(storetest.NewIndexKey())
	rec.Key = session.Key{1}
	rec.Attempt = &session.Attempt{Lease: 300}
	value, err := encode(rec)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add(value[:len(value)/2])
	f.Add([]byte{})
	f.Add(make([]byte, writeIDSize))
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := decode(rec.Key, value)
		if err != nil {
			if !errors.Is(err, errDamaged) || got != nil {
				t.Fatalf("%v, %v", got, err)
			}
			return
		}
		if got.Key != rec.Key {
			t.Fatal("the record of another key")
		}
		again, err := encode(got)
		if err != nil && !errors.Is(err, session.ErrTooLarge) {
			t.Fatal(err)
		}
		if err == nil && !bytes.HasPrefix(again, revisionPrefix(got.Key, got.Rev)) {
			t.Fatal("the prefix by which a revision is compared is not that of the record")
		}
		for _, index := range got.Index {
			if len(value) <= headSize && !carries(value, rec.Key, index) {
				t.Fatal("a record does not carry its own index key")
			}
		}
	})
}

func FuzzRecordKey(f *testing.F) {
	space := keyspace("bff:")
	f.Add(space.record(storetest.NewKey()))
	f.Add(space.index(storetest.NewIndexKey()))
	f.Add("bff:s:{}")
	f.Fuzz(func(t *testing.T, name string) {
		if k, ok := space.recordKey(name); ok && space.record(k) != name {
			t.Fatalf("%q was taken for the name of %s", name, k)
		}
	})
}

// The revisions of a record differ in the prefix that scripts compare, also
// where one number is the beginning of another.
func TestRevisionPrefix(t *testing.T) {
	t.Parallel()
	revisions := []uint64{0, 1, 127, 128, 129, 255, 256, 16383, 16384, 1 << 32, 1<<64 - 1}
	for _, a := range revisions {
		rec := storetest.NewRecord()
		rec.Rev = a
		value, err := encode(rec)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range revisions {
			if got := bytes.HasPrefix(value, revisionPrefix(rec.Key, b)); got != (a == b) {
				t.Errorf("revision %d has the prefix of %d: %t", a, b, got)
			}
		}
	}
}

// Equal records are different values: see createScript.
func TestEveryWriteIsItsOwn(t *testing.T) {
	t.Parallel()
	rec := storetest.NewRecord()
	a, _ := encode(rec)
	b, _ := encode(rec)
	if bytes.Equal(a, b) {
		t.Fatal("two writes of one record are one")
	}
}

func TestIndexKeysAreBounded(t *testing.T) {
	t.Parallel()
	rec := storetest.NewRecord()
	rec.Attempt = &session.Attempt{Lease: 1<<64 - 1}
	rec.Rev, rec.Gen = 1<<64-1, 1<<64-1
	rec.Ended = session.ReasonRefreshToken
	storetest.Fill(rec, 1000)
	for range maxIndexKeys {
		rec.Index = append(rec.Index, storetest.NewIndexKey())
	}
	value, err := encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	for i, index := range rec.Index {
		if !bytes.Contains(value[:headSize], index[:]) {
			t.Errorf("index key %d is not in the head", i)
		}
	}
	rec.Index = append(rec.Index, storetest.NewIndexKey())
	if _, err := encode(rec); !errors.Is(err, session.ErrTooLarge) {
		t.Errorf("one more: %v", err)
	}
}
