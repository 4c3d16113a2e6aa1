// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-bff/caddy-bff/session"
)

// ringSource is where a key ring comes from.
type ringSource interface {
	session.RingSource
	// poolKey names the ring without telling anything about its keys.
	poolKey(storage certmagic.Storage) string
}

// sharedRing is a key ring with its source, shared by configurations.
type sharedRing struct {
	*session.KeyRing
	source ringSource
}

// configuredRing is a ring whose keys stand in the configuration, or in files
// and variables that it names.
type configuredRing struct{ secrets []*configSecret }

func newConfiguredRing(raw []string) (*configuredRing, error) {
	c := &configuredRing{}
	for i, r := range raw {
		s, err := newConfigSecret(ringOption(i), r)
		if err != nil {
			return nil, err
		}
		c.secrets = append(c.secrets, s)
	}
	_, err := c.LoadRing(context.Background())
	return c, err
}

// LoadRing implements [session.RingSource]: one key a line, empty lines aside.
func (c *configuredRing) LoadRing(context.Context) ([]session.RingKey, error) {
	var keys []session.RingKey
	for _, s := range c.secrets {
		v, err := s.resolve() // a file that is gone is worth a word
		if err != nil {
			return nil, err
		}
		more, err := parseRingKeys(s.option, v.Reveal())
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

// parseRingKeys reads keys, one a line. No error says anything of a key but its length.
func parseRingKeys(option, text string) ([]session.RingKey, error) {
	var keys []session.RingKey
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if len(line) < session.MinKeySize {
			return nil, wrong(option, "%s: a key has %d bytes, needs at least %d", option, len(line), session.MinKeySize)
		}
		keys = append(keys, session.RingKey{Secret: []byte(line)})
	}
	if len(keys) == 0 {
		return nil, wrong(option, "%s: there is none", option)
	}
	return keys, nil
}

// ringOption names one of the secrets of the option keys, counted from 0.
func ringOption(i int) string { return fmt.Sprintf("keys, number %d", i+1) }

// checkWrittenKeys finds what newConfiguredRing would find in what holds no
// placeholder.
func checkWrittenKeys(raw []string) error {
	for i, r := range raw {
		if err := checkSecretText(ringOption(i), r); err != nil {
			return err
		}
		if strings.Contains(r, "{") {
			continue
		}
		if _, err := parseRingKeys(ringOption(i), r); err != nil {
			return err
		}
	}
	return nil
}

// poolKey goes by what was written, since the values may change under it.
func (c *configuredRing) poolKey(certmagic.Storage) string {
	sum := sha256.New()
	for _, s := range c.secrets {
		fmt.Fprintf(sum, "%d %s", len(s.raw), s.raw) //nolint:errcheck // of hash
	}
	return "configured " + hex.EncodeToString(sum.Sum(nil))
}

// ringStorageKey is where the ring is in Caddy's storage.
const ringStorageKey = "bff/key_ring.json"

// ringLock is held while a ring is made, so that instances that start together
// agree on one.
const ringLock = "bff_key_ring"

// ringTimeout bounds reading the ring, and making it, all told.
const ringTimeout = 20 * time.Second

// storedRing is a ring that is made once and kept in Caddy's storage, where all
// instances that share the storage find it.
type storedRing struct {
	first certmagic.Storage // of the configuration that made this value
	read  atomic.Bool       // the ring has been read, so there is one

	mu sync.Mutex
	// storages are those of the configurations that run, the newest last: a
	// storage may be of no use once its configuration is gone.
	storages []*certmagic.Storage
}

// use makes s the storage to read from, until the function that it returns is called.
func (k *storedRing) use(s certmagic.Storage) (remove func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	entry := &s
	k.storages = append(k.storages, entry)
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		for i, e := range k.storages {
			if e == entry {
				k.storages = append(k.storages[:i:i], k.storages[i+1:]...)
				return
			}
		}
	}
}

// poolKey goes by the kind of storage: Caddy makes new values of it with every
// configuration, and they seldom can be compared. A ring that has been read
// stays until the process ends, wherever a new configuration keeps its storage.
func (k *storedRing) poolKey(s certmagic.Storage) string { return fmt.Sprintf("stored %T", s) }

// How a stored ring is rotated: a key seals for ringKeyAge. The next one is put
// into the ring ringKeyNotice before it seals, so that by then every instance
// opens with it. What has not sealed for ringKeyRest goes.
const (
	ringKeyAge    = 90 * 24 * time.Hour
	ringKeyNotice = time.Hour
	ringKeyRest   = 400 * 24 * time.Hour
)

// storedKeys is the JSON of the ring. One of another version is left alone.
type storedKeys struct {
	Version int         `json:"version"`
	Keys    []storedKey `json:"keys"` // in the order in which they began to seal
}

type storedKey struct {
	Secret    []byte    `json:"secret"`
	IndexRoot []byte    `json:"index_root,omitempty"`
	Created   time.Time `json:"created"`
	Seals     time.Time `json:"seals,omitzero"` // from when on; at once
}

