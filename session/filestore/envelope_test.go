// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

func FuzzDecode(f *testing.F) {
	rec := storetest.NewRecord(storetest.NewIndexKey())
	value, err := encode(rec)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec.Key[:], value)
	f.Add(rec.Key[:], value[:headerSize])
	f.Add(rec.Key[:], []byte{})
	f.Add(rec.Key[:], []byte{2, 0})
	f.Fuzz(func(t *testing.T, k, value []byte) {
		var key session.Key
		copy(key[:], k)
		env, err := decode(key, value)
		if err != nil {
			if errors.Is(err, errDamaged) == errors.Is(err, errUnknownFormat) {
				t.Fatalf("neither or both of the two errors: %v", err)
			}
			// Again with the checksum right, to get past it.
			if len(value) < headerSize || value[0] != envelopeFormat {
				return
			}
			value = slices.Clone(value)
			sum := checksum(key, value[5:])
			value[1], value[2], value[3], value[4] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
			if env, err = decode(key, value); err != nil {
				return
			}
		}
		rec, err := env.record(key)
		if err != nil {
			if !errors.Is(err, errUnknownFormat) {
				t.Fatalf("record: %v", err)
			}
			return
		}
		if rec.Key != key || rec.Rev != env.rev {
			t.Fatal("a record of another key or revision came out")
		}
		again, err := encode(rec)
		if err != nil {
			t.Fatalf("a record that was read cannot be written: %v", err)
		}
		env, err = decode(key, again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if back, err := env.record(key); err != nil || !slices.Equal(env.indexKeys(), rec.Index) ||
			!bytes.Equal(back.Tokens, rec.Tokens) {
			t.Fatalf("a round trip changed the record: %v", err)
		}
	})
}

// HARDENING E103, E101: every changed byte is noticed, and so is a value under
// another key.
func TestDamageIsNoticed(t *testing.T) {
	t.Parallel()
	rec := storetest.NewRecord(storetest.NewIndexKey(), storetest.NewIndexKey())
	value, err := encode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if env, err := decode(rec.Key, value); err != nil || !slices.Equal(env.indexKeys(), rec.Index) {
		t.Fatalf("decode: %v", err)
	}
	for i := range value {
		for _, bit := range []byte{0x01, 0x80} {
			changed := slices.Clone(value)
			changed[i] ^= bit
			want := errDamaged
			if i == 0 {
				want = errUnknownFormat
			}
			if _, err := decode(rec.Key, changed); !errors.Is(err, want) {
				t.Fatalf("byte %d changed: %v, want %v", i, err, want)
			}
		}
		if _, err := decode(rec.Key, value[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := decode(storetest.NewKey(), value); !errors.Is(err, errDamaged) {
		t.Fatalf("under another key: %v", err)
	}
}
