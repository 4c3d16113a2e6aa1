// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// A value is what the server holds of a record: the record as
// [session.Record.MarshalBinary] gives it, and after it a number that is random
// for each write. By that number a write that is sent again, because its reply
// was lost, is told from an equal one of somebody else.
const (
	writeIDSize  = 8
	maxValueSize = session.MaxRecordSize + writeIDSize
	// headSize is how many bytes of a value are enough to see its index keys.
	headSize = 4 << 10
	// maxIndexKeys of a record fit into the head of a value, with all before them.
	maxIndexKeys = 100
)

// errDamaged: the bytes under a key are not a record that this version knows.
// They are left alone.
var errDamaged = errors.New("what is stored is not a record that this version can read; it is left alone")

// recordFormat is the first byte of every record that this version writes.
var recordFormat = func() byte {
	b, err := new(session.Record).MarshalBinary()
	if err != nil {
		panic(err)
	}
	return b[0]
}()

// encode gives a value for rec, or [session.ErrTooLarge].
func encode(rec *session.Record) ([]byte, error) {
	if len(rec.Index) > maxIndexKeys {
		return nil, fmt.Errorf("%w: it has %d index keys", session.ErrTooLarge, len(rec.Index))
	}
	b, err := rec.MarshalBinary()
	if err != nil {
		return nil, err
	}
	var id [writeIDSize]byte
	rand.Read(id[:]) //nolint:errcheck // never fails, see crypto/rand
	return append(b, id[:]...), nil
}

// decode reads a value. Errors wrap errDamaged.
func decode(key session.Key, value []byte) (*session.Record, error) {
	if len(value) < writeIDSize || len(value) > maxValueSize {
		return nil, fmt.Errorf("%w: its size is wrong", errDamaged)
	}
	rec := new(session.Record)
	if err := rec.UnmarshalBinary(value[:len(value)-writeIDSize]); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if rec.Key != key {
		return nil, fmt.Errorf("%w: it is the record of another key", errDamaged)
	}
	return rec, nil
}

// revisionPrefix is what the value of every record begins with that has this
// key and revision, and no other: a uvarint is no prefix of another one.
func revisionPrefix(key session.Key, rev uint64) []byte {
	b := make([]byte, 0, 1+sha256.Size+binary.MaxVarintLen64)
	b = append(b, recordFormat)
	b = append(b, key[:]...)
	return binary.AppendUvarint(b, rev)
}

// carries looks into the head of a value for an index key. A value that this
// version cannot read carries it until shown otherwise.
func carries(head []byte, key session.Key, index session.IndexKey) bool {
	if len(head) < 1+len(key) || head[0] != recordFormat || !bytes.Equal(head[1:1+len(key)], key[:]) {
		return true
	}
	// HMACs: 32 bytes that are there by chance do not happen.
	return bytes.Contains(head[1+len(key):], index[:])
}

// lifeOf is how long the record has to live, by this machine's clock. The server
// counts from there by its own, so that no two clocks are ever compared. Records
// keep whole seconds.
func lifeOf(rec *session.Record) time.Duration {
	if rec.Expiry.IsZero() {
		return 0
	}
	return max(0, time.Until(time.Unix(rec.Expiry.Unix(), 0)))
}
