// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"encoding/json"
)

// Remembered counts the sessions that the process remembers, and those of them
// that are unsealed.
func (b *Backend) Remembered() (all, unsealed int) {
	for i := range b.live.shards {
		shard := &b.live.shards[i]
		shard.mu.Lock()
		for _, e := range shard.m {
			all++
			if e.opened.Load() != nil {
				unsealed++
			}
		}
		shard.mu.Unlock()
	}
	return all, unsealed
}

// Opened gives the store as the sessions use it.
func (b *Backend) Opened(ctx context.Context) (Store, error) { return b.current(ctx) }

// Forget forgets a session, as happens when there are too many.
func (b *Backend) Forget(s *Session) { b.live.forget(s.key) }

// Narrow counts the access tokens in the session's record beside the default one.
func (s *Session) Narrow(ctx context.Context) int {
	o, _, err := s.m.load(ctx, s)
	if err != nil {
		return -1
	}
	stored, _, err := s.m.unseal(ctx, s, o.rec)
	if err != nil {
		return -1
	}
	return len(stored.narrow)
}

// AsEarlierVersion rewrites the session's record as it was written before there
// was more than one access token.
func (s *Session) AsEarlierVersion(ctx context.Context) error {
	r, err := s.m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	return s.change(ctx, func(o *opened, next *Record) error {
		plain, err := r.open(s.site.tokensPurpose(o.rec, s.ticket.secret[:]), o.rec.Tokens)
		if err != nil {
			return err
		}
		var w map[string]any
		if err := json.Unmarshal(plain, &w); err != nil {
			return err
		}
		for _, name := range []string{"at_gen", "at_prev", "at_for", "narrow"} {
			delete(w, name)
		}
		if plain, err = json.Marshal(w); err != nil {
			return err
		}
		next.Tokens = r.seal(s.site.tokensPurpose(next, s.ticket.secret[:]), plain)
		facts, err := r.open(s.site.factsPurpose(next.Key), o.rec.Facts)
		if err != nil {
			return err
		}
		var f factsWire
		if err := json.Unmarshal(facts, &f); err != nil {
			return err
		}
		sum := sha256.Sum256(next.Tokens)
		f.Digest = sum[:]
		if facts, err = json.Marshal(f); err != nil {
			return err
		}
		next.Facts = r.seal(s.site.factsPurpose(next.Key), facts)
		return nil
	})
}
