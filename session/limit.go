// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"slices"
	"time"
)

// limitTime bounds what a login spends on the sessions that its user has already.
const limitTime = 5 * time.Second

// limit ends the idlest sessions of the user who has just signed in, so that no
// more than the configured number are left. It bounds what one account costs,
// and no login fails for it.
func (m *Manager) limit(ctx context.Context, s *Session) {
	ctx, cancel := context.WithTimeout(ctx, limitTime)
	defer cancel()
	if err := m.endIdlest(ctx, s); err != nil {
		m.cfg.Logger.Warn("the number of sessions of a user could not be checked", "session", s.key.short(), "error", err)
	}
}

func (m *Manager) endIdlest(ctx context.Context, s *Session) error {
	store, err := m.cfg.Backend.current(ctx)
	if err != nil {
		return err
	}
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	keys, err := find(ctx, store, r.indexKeys("sub", s.seen.Load().facts.issuer, m.cfg.ClientID, s.Subject()))
	if err != nil || len(keys) <= m.cfg.MaxPerUser {
		return err
	}
	var others []*Record
	for _, key := range keys {
		rec, err := store.Load(ctx, key)
		if err != nil || key == s.key || rec.Ended != "" {
			continue
		}
		// Each site of the client counts for itself.
		if _, err := s.site.unsealFacts(rec, r); err == nil {
			others = append(others, rec)
		}
	}
	slices.SortFunc(others, func(a, b *Record) int { return a.LastSeen.Compare(b.LastSeen) })
	for len(others) >= m.cfg.MaxPerUser {
		m.cfg.Observer.LimitReached(LimitUserSessions)
		if _, err := m.endUnseen(ctx, store, others[0], ReasonLimit, tokensKept); err != nil {
			return err
		}
		others = others[1:]
	}
	return nil
}
