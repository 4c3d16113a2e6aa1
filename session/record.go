// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxRecordSize is the largest encoded record that a store takes, in bytes.
const MaxRecordSize = 64 << 10

// Key names a record in the store: the SHA-256 of the session identifier (so
// that a dump of the store gives nobody a cookie), or of a login's state. Its
// printed form is the public handle of the session.
type Key [sha256.Size]byte

// String gives the key as unpadded base64url, 43 characters.
func (k Key) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// ParseKey reads what [Key.String] wrote.
func ParseKey(s string) (Key, error) {
	var k Key
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(k) {
		return k, errors.New("malformed session handle")
	}
	return Key(b), nil
}

// IndexKey is an HMAC under which records are found again: by subject, or by
// the authorization server's session (sid). The store cannot read it.
type IndexKey [sha256.Size]byte

// Reason says why there is no session, or why it ended.
type Reason string

// The reasons. They are part of the public contract.
const (
	ReasonNone         Reason = "none"          // there was none
	ReasonIdle         Reason = "idle"          // idle timeout
	ReasonLifetime     Reason = "lifetime"      // absolute lifetime
	ReasonRevoked      Reason = "revoked"       // ended by the authorization server or an administrator
	ReasonLoggedOut    Reason = "logged_out"    // the user signed out
	ReasonRefreshToken Reason = "refresh_token" // the refresh token is no longer valid
	ReasonAccessToken  Reason = "access_token"  // the access token ran out and there is no refresh token
	ReasonLimit        Reason = "limit"         // too many sessions of this user
)

var reasons = []Reason{
	ReasonNone, ReasonIdle, ReasonLifetime, ReasonRevoked, ReasonLoggedOut,
	ReasonRefreshToken, ReasonAccessToken, ReasonLimit,
}

// EndReasons gives the reasons for which sessions end.
func EndReasons() []Reason { return slices.Clone(reasons[1:]) }

// AttemptID identifies one attempt to refresh.
type AttemptID [16]byte

// Attempt is the intent to refresh, written before the authorization server is
// called. It is at once the single flight over all instances, the journal of a
// crash, and the proof that the store accepts writes.
type Attempt struct {
	// ID is random, new for every attempt. A commit is fenced by it.
	ID AttemptID
	// Owner is the gateway instance that made the attempt: random, new with
	// every process.
	Owner [16]byte
	// Lease is moved by the owner while the call runs. An attempt may be taken
	// over only by an instance that has itself watched it stand still.
	Lease uint64
	// Takeover says that this attempt presents a refresh token that another
	// attempt may have presented already.
	Takeover bool
	// Unanswered says that the refresh token was presented and no answer came.
	// Nobody works on the attempt any more, but the refresh token may be spent.
	Unanswered bool
}

// Record is what the store keeps of one session: a plain part that stores and
// other instances work with, and two sealed ones. A record is an immutable
// value: to change it make the [Record.Next] one and replace it.
type Record struct {
	Key Key

	// Rev is moved by every write. Compare-and-swap goes by it.
	Rev uint64
	// Gen is moved by every new set of tokens.
	Gen uint64
	// LastSeen is the last activity, in seconds, written seldom.
	LastSeen time.Time
	// Expiry is when the store may forget the record. It is no earlier than
	// the end of the session.
	Expiry time.Time
	// Attempt is a refresh under way, or nil.
	Attempt *Attempt
	// Ended is why the session was ended before its time, or empty. A record
	// that has it is a tombstone: nothing brings the session back.
	Ended Reason
	// Index are the keys under which the record is found.
	Index []IndexKey

	// Facts is sealed under the key ring: readable without the cookie.
	Facts []byte
	// Tokens is sealed under the key ring and the cookie's secret.
	Tokens []byte
}

// Next is a copy of the record to be changed by the caller before anybody else
// sees it, with the next Rev.
func (r *Record) Next() *Record {
	n := *r
	n.Rev++
	return &n
}

