// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

const (
	// publishedAfterUse is how long a public key of ours is still shown after its
	// private key was exchanged: for what it signed last, and for other gateway
	// instances that have not got the new file yet.
	publishedAfterUse = time.Hour
	maxRetiredKeys    = 10
)

// publishedKey is a public key of ours as a JWK.
type publishedKey struct {
	kid   string
	jwk   json.RawMessage
	since time.Time // it was shown without a pause; zero: always
}

// publishedKeys are our public keys: those in use, and for a while those that
// were. No two of them have the same key ID. Safe for concurrent use.
type publishedKeys struct {
	mu      sync.Mutex
	current []publishedKey
	retired []retiredKey // oldest first
}

type retiredKey struct {
	publishedKey
	until time.Time
}

// replace puts keys in the place of those in use.
func (p *publishedKeys) replace(keys []publishedKey, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tidy(now)
	for _, old := range p.current {
		p.retired = append(p.retired, retiredKey{old, now.Add(publishedAfterUse)})
	}
	p.current = slices.Clone(keys)
	for i := range p.current {
		k := &p.current[i]
		k.since = now
		for _, old := range p.retired {
			switch {
			case old.kid == k.kid && bytes.Equal(old.jwk, k.jwk):
				k.since = old.since
			case old.kid == k.kid:
				k.since = time.Time{} // the old one cannot be shown beside it, so there is nothing to wait for
			}
		}
	}
	p.tidy(now)
}

// since returns since when a key in use is shown.
func (p *publishedKeys) since(kid string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.current {
		if k.kid == kid {
			return k.since
		}
	}
	return time.Time{}
}

// tidy drops what is no longer shown: what is too old, and what has the key ID of
// another key, of which the newest counts. The lock is held.
func (p *publishedKeys) tidy(now time.Time) {
	seen := map[string]bool{}
	for _, k := range p.current {
		seen[k.kid] = true
	}
	var kept []retiredKey
	for _, k := range slices.Backward(p.retired) {
		if !seen[k.kid] && now.Before(k.until) && len(kept) < maxRetiredKeys {
			kept = append(kept, k)
		}
		seen[k.kid] = true
	}
	slices.Reverse(kept)
	p.retired = kept
}

// jwks returns what is shown, the keys in use first.
func (p *publishedKeys) jwks(now time.Time) []json.RawMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tidy(now)
	var list []json.RawMessage
	for _, k := range p.current {
		list = append(list, k.jwk)
	}
	for _, k := range slices.Backward(p.retired) {
		list = append(list, k.jwk)
	}
	return list
}
