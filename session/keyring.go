// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MinKeySize is the smallest secret of a key ring, in bytes.
const MinKeySize = 32

// RingKey is one key of the ring. Everything that the gateway seals or signs is
// derived from it.
type RingKey struct {
	// Secret has at least [MinKeySize] bytes of randomness.
	Secret []byte
	// IndexRoot is what the index keys (by subject, by sid) are made from. A
	// rotation that nobody asked for hands the old key's root on, so that what
	// was indexed before is still found. Empty: made from Secret.
	IndexRoot []byte
}

// NewRingKey makes a random key.
func NewRingKey() RingKey {
	secret := make([]byte, MinKeySize)
	rand.Read(secret) //nolint:errcheck // never fails, see crypto/rand
	return RingKey{Secret: secret}
}

// Successor makes a new key that what was indexed under k is found with.
func (k RingKey) Successor() RingKey {
	next := NewRingKey()
	next.IndexRoot = k.indexRoot()
	return next
}

func (k RingKey) indexRoot() []byte {
	if len(k.IndexRoot) > 0 {
		return k.IndexRoot
	}
	return derive(k.Secret, nil, "bff index root", 32)
}

// RingSource gives the keys of the ring: the first seals, all open.
type RingSource interface {
	// LoadRing reads the ring afresh. It is called at first use, every half a
	// minute while the ring is used, and, at most every few seconds, when
	// something was sealed by a key that is not known.
	LoadRing(ctx context.Context) ([]RingKey, error)
}

const (
	// ringReread is how often an unknown key id may cause a new look at the source.
	ringReread = 5 * time.Second
	// ringCheck is how often the source is looked at without a reason: a key that
	// was taken off it must not open for much longer. Whoever comes after a pause
	// of ringStale waits for the look.
	ringCheck = 30 * time.Second
	ringStale = 2 * ringCheck
)

// KeyRing holds the keys of one installation, read lazily from their source and
// again from time to time. It is safe for concurrent use.
type KeyRing struct {
	source RingSource
	logger *slog.Logger
	loaded atomic.Pointer[ring]
	read   atomic.Int64 // unix nanoseconds of the last look at the source
	sure   atomic.Int64 // of the last one that succeeded

	mu sync.Mutex
}

// NewKeyRing makes a ring that reads its keys from source at first use. The
// logger hears of a source that cannot be read any more; the ring as it was last
// read stays in use then.
func NewKeyRing(source RingSource, logger *slog.Logger) *KeyRing {
	return &KeyRing{source: source, logger: logger}
}

// Load reads the ring unless it has been read. An error is not remembered.
func (k *KeyRing) Load(ctx context.Context) error {
	_, err := k.current(ctx)
	return err
}

// Reload reads the ring, also if it has been read. After an error the ring as it
// was last read stays in use.
func (k *KeyRing) Reload(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, err := k.look(ctx)
	return err
}

