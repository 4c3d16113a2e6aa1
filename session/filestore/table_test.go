// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// tamper changes what the file holds under the key of rec, behind the store.
func tamper(t *testing.T, path string, rec *session.Record, change func(value []byte) []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		value := records.Get(rec.Key[:])
		if value == nil {
			return errors.New("nothing to tamper with")
		}
		return records.Put(rec.Key[:], change(slices.Clone(value)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// newer makes a value as a version would that knows a later record format.
func newer(rec *session.Record) func([]byte) []byte {
	return func(value []byte) []byte {
		payload := headerSize + len(rec.Index)*indexKeySize
		value[payload] = 200
		value = append(value, "and more fields"...)
		binary.BigEndian.PutUint32(value[1:], checksum(rec.Key, value[5:]))
		return value
	}
}

func withRecord(t *testing.T, change func(*session.Record) func([]byte) []byte) (*Store, *session.Record, *lockedBuffer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sessions.db")
	rec := storetest.NewRecord(storetest.NewIndexKey())
	s := open(t, Options{Path: path})
	if err := s.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, path, rec, change(rec))
	var log lockedBuffer
	return open(t, Options{Path: path, Logger: logTo(&log)}), rec, &log, path
}

// HARDENING F307: what is damaged is set aside and reported once; its user
// signs in again, and is not met by an outage that never ends.
func TestDamagedRecordIsSetAside(t *testing.T) {
	t.Parallel()
	damage := func(*session.Record) func([]byte) []byte {
		return func(v []byte) []byte { v[len(v)-1] ^= 1; return v }
	}
	cut := func(*session.Record) func([]byte) []byte {
		return func(v []byte) []byte { return v[:len(v)/2] }
	}
	garbage := func(*session.Record) func([]byte) []byte {
		return func([]byte) []byte { return append([]byte{envelopeFormat}, "garbage"...) }
	}
	for name, change := range map[string]func(*session.Record) func([]byte) []byte{
		"a flipped bit": damage, "cut": cut, "garbage": garbage,
	} {
		for use, call := range map[string]func(*Store, *session.Record) error{
			"load":    func(s *Store, r *session.Record) error { _, err := s.Load(t.Context(), r.Key); return err },
			"replace": func(s *Store, r *session.Record) error { return s.Replace(t.Context(), r, r.Next()) },
		} {
			t.Run(name+", "+use, func(t *testing.T) {
				t.Parallel()
				s, rec, log, _ := withRecord(t, change)
				for range 3 {
					if err := call(s, rec); !errors.Is(err, session.ErrNotFound) {
						t.Fatalf("%s of a damaged record: %v, want ErrNotFound", use, err)
					}
				}
				if n := entries(t, s); n["records"] != 0 || n["damaged"] != 1 {
					t.Fatalf("the file holds %v", n)
				}
				if keys, err := s.Find(t.Context(), rec.Index[0]); err != nil || len(keys) != 0 {
					t.Fatalf("find: %v, %v", keys, err)
				}
				if n := strings.Count(log.String(), "damaged session record set aside"); n != 1 {
					t.Fatalf("reported %d times:\n%s", n, log)
				}
				again := storetest.NewRecord(rec.Index...)
				again.Key = rec.Key
				if err := s.Create(t.Context(), again); err != nil {
					t.Fatalf("create where a damaged record was: %v", err)
				}
				if got, err := s.Load(t.Context(), rec.Key); err != nil || got != again {
					t.Fatalf("load: %v", err)
				}
			})
		}
	}
}

// Find comes across it first, and cleans up.
func TestFindSetsDamagedRecordsAside(t *testing.T) {
	t.Parallel()
	s, rec, _, _ := withRecord(t, func(*session.Record) func([]byte) []byte {
		return func(v []byte) []byte { v[30] ^= 1; return v }
	})
	if keys, err := s.Find(t.Context(), rec.Index[0]); err != nil || len(keys) != 0 {
		t.Fatalf("find: %v, %v", keys, err)
	}
	if err := s.Delete(t.Context(), storetest.NewKey()); err != nil { // behind the cleaning
		t.Fatal(err)
	}
	if n := entries(t, s); n["index"] != 0 || n["damaged"] != 1 || n["records"] != 0 {
		t.Fatalf("the file holds %v", n)
	}
}

// HARDENING F307, F308: a record of a newer version is neither used nor
// destroyed, and it is not "not found" either.
func TestNewerRecordIsLeftAlone(t *testing.T) {
	t.Parallel()
	newerEnvelope := func(*session.Record) func([]byte) []byte {
		return func(v []byte) []byte { v[0] = envelopeFormat + 1; return v }
	}
	for name, change := range map[string]func(*session.Record) func([]byte) []byte{
		"record": newer, "envelope": newerEnvelope,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rec, log, path := withRecord(t, change)
			if _, err := s.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrStoreUnavailable) || errors.Is(err, session.ErrNotFound) {
				t.Fatalf("load: %v, want ErrStoreUnavailable", err)
			}
			if err := s.Create(t.Context(), rec); err == nil {
				t.Fatal("create wrote over it")
			}
			if keys, err := s.Find(t.Context(), rec.Index[0]); err != nil || !slices.Equal(keys, []session.Key{rec.Key}) {
				t.Fatalf("find takes it for absent: %v, %v", keys, err)
			}
			s.sweep()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			want, err := encode(rec)
			if err != nil {
				t.Fatal(err)
			}
			tamper(t, path, rec, func(v []byte) []byte {
				if !bytes.Equal(v, change(rec)(slices.Clone(want))) {
					t.Error("the record of the newer version was changed")
				}
				return want
			})
			s = open(t, Options{Path: path})
			if _, err := s.Load(t.Context(), rec.Key); err != nil {
				t.Fatalf("back on the newer version: %v", err)
			}
			if strings.Contains(log.String(), "damaged") {
				t.Fatalf("reported as damaged:\n%s", log)
			}
		})
	}
}

// A newer version's record goes when that version said that it ends.
func TestNewerRecordExpires(t *testing.T) {
	t.Parallel()
	s, rec, _, _ := withRecord(t, newer)
	var n int
	if err := s.committer.do(t.Context(), func(tb *table) error {
		tb.now = rec.Expiry.Add(time.Hour)
		n = tb.expire(sweepBatch)
		return nil
	}); err != nil || n != 1 {
		t.Fatalf("%d expired, %v", n, err)
	}
	if got := entries(t, s); got["records"] != 0 || got["index"] != 0 || got["expiry"] != 0 {
		t.Fatalf("the file holds %v", got)
	}
}

// Damaged records are kept to look at, but not without bound and not for ever:
// they hold sealed tokens.
func TestDamagedRecordsAreBounded(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	if err := s.committer.do(t.Context(), func(tb *table) error {
		for i := range maxAside + 10 {
			tb.now = time.Now().Add(time.Duration(i) * time.Second)
			tb.moveAside(storetest.NewKey(), []byte("damaged"))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := entries(t, s)["damaged"]; n != maxAside {
		t.Fatalf("%d damaged records kept, want %d", n, maxAside)
	}
	if err := s.committer.do(t.Context(), func(tb *table) error {
		tb.now = time.Now().Add(asideLife + time.Hour)
		return tb.expireAside()
	}); err != nil {
		t.Fatal(err)
	}
	if n := entries(t, s)["damaged"]; n != 0 {
		t.Fatalf("%d damaged records left after %s", n, asideLife)
	}
}
