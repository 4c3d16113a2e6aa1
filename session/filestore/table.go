// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package filestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-bff/caddy-bff/session"
)

// The buckets of the file.
var (
	metaBucket    = []byte("meta")    // "format" → one byte
	recordsBucket = []byte("records") // key → envelope
	expiryBucket  = []byte("expiry")  // expiry, key → nothing
	indexBucket   = []byte("index")   // index key, key → nothing
	asideBucket   = []byte("damaged") // time, key → the bytes that were found
	formatKey     = []byte("format")
	allBuckets    = [][]byte{metaBucket, recordsBucket, expiryBucket, indexBucket, asideBucket}
)

const (
	// fileFormat is the layout of the buckets. A file with a newer one is not
	// opened.
	fileFormat = 1
	// maxAside bounds how many damaged records are kept to look at, and
	// asideLife for how long.
	maxAside  = 1000
	asideLife = 30 * 24 * time.Hour
	// sweepBatch bounds how many expired records one transaction removes.
	sweepBatch = 256
)

// table is one write transaction. Its methods give the answer for the caller of
// one change; what goes wrong with the file itself is kept in fault, and then
// the whole transaction is given up.
type table struct {
	tx      *bolt.Tx
	now     time.Time
	max     int
	count   int // entries of the expiry bucket: records, live and expired
	changed bool
	fault   error
	effects []effect
	aside   []session.Key // records found damaged
}

// effect is what the cache has to learn when the transaction is committed.
type effect struct {
	key  session.Key
	rec  *session.Record // nil: removed
	size int
}

func (t *table) create(rec *session.Record, value []byte) error {
	env, err := t.lookup(rec.Key)
	switch {
	case err == nil && liveAt(env.expiry, t.now):
		return session.ErrExists
	case err == nil:
		t.remove(rec.Key, env)
	case !errors.Is(err, session.ErrNotFound):
		return err
	}
	if t.count >= t.max {
		t.expire(sweepBatch)
		if t.count >= t.max {
			return session.ErrFull
		}
	}
	t.store(rec, value)
	t.addExpiry(rec.Expiry.Unix(), rec.Key)
	for _, k := range rec.Index {
		t.put(indexBucket, indexEntry(k, rec.Key), nil)
	}
	return nil
}

func (t *table) replace(rev uint64, next *session.Record, value []byte) error {
	env, err := t.lookup(next.Key)
	switch {
	case err != nil:
		return err
	case !liveAt(env.expiry, t.now):
		return session.ErrNotFound
	case env.rev != rev:
		return session.ErrConflict
	}
	if expiry := next.Expiry.Unix(); expiry != env.expiry {
		t.dropExpiry(expiryKey(env.expiry, next.Key))
		t.addExpiry(expiry, next.Key)
	}
	before := env.indexKeys()
	for _, k := range before {
		if !slices.Contains(next.Index, k) {
			t.del(indexBucket, indexEntry(k, next.Key))
		}
	}
	for _, k := range next.Index {
		if !slices.Contains(before, k) {
			t.put(indexBucket, indexEntry(k, next.Key), nil)
		}
	}
	t.store(next, value)
	return nil
}

func (t *table) delete(key session.Key) error {
	env, err := t.lookup(key)
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	t.remove(key, env)
	return nil
}

// setAside keeps the bytes of a damaged record where they are in nobody's way.
func (t *table) setAside(key session.Key) error {
	if _, err := t.lookup(key); err != nil && !errors.Is(err, session.ErrNotFound) {
		return err
	}
	return nil
}

// unindex removes entries of an index whose records are gone or carry it no
// more.
func (t *table) unindex(index session.IndexKey, keys []session.Key) error {
	for _, key := range keys {
		if env, err := t.lookup(key); errors.Is(err, session.ErrNotFound) || (err == nil && !env.carries(index)) {
			t.del(indexBucket, indexEntry(index, key))
		}
	}
	return nil
}

// expire removes up to limit records that have expired, and tells how many
// entries of the expiry bucket it dealt with.
func (t *table) expire(limit int) int {
	// Collected first: a cursor does not survive changes to its bucket.
	var due [][]byte
	cursor := t.tx.Bucket(expiryBucket).Cursor()
	for k, _ := cursor.First(); k != nil && len(due) < limit; k, _ = cursor.Next() {
		if expiry, _, ok := parseExpiryKey(k); ok && liveAt(expiry, t.now) {
			break
		}
		due = append(due, bytes.Clone(k))
	}
	for _, k := range due {
		t.dropExpiry(k)
		expiry, key, ok := parseExpiryKey(k)
		if !ok {
			continue
		}
		env, err := t.lookup(key)
		switch {
		case errors.Is(err, errUnknownFormat):
			// Whichever version wrote it has put its end here.
			t.forget(key)
		case err == nil && env.expiry == expiry: // else an entry left behind
			t.remove(key, env)
		}
	}
	return len(due)
}