func (s *storedKey) seals() time.Time {
	if s.Seals.IsZero() {
		return s.Created
	}
	return s.Seals
}

// sealing gives the place of the key that seals at a moment: the last one whose
// time has come, or else the first.
func (s *storedKeys) sealing(now time.Time) int {
	at := 0
	for i := range s.Keys {
		if !s.Keys[i].seals().After(now) {
			at = i
		}
	}
	return at
}

// due reports that the next key should be made: none waits, and the last is old.
func (s *storedKeys) due(now time.Time) bool {
	return now.Sub(s.Keys[len(s.Keys)-1].seals()) >= ringKeyAge
}

// rotate adds the next key and takes off those that are not needed any more.
func (s *storedKeys) rotate(now time.Time) {
	last := s.Keys[len(s.Keys)-1]
	next := session.RingKey{Secret: last.Secret, IndexRoot: last.IndexRoot}.Successor()
	s.Keys = append(s.Keys, storedKey{Secret: next.Secret, IndexRoot: next.IndexRoot, Created: now.UTC(), Seals: now.Add(ringKeyNotice).UTC()})
	for len(s.Keys) > 1 && now.Sub(s.Keys[1].seals()) >= ringKeyRest {
		s.Keys = s.Keys[1:]
	}
}

// ring gives the keys with the one that seals first, then the newest first.
func (s *storedKeys) ring(now time.Time) []session.RingKey {
	at := s.sealing(now)
	keys := []session.RingKey{{Secret: s.Keys[at].Secret, IndexRoot: s.Keys[at].IndexRoot}}
	for i := len(s.Keys) - 1; i >= 0; i-- {
		if i != at {
			keys = append(keys, session.RingKey{Secret: s.Keys[i].Secret, IndexRoot: s.Keys[i].IndexRoot})
		}
	}
	return keys
}

// LoadRing implements [session.RingSource].
func (k *storedRing) LoadRing(ctx context.Context) ([]session.RingKey, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ringTimeout)
	defer cancel()
	storage := k.first
	k.mu.Lock()
	if n := len(k.storages); n > 0 {
		storage = *k.storages[n-1]
	}
	k.mu.Unlock()

	now := time.Now()
	stored, err := loadStored(ctx, storage)
	switch {
	case errors.Is(err, fs.ErrNotExist) && k.read.Load():
		// Storage that is out, or was emptied. A new ring would sign everybody out.
		return nil, fmt.Errorf("%s has gone from Caddy's storage; the keys that were read stay in use, and sessions will be lost with this process unless the file comes back", ringStorageKey)
	case errors.Is(err, fs.ErrNotExist):
		stored, err = changeStored(ctx, storage, now)
	case err == nil && stored.due(now):
		rotated, rotateErr := changeStored(ctx, storage, now)
		if rotateErr != nil { // the ring is good as it is
			processLog.Error("the key ring could not be rotated; it is tried again", "error", rotateErr)
			break
		}
		stored = rotated
	}
	if err != nil {
		return nil, err
	}
	k.read.Store(true)
	return stored.ring(now), nil
}

func loadStored(ctx context.Context, storage certmagic.Storage) (*storedKeys, error) {
	b, err := storage.Load(ctx, ringStorageKey)
	if err != nil {
		return nil, err
	}
	stored := new(storedKeys)
	// The decoder's message may quote what it reads.
	if json.Unmarshal(b, stored) != nil || stored.Version != 1 || len(stored.Keys) == 0 {
		return nil, fmt.Errorf("%s in Caddy's storage is not a key ring of this version; it is left alone", ringStorageKey)
	}
	return stored, nil
}

// changeStored makes the ring, or rotates it, whichever is due once nobody else
// can do so at the same time.
func changeStored(ctx context.Context, storage certmagic.Storage, now time.Time) (stored *storedKeys, err error) {
	if err := storage.Lock(ctx, ringLock); err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	defer func() {
		if unlockErr := storage.Unlock(context.WithoutCancel(ctx), ringLock); unlockErr != nil && err == nil {
			processLog.Warn("unlocking the key ring", "error", unlockErr)
		}
	}()
	// Somebody else may have been faster.
	stored, err = loadStored(ctx, storage)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		stored = &storedKeys{Version: 1, Keys: []storedKey{{Secret: session.NewRingKey().Secret, Created: now.UTC()}}}
	case err != nil:
		return nil, err
	case !stored.due(now):
		return stored, nil
	default:
		stored.rotate(now)
		processLog.Info("the key ring has a new key", "seals_from", stored.Keys[len(stored.Keys)-1].Seals)
	}
	b, err := json.Marshal(stored)
	if err != nil {
		return nil, err
	}
	if err := storage.Store(ctx, ringStorageKey, b); err != nil {
		return nil, fmt.Errorf("storing: %w", err)
	}
	// What is in the storage counts, not what was meant to be.
	return loadStored(ctx, storage)
}
