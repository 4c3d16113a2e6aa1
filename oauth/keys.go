// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxJWKS       = 512 << 10
	maxKeys       = 100
	keySetAge     = time.Hour        // then it is fetched again, while the old one serves
	keySetStale   = 24 * time.Hour   // after so long without a fetch that succeeded it serves no more
	keySetBackOff = time.Second      // after a failure with nothing in hand
	keySetRetry   = 30 * time.Second // after a failure with an old one in hand
	// For the sake of an unknown key it is fetched again after refetchSoon if the
	// last time brought news, else after refetchBackOff, doubled each time up to
	// refetchEvery: issuers rotate twice in a row, and serve key sets from caches
	// that lag behind, but whoever makes up key IDs gets one fetch a minute.
	refetchSoon    = 5 * time.Second
	refetchBackOff = 10 * time.Second
	refetchEvery   = time.Minute
)

// verificationKey is a public key of the issuer.
type verificationKey struct {
	kid, alg string // "" when the key set does not say
	issuer   string // the one whose tokens it is for; "": all
	key      crypto.PublicKey
}

// keys is a key set as it was fetched once; immutable.
type keys struct {
	list       []verificationKey
	digest     [sha256.Size]byte
	generation uint64 // moves when the content does
	fetched    time.Time
}

// maxCandidates bounds how many keys a signature is tried with: whoever makes one up
// leaves the key ID out.
const maxCandidates = 16

// candidates returns the keys that may have made a signature: those with its key
// ID or none, of the right kind, and not meant for another algorithm or issuer, the
// first maxCandidates of them. Several keys may share a key ID.
func (k *keys) candidates(s *signed) []verificationKey {
	var list []verificationKey
	claimed := sync.OnceValue(s.claimedIssuer) // at most once, a stranger's token may have much in it
	for _, v := range k.list {
		if len(list) == maxCandidates {
			break
		}
		if (s.kid == "" || v.kid == "" || v.kid == s.kid) && (v.alg == "" || v.alg == s.alg) && keyFits(s.alg, v.key) &&
			(v.issuer == "" || v.issuer == claimed()) {
			list = append(list, v)
		}
	}
	return list
}

// verify says whether one of the keys made the signature.
func (k *keys) verify(s *signed) bool {
	return slices.ContainsFunc(k.candidates(s), func(v verificationKey) bool {
		return verifySignature(s.alg, s.input, s.signature, v.key)
	})
}

// keySet keeps the issuer's keys and the one fetch that may be under way.
type keySet struct {
	client  *Client
	current atomic.Pointer[keys]

	mu        sync.Mutex
	failure   error
	retryAt   time.Time     // earliest next fetch for age or absence
	refetchAt time.Time     // earliest next fetch for an unknown key
	refetches int           // fetches for unknown keys in a row that brought no news
	wanted    bool          // the fetch under way is one for an unknown key
	unaskedAt time.Time     // earliest next fetch for a token that anybody may have sent
	flight    chan struct{} // closed when the fetch under way has ended; nil: none
}

// generation returns the generation of the current key set, 0 when there is none.
func (ks *keySet) generation() uint64 {
	if k := ks.current.Load(); k != nil {
		return k.generation
	}
	return 0
}

// errUnsettled says that a signature did not verify with the keys at hand, and
// that newer ones were asked for so lately that they are not asked for now.
var errUnsettled = errors.New("signature does not verify; it is too soon to ask for newer keys")

// errNewerKeys says that it did not verify, and that newer keys were asked for,
// now or lately, and did not come. It wraps ErrKeysUnavailable.
var errNewerKeys = fmt.Errorf("%w: the signature is of none of those at hand", ErrKeysUnavailable)

var errSignature = errors.New("signature does not verify")