// recordFormat is the first byte of an encoded record. A reader refuses what is
// newer than what it knows, and leaves it alone.
const recordFormat = 1

// ErrRecordFormat is wrapped by the errors of [Record.UnmarshalBinary].
var ErrRecordFormat = errors.New("session record has an unknown format")

// MarshalBinary encodes the record. It fails with [ErrTooLarge].
func (r *Record) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, 160+len(r.Index)*sha256.Size+len(r.Facts)+len(r.Tokens))
	b = append(b, recordFormat)
	b = append(b, r.Key[:]...)
	b = binary.AppendUvarint(b, r.Rev)
	b = binary.AppendUvarint(b, r.Gen)
	b = binary.AppendVarint(b, unixSeconds(r.LastSeen))
	b = binary.AppendVarint(b, unixSeconds(r.Expiry))
	if r.Attempt == nil {
		b = append(b, 0)
	} else {
		flags := byte(1)
		if r.Attempt.Takeover {
			flags |= 2
		}
		if r.Attempt.Unanswered {
			flags |= 4
		}
		b = append(b, flags)
		b = append(b, r.Attempt.ID[:]...)
		b = append(b, r.Attempt.Owner[:]...)
		b = binary.AppendUvarint(b, r.Attempt.Lease)
	}
	b = appendBytes(b, []byte(r.Ended))
	b = binary.AppendUvarint(b, uint64(len(r.Index)))
	for _, k := range r.Index {
		b = append(b, k[:]...)
	}
	b = appendBytes(b, r.Facts)
	b = appendBytes(b, r.Tokens)
	if len(b) > MaxRecordSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	return b, nil
}

// UnmarshalBinary decodes what [Record.MarshalBinary] wrote. The sealed parts
// are copied. Errors wrap [ErrRecordFormat].
func (r *Record) UnmarshalBinary(data []byte) error {
	if len(data) > MaxRecordSize {
		return fmt.Errorf("%w: %d bytes", ErrRecordFormat, len(data))
	}
	d := decoder{b: data}
	if f := d.byte(); f != recordFormat {
		return fmt.Errorf("%w: version %d", ErrRecordFormat, f)
	}
	var n Record
	d.fixed(n.Key[:])
	n.Rev = d.uvarint()
	n.Gen = d.uvarint()
	n.LastSeen = fromUnixSeconds(d.varint())
	n.Expiry = fromUnixSeconds(d.varint())
	if flags := d.byte(); flags&1 != 0 {
		n.Attempt = &Attempt{Takeover: flags&2 != 0, Unanswered: flags&4 != 0}
		d.fixed(n.Attempt.ID[:])
		d.fixed(n.Attempt.Owner[:])
		n.Attempt.Lease = d.uvarint()
	}
	n.Ended = Reason(d.bytes())
	if count := d.uvarint(); count <= uint64(len(d.b)/sha256.Size) {
		for range count {
			var k IndexKey
			d.fixed(k[:])
			n.Index = append(n.Index, k)
		}
	} else {
		d.failed = true
	}
	n.Facts = d.bytes()
	n.Tokens = d.bytes()
	if d.failed || len(d.b) != 0 {
		return fmt.Errorf("%w: truncated or overlong", ErrRecordFormat)
	}
	if n.Ended != "" && !slices.Contains(reasons, n.Ended) {
		return fmt.Errorf("%w: unknown reason", ErrRecordFormat)
	}
	*r = n
	return nil
}

func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnixSeconds(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// decoder reads an encoded value front to back. After a failure everything
// reads as zero; the caller looks at failed once, at the end.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) take(n uint64) []byte {
	if d.failed || n > uint64(len(d.b)) {
		d.failed = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) fixed(dst []byte) { copy(dst, d.take(uint64(len(dst)))) }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.failed = true
		return 0
	}
	d.take(uint64(n))
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.failed = true
		return 0
	}
	d.take(uint64(n))
	return v
}

// bytes gives a copy, nil when empty.
func (d *decoder) bytes() []byte {
	return append([]byte(nil), d.take(d.uvarint())...)
}
