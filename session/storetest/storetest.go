// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package storetest holds a [session.Store] to its contract. Every store's
// tests run it.
package storetest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// Run tests the stores that open makes. open is called once for each subtest,
// which run in parallel, and gives an empty store whose end it registers with
// t.Cleanup. The optional abilities that the store has are tested as well. The store must have room for 2000 small records and for some of
// [session.MaxRecordSize].
func Run(t *testing.T, open func(t *testing.T) session.Store) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, session.Store)
	}{
		{"create refuses a live key", createRefusesLiveKey},
		{"parallel creates of one key let one win", parallelCreates},
		{"a record comes back whole", roundTrip},
		{"absent is ErrNotFound", absent},
		{"replace goes by revision", replaceByRevision},
		{"replace takes only the next revision", replaceNextOnly},
		{"a hundred writers lose no change", hundredWriters},
		{"a late write does not resurrect", noResurrection},
		{"delete is idempotent", deleteIdempotent},
		{"a tombstone is a record like others", tombstone},
		{"find gives every session of an index key", findAll},
		{"indexes follow replace and delete", indexFollows},
		{"find finds while records come and go", findUnderChange},
		{"an expired record is absent", expiry},
		{"replace moves the expiry", expiryMoves},
		{"a record that has expired already is absent at once", bornExpired},
		{"a change is visible when the call returns", visibility},
		{"a context that is done ends a call", cancellation},
		{"the size of a record is bounded", sizeLimit},
		{"records that came out do not change", immutability},
		{"a watch hears of every kind of change", watchHears},
		{"no change is lost between watch and load", watchMissesNothing},
		{"a watch ends with its store", watchEnds},
		{"local is what load gives, or nothing", local},
		{"fresh gives what is stored", fresh},
		{"load never goes back in time", neverBack},
		{"who has something in common joins", joins},
		{"of strangers one is let in", strangers},
		{"a set keeps who joined last", joinedLast},
		{"a closed store is unavailable", closed},
		{"close ends calls in flight cleanly", closeAmongCalls},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

// NewKey makes a random key.
func NewKey() (k session.Key) {
	rand.Read(k[:])
	return k
}

// NewIndexKey makes a random index key.
func NewIndexKey() (k session.IndexKey) {
	rand.Read(k[:])
	return k
}

// NewRecord makes a record with every field set that lives for an hour.
func NewRecord(index ...session.IndexKey) *session.Record {
	now := time.Now()
	rec := &session.Record{
		Key:      NewKey(),
		Rev:      1,
		Gen:      1,
		LastSeen: now,
		Expiry:   now.Add(time.Hour),
		Index:    index,
	}
	Fill(rec, 300)
	return rec
}

// Fill sets the sealed parts of a record to bytes of size each that follow from
// its key and revision, so that [Mixed] can tell whether parts of two revisions
// were mixed.
func Fill(rec *session.Record, size int) {
	rec.Facts = pattern(rec, 'f', size)
	rec.Tokens = pattern(rec, 't', size)
}

// Mixed reports whether the sealed parts are not those that [Fill] made for
// this very key and revision.
func Mixed(rec *session.Record) bool {
	return string(rec.Facts) != string(pattern(rec, 'f', len(rec.Facts))) ||
		string(rec.Tokens) != string(pattern(rec, 't', len(rec.Tokens)))
}

func pattern(rec *session.Record, part byte, size int) []byte {
	unit := binary.BigEndian.AppendUint64(append([]byte{part}, rec.Key[:]...), rec.Rev)
	b := make([]byte, size)
	for i := range b {
		b[i] = unit[i%len(unit)]
	}
	return b
}

func create(t *testing.T, s session.Store, rec *session.Record) {
	t.Helper()
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatalf("create: %v", err)
	}
}

func load(t *testing.T, s session.Store, key session.Key) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), key)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return rec
}

func replace(t *testing.T, s session.Store, old, next *session.Record) {
	t.Helper()
	if err := s.Replace(t.Context(), old, next); err != nil {
		t.Fatalf("replace: %v", err)
	}
}

// within bounds a call that must not hang, in the real time that stores with a
// connection live in.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