// verify checks a signature with the issuer's keys. When none fits, the key set is
// fetched once more, rate-limited and shared, because the issuer may have a new
// key (OpenID Connect Core section 10.1.1). The rate may make it wait that long
// for the fetch, if the caller has the patience. It returns the generation asked.
// Errors: errSignature, errUnsettled; [ErrKeysUnavailable], as errNewerKeys when
// there are keys.
func (ks *keySet) verify(ctx context.Context, s *signed, patience time.Duration) (uint64, error) {
	k, err := ks.get(ctx)
	if err != nil {
		return 0, err
	}
	if k.verify(s) {
		return k.generation, nil
	}
	newer, err := ks.refetch(ctx, k, patience)
	if err != nil {
		return k.generation, err
	}
	if newer.digest != k.digest && newer.verify(s) {
		return newer.generation, nil
	}
	return newer.generation, errSignature
}

// verifyUnasked is verify for a token that nobody asked for, issued at a moment
// that it tells itself. Whoever sends made-up ones gets one fetch in refetchEvery,
// which is not taken from those that a login has. Keys that were fetched after the
// token was made are the last word on it. It returns the generation asked. Errors:
// errSignature; [ErrKeysUnavailable], also while newer keys cannot be asked for.
func (ks *keySet) verifyUnasked(ctx context.Context, s *signed, issued time.Time) (uint64, error) {
	k, err := ks.get(ctx)
	if err != nil {
		return 0, err
	}
	if k.verify(s) {
		return k.generation, nil
	}
	ks.mu.Lock()
	now := time.Now()
	if ks.flight == nil && !now.Before(ks.unaskedAt) {
		ks.unaskedAt = now.Add(refetchEvery)
		ks.start()
	}
	flight := ks.flight
	ks.mu.Unlock()
	if flight == nil && !k.fetched.Before(issued) {
		return k.generation, errSignature
	}
	if flight == nil {
		return k.generation, errNewerKeys
	}
	select {
	case <-flight:
	case <-ctx.Done():
		return k.generation, fmt.Errorf("%w: %w", errNewerKeys, notSent(ctx.Err()))
	}
	newer := ks.current.Load()
	switch {
	case newer == k:
		ks.mu.Lock()
		defer ks.mu.Unlock()
		return k.generation, fmt.Errorf("%w: %w", errNewerKeys, ks.failure)
	case newer.verify(s):
		return newer.generation, nil
	}
	return newer.generation, errSignature
}

// get returns the key set, and fetches it when there is none that may be used.
func (ks *keySet) get(ctx context.Context) (*keys, error) {
	k := ks.current.Load()
	now := time.Now()
	if k != nil && now.Sub(k.fetched) < keySetAge {
		return k, nil
	}
	ks.mu.Lock()
	if ks.flight == nil && !now.Before(ks.retryAt) {
		ks.start()
	}
	flight, failure := ks.flight, ks.failure
	ks.mu.Unlock()
	if k != nil && now.Sub(k.fetched) < keySetStale {
		return k, nil
	}
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, notSent(ctx.Err()))
		}
		ks.mu.Lock()
		failure = ks.failure
		ks.mu.Unlock()
		if k := ks.current.Load(); k != nil && failure == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, failure)
}

// refetch returns a key set that was fetched after seen, by another caller or by
// a fetch of its own, for which it waits at most patience. Errors: errUnsettled,
// errNewerKeys.
func (ks *keySet) refetch(ctx context.Context, seen *keys, patience time.Duration) (*keys, error) {
	for {
		ks.mu.Lock()
		if k := ks.current.Load(); k != seen {
			ks.mu.Unlock()
			return k, nil
		}
		wait := time.Until(ks.refetchAt)
		if ks.flight == nil && wait <= 0 {
			ks.wanted = true
			ks.start()
		}
		flight, failure := ks.flight, ks.failure
		ks.mu.Unlock()
		if flight == nil {
			if wait > patience {
				if failure != nil {
					return nil, fmt.Errorf("%w: %w", errNewerKeys, failure)
				}
				return nil, errUnsettled
			}
			patience -= wait
			if err := sleep(ctx, wait); err != nil {
				return nil, fmt.Errorf("%w: %w", errNewerKeys, notSent(err))
			}
			continue
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errNewerKeys, notSent(ctx.Err()))
		}
		if k := ks.current.Load(); k != seen {
			return k, nil
		}
		ks.mu.Lock()
		defer ks.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errNewerKeys, ks.failure)
	}
}

