// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

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

// Forget forgets a session, as happens when there are too many.
func (b *Backend) Forget(s *Session) { b.live.forget(s.key) }
