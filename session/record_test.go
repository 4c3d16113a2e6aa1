// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

func sampleRecord() *Record {
	return &Record{
		Key: Key{1, 2, 3}, Rev: 7, Gen: 300, LastSeen: time.Unix(1_700_000_000, 0), Expiry: time.Unix(1_700_100_000, 0),
		Attempt: &Attempt{ID: AttemptID{4}, Owner: [16]byte{5}, Lease: 6, Takeover: true},
		Index:   []IndexKey{{8}, {9}}, Facts: []byte("facts"), Tokens: []byte("tokens"),
	}
}

func TestRecordSurvivesEncoding(t *testing.T) {
	tombstone := sampleRecord().Next()
	tombstone.entomb(ReasonRevoked, time.Unix(1_999_999_999, 0))
	for name, rec := range map[string]*Record{
		"full": sampleRecord(), "tombstone": tombstone, "claim": {Key: Key{9}, Rev: 1, Expiry: time.Unix(5, 0)}, "zero": {},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := rec.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			var got Record
			if err := got.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(&got, rec) {
				t.Errorf("got %+v, want %+v", &got, rec)
			}
		})
	}
}

// F307: what is cut, longer, or of another version is refused, never guessed.
func TestRecordRefusesDamage(t *testing.T) {
	b, err := sampleRecord().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if err := new(Record).UnmarshalBinary(b[:n]); !errors.Is(err, ErrRecordFormat) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if err := new(Record).UnmarshalBinary(append(b, 0)); !errors.Is(err, ErrRecordFormat) {
		t.Errorf("one byte too many: %v", err)
	}
	newer := append([]byte{recordFormat + 1}, b[1:]...)
	if err := new(Record).UnmarshalBinary(newer); !errors.Is(err, ErrRecordFormat) {
		t.Errorf("newer version: %v", err)
	}
}

// H105: the hard limit of a record.
func TestRecordTooLarge(t *testing.T) {
	rec := sampleRecord()
	rec.Tokens = make([]byte, MaxRecordSize)
	if _, err := rec.MarshalBinary(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestParseKey(t *testing.T) {
	k := Key{1, 2, 3}
	if got, err := ParseKey(k.String()); err != nil || got != k {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "x", k.String() + "A", k.String()[1:], "../" + k.String()[3:], k.String()[:42] + "\n"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzRecord(f *testing.F) {
	b, err := sampleRecord().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{recordFormat})
	f.Fuzz(func(t *testing.T, data []byte) {
		var rec Record
		if rec.UnmarshalBinary(data) != nil {
			return
		}
		again, err := rec.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var second Record
		if err := second.UnmarshalBinary(again); err != nil || !reflect.DeepEqual(rec, second) {
			t.Errorf("not stable: %+v and %+v (%v)", rec, second, err)
		}
	})
}
