// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/caddy-bff/caddy-bff/session"
)

// An envelope is what the file holds under a record's key: what the store
// itself works with, a checksum over it and the key, and the encoded record.
//
//	1  format
//	4  CRC-32C of the key and all that follows
//	8  rev
//	8  expiry, Unix seconds
//	2  number of index keys
//	32 each index key
//	…  the record as session.Record.MarshalBinary gives it
//
// The checksum tells damage from a record that a newer version of the program
// wrote: the first is set aside, the second left alone.
type envelope struct {
	rev     uint64
	expiry  int64
	index   []byte // index keys, one after another
	payload []byte
}

const (
	envelopeFormat = 1
	headerSize     = 1 + 4 + 8 + 8 + 2
	indexKeySize   = sha256.Size
)

var (
	// errDamaged: the bytes are not what was written.
	errDamaged = errors.New("stored record is damaged")
	// errUnknownFormat: the bytes are whole, and this version cannot read them.
	errUnknownFormat = errors.New("stored record has a format that this version does not know")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key session.Key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, rest)
}

// encode gives the value to store for rec, or [session.ErrTooLarge].
func encode(rec *session.Record) ([]byte, error) {
	payload, err := rec.MarshalBinary()
	if err != nil {
		return nil, err
	}
	if len(rec.Index) > math.MaxUint16 {
		return nil, fmt.Errorf("%w: %d index keys", session.ErrTooLarge, len(rec.Index))
	}
	b := make([]byte, 5, headerSize+len(rec.Index)*indexKeySize+len(payload))
	b[0] = envelopeFormat
	b = binary.BigEndian.AppendUint64(b, rec.Rev)
	b = binary.BigEndian.AppendUint64(b, uint64(rec.Expiry.Unix()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(rec.Index)))
	for _, k := range rec.Index {
		b = append(b, k[:]...)
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[1:], checksum(rec.Key, b[5:]))
	return b, nil
}

// decode reads a stored value. The envelope shares the memory of value. It
// fails with errDamaged or errUnknownFormat.
func decode(key session.Key, value []byte) (envelope, error) {
	if len(value) == 0 {
		return envelope{}, errDamaged
	}
	if value[0] != envelopeFormat {
		return envelope{}, fmt.Errorf("%w: envelope %d", errUnknownFormat, value[0])
	}
	if len(value) < headerSize || binary.BigEndian.Uint32(value[1:]) != checksum(key, value[5:]) {
		return envelope{}, errDamaged
	}
	env := envelope{
		rev:    binary.BigEndian.Uint64(value[5:]),
		expiry: int64(binary.BigEndian.Uint64(value[13:])),
	}
	indexEnd := headerSize + int(binary.BigEndian.Uint16(value[21:]))*indexKeySize
	if len(value) < indexEnd {
		return envelope{}, errDamaged
	}
	env.index, env.payload = value[headerSize:indexEnd], value[indexEnd:]
	return env, nil
}

// record decodes the record itself, which shares no memory with the envelope.
// A whole envelope around a record that does not decode was written by another
// version.
func (e envelope) record(key session.Key) (*session.Record, error) {
	rec := new(session.Record)
	if err := rec.UnmarshalBinary(e.payload); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnknownFormat, err)
	}
	if rec.Key != key || rec.Rev != e.rev {
		return nil, fmt.Errorf("%w: envelope and record disagree", errUnknownFormat)
	}
	return rec, nil
}

// indexKeys gives the index keys, copied.
func (e envelope) indexKeys() []session.IndexKey {
	keys := make([]session.IndexKey, 0, len(e.index)/indexKeySize)
	for b := range slices.Chunk(e.index, indexKeySize) {
		keys = append(keys, session.IndexKey(b))
	}
	return keys
}

func (e envelope) carries(k session.IndexKey) bool { return slices.Contains(e.indexKeys(), k) }