// expireAside removes damaged records that were kept long enough.
func (t *table) expireAside() error {
	end := asideKey(t.now.Add(-asideLife), session.Key{})
	cursor := t.tx.Bucket(asideBucket).Cursor()
	var old [][]byte
	for k, _ := cursor.First(); k != nil && bytes.Compare(k, end) < 0; k, _ = cursor.Next() {
		old = append(old, bytes.Clone(k))
	}
	for _, k := range old {
		t.del(asideBucket, k)
	}
	return nil
}

// lookup gives the stored envelope, session.ErrNotFound, or an error that says
// that this version cannot read it. A damaged record is set aside, and is not
// found.
func (t *table) lookup(key session.Key) (envelope, error) {
	value := t.tx.Bucket(recordsBucket).Get(key[:])
	if value == nil {
		return envelope{}, session.ErrNotFound
	}
	env, err := decode(key, value)
	if errors.Is(err, errDamaged) {
		t.moveAside(key, bytes.Clone(value))
		return envelope{}, session.ErrNotFound
	}
	if err != nil {
		return envelope{}, unavailable(err)
	}
	return env, nil
}

func (t *table) moveAside(key session.Key, value []byte) {
	n := 0
	cursor := t.tx.Bucket(asideBucket).Cursor()
	for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
		n++
	}
	if n >= maxAside {
		oldest, _ := cursor.First()
		t.del(asideBucket, bytes.Clone(oldest))
	}
	t.put(asideBucket, asideKey(t.now, key), value)
	t.aside = append(t.aside, key)
	t.forget(key)
}

func (t *table) store(rec *session.Record, value []byte) {
	t.put(recordsBucket, rec.Key[:], value)
	t.effects = append(t.effects, effect{key: rec.Key, rec: rec, size: len(value)})
}

// remove takes a record and all that points to it away.
func (t *table) remove(key session.Key, env envelope) {
	// The envelope's memory belongs to the record that goes.
	index, expiry := env.indexKeys(), env.expiry
	for _, k := range index {
		t.del(indexBucket, indexEntry(k, key))
	}
	t.dropExpiry(expiryKey(expiry, key))
	t.forget(key)
}

// forget takes a record away whose index keys and expiry cannot be read. What
// points to it is removed when it is come across.
func (t *table) forget(key session.Key) {
	t.del(recordsBucket, key[:])
	t.effects = append(t.effects, effect{key: key})
}

func (t *table) addExpiry(expiry int64, key session.Key) {
	t.put(expiryBucket, expiryKey(expiry, key), nil)
	t.count++
}

func (t *table) dropExpiry(entry []byte) {
	if k, _ := t.tx.Bucket(expiryBucket).Cursor().Seek(entry); bytes.Equal(k, entry) {
		t.del(expiryBucket, entry)
		t.count--
	}
}

func (t *table) put(bucket, key, value []byte) {
	t.changed = true
	if err := t.tx.Bucket(bucket).Put(key, value); err != nil && t.fault == nil {
		t.fault = err
	}
}

func (t *table) del(bucket, key []byte) {
	t.changed = true
	if err := t.tx.Bucket(bucket).Delete(key); err != nil && t.fault == nil {
		t.fault = err
	}
}

// indexed walks over the entries of one index key.
func indexed(tx *bolt.Tx, index session.IndexKey) iter.Seq[session.Key] {
	return func(yield func(session.Key) bool) {
		cursor := tx.Bucket(indexBucket).Cursor()
		for k, _ := cursor.Seek(index[:]); bytes.HasPrefix(k, index[:]); k, _ = cursor.Next() {
			var key session.Key
			if copy(key[:], k[len(index):]) == len(key) && !yield(key) {
				return
			}
		}
	}
}

func indexEntry(index session.IndexKey, key session.Key) []byte {
	return append(append(make([]byte, 0, len(index)+len(key)), index[:]...), key[:]...)
}

// expiryKey orders by time, also before 1970.
func expiryKey(expiry int64, key session.Key) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(key)), uint64(expiry)^1<<63)
	return append(b, key[:]...)
}

func parseExpiryKey(b []byte) (expiry int64, key session.Key, ok bool) {
	if len(b) != 8+len(key) {
		return 0, key, false
	}
	return int64(binary.BigEndian.Uint64(b) ^ 1<<63), session.Key(b[8:]), true
}

func asideKey(at time.Time, key session.Key) []byte { return expiryKey(at.Unix(), key) }