func (k *KeyRing) current(ctx context.Context) (*ring, error) {
	if r := k.loaded.Load(); r != nil {
		last := k.read.Load()
		age := time.Since(time.Unix(0, last))
		if age >= ringCheck && age < ringStale && k.read.CompareAndSwap(last, time.Now().UnixNano()) {
			go k.check()
		}
		if age < ringStale {
			return r, nil
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.loaded.Load()
	if r != nil && time.Since(time.Unix(0, k.read.Load())) < ringCheck {
		return r, nil
	}
	fresh, err := k.look(ctx)
	if err != nil && r != nil {
		k.complain(err)
		return r, nil
	}
	return fresh, err
}

// certain is current, but it fails when the source has not been read for longer
// than ringStale: whoever has to find what others have indexed needs their keys.
func (k *KeyRing) certain(ctx context.Context) (*ring, error) {
	r, err := k.current(ctx)
	if err != nil || time.Since(time.Unix(0, k.sure.Load())) < ringStale {
		return r, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.look(ctx)
}

func (k *KeyRing) check() {
	if err := k.Reload(context.Background()); err != nil {
		k.complain(err)
	}
}

func (k *KeyRing) complain(err error) {
	k.logger.Error("the key ring cannot be read again; it stays as it was", "error", err)
}

// reread looks at the source again because id is unknown, at most once every
// ringReread, and gives the ring that is current then.
func (k *KeyRing) reread(ctx context.Context, id keyID) (*ring, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.loaded.Load(); r != nil && (r.find(id) != nil || time.Since(time.Unix(0, k.read.Load())) < ringReread) {
		return r, nil
	}
	return k.look(ctx)
}

// open opens what any instance has sealed. Nil: it is not authentic, or nobody has
// its key. An error means that the keys cannot be known.
func (k *KeyRing) open(ctx context.Context, p purpose, sealed []byte) ([]byte, error) {
	r, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	plain, err := r.open(p, sealed)
	if errors.Is(err, errSealedKey) {
		id, _ := sealedBy(sealed)
		if r, err = k.reread(ctx, id); err != nil {
			return nil, err
		}
		plain, err = r.open(p, sealed)
	}
	if err != nil {
		return nil, nil
	}
	return plain, nil
}

// look reads the source. It is called with mu held.
func (k *KeyRing) look(ctx context.Context) (*ring, error) {
	k.read.Store(time.Now().UnixNano())
	keys, err := k.source.LoadRing(ctx)
	if err != nil {
		return nil, unavailable(fmt.Errorf("reading the key ring: %w", err))
	}
	r, err := newRing(keys)
	if err != nil {
		return nil, unavailable(err)
	}
	k.sure.Store(time.Now().UnixNano())
	if old := k.loaded.Load(); old != nil && old.equal(r) {
		return old, nil
	}
	k.loaded.Store(r)
	return r, nil
}

// keyID names a key without telling anything about it.
type keyID [8]byte

// ring is one immutable reading of the keys.
type ring struct {
	keys []*ringKey // the first seals
}

type ringKey struct {
	id     keyID
	secret []byte
	index  []byte
	cookie cookieCodec // of the session cookie
}

func newRing(keys []RingKey) (*ring, error) {
	if len(keys) == 0 {
		return nil, errors.New("the key ring is empty")
	}
	r := &ring{}
	for i, key := range keys {
		if len(key.Secret) < MinKeySize {
			return nil, fmt.Errorf("key %d of the ring has %d bytes, needs %d", i+1, len(key.Secret), MinKeySize)
		}
		r.keys = append(r.keys, &ringKey{
			id:     keyID(derive(key.Secret, nil, "bff key id", len(keyID{}))),
			secret: key.Secret,
			index:  key.indexRoot(),
			cookie: newCookieCodec(derive(key.Secret, nil, "bff session cookie", 32)),
		})
	}
	return r, nil
}

// equal compares keys and their order.
func (r *ring) equal(other *ring) bool {
	return slices.EqualFunc(r.keys, other.keys, func(a, b *ringKey) bool {
		return hmac.Equal(a.secret, b.secret) && hmac.Equal(a.index, b.index)
	})
}

func (r *ring) sealing() *ringKey { return r.keys[0] }

func (r *ring) find(id keyID) *ringKey {
	for _, k := range r.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// indexKeys gives the index key of values under each distinct root: new records
// carry the first, look-ups try all.
func (r *ring) indexKeys(kind string, values ...string) []IndexKey {
	var out []IndexKey
	for i, k := range r.keys {
		if slices.ContainsFunc(r.keys[:i], func(earlier *ringKey) bool { return hmac.Equal(k.index, earlier.index) }) {
			continue
		}
		mac := hmac.New(sha256.New, k.index)
		mac.Write(bind(append([]string{kind}, values...)...))
		out = append(out, IndexKey(mac.Sum(nil)))
	}
	return out
}

// indexOf gives the keys under which a session of a client is found, that of the
// end user first. The client is part of them: the authorization server tells each
// of its clients of a logout, and what is found belongs to all sites of one.
func (r *ring) indexOf(clientID string, f *facts) []IndexKey {
	index := r.indexKeys("sub", f.issuer, clientID, f.subject)[:1]
	for _, sid := range f.sids() {
		index = append(index, r.indexKeys("sid", f.issuer, clientID, sid)[0])
	}
	return index
}

// derive is HKDF-SHA256 (RFC 5869).
func derive(secret, salt []byte, info string, size int) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("session: " + err.Error()) // only for sizes that are not used here
	}
	return key
}

// bind joins values so that no two lists of values give the same bytes.
func bind(values ...string) []byte {
	var b []byte
	for _, v := range values {
		b = appendBytes(b, []byte(v))
	}
	return b
}