// sleep waits, or gives the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start begins a fetch; the lock is held.
func (ks *keySet) start() {
	ks.flight = make(chan struct{})
	go ks.fetch(ks.flight)
}

// fetch fetches the key set for everybody who waits; it has a context of its own.
// A failure leaves the old key set in place.
func (ks *keySet) fetch(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), ks.client.cfg.Timeout)
	defer cancel()
	list, digest, err := ks.client.fetchKeys(ctx)
	ks.mu.Lock()
	defer ks.mu.Unlock()
	now := time.Now()
	old := ks.current.Load()
	if err == nil {
		k := &keys{list: list, digest: digest, fetched: now, generation: 1}
		if old != nil {
			k.generation = old.generation
			if old.digest != digest {
				k.generation++
			}
		}
		ks.current.Store(k)
		ks.failure, ks.retryAt = nil, time.Time{}
		switch {
		case old == nil || old.digest != digest:
			ks.refetches, ks.refetchAt = 0, time.Time{}
			if ks.wanted {
				ks.refetchAt = now.Add(refetchSoon)
			}
		case ks.wanted:
			ks.refetchAt = now.Add(min(refetchEvery, refetchBackOff<<min(ks.refetches, 10)))
			ks.refetches++
		}
	} else {
		ks.failure = err
		ks.refetchAt = now.Add(refetchBackOff)
		ks.retryAt = now.Add(keySetBackOff)
		if old != nil && now.Sub(old.fetched) < keySetStale {
			ks.retryAt = now.Add(keySetRetry)
		}
		ks.client.log.Warn("fetching the keys of the authorization server failed",
			"issuer", ks.client.cfg.Issuer, "cached", old != nil, "error", err)
	}
	ks.flight, ks.wanted = nil, false
	close(done)
}

func (c *Client) fetchKeys(ctx context.Context) ([]verificationKey, [sha256.Size]byte, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	body, err := c.get(ctx, md.JWKSURI, maxJWKS)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	list, err := parseKeySet(body)
	for i := range list {
		if !c.tenants.some() || list[i].issuer == c.tenants.template() {
			list[i].issuer = ""
		}
	}
	return list, sha256.Sum256(body), err
}

// parseKeySet reads a JWK Set (RFC 7517 section 5). Keys that are malformed, of
// an unknown kind, symmetric, private, weak, or not for signatures are skipped; a
// set without any usable key is an error, so that it does not replace one that has.
// Errors wrap [ErrUnusable].
func parseKeySet(data []byte) ([]verificationKey, error) {
	o, err := parseObject(data, false)
	if err == nil {
		err = o.unique("keys")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: key set: %w", ErrUnusable, err)
	}
	members, ok := o.members["keys"].([]any)
	if !ok || len(members) > maxKeys {
		return nil, fmt.Errorf("%w: key set: no array of at most %d keys", ErrUnusable, maxKeys)
	}
	var list []verificationKey
	for _, m := range members {
		if v, ok := parseKey(m); ok {
			list = append(list, v)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: key set: no usable key", ErrUnusable)
	}
	return list, nil
}

func parseKey(member any) (verificationKey, bool) {
	m, ok := member.(map[string]any)
	if !ok {
		return verificationKey{}, false
	}
	o := &object{members: m}
	use, useErr := o.text("use")
	kid, kidErr := o.text("kid")
	alg, algErr := o.text("alg")
	if useErr != nil || kidErr != nil || algErr != nil || (use != "" && use != "sig") {
		return verificationKey{}, false
	}
	// Not of RFC 7517: where tenants share a key set, some keys are for one of them
	// (Microsoft, "Access tokens", validate the signing key issuer).
	issuer, err := o.text("issuer")
	if err != nil {
		return verificationKey{}, false
	}
	if o.has("key_ops") && !slices.Contains(o.texts("key_ops"), "verify") {
		return verificationKey{}, false
	}
	if alg == "Ed25519" {
		alg = "EdDSA"
	}
	key, err := parsePublicKey(o)
	if err != nil || (alg != "" && !keyFits(alg, key)) {
		return verificationKey{}, false
	}
	return verificationKey{kid: kid, alg: alg, issuer: issuer, key: key}, true
}
