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
	var keys []Key
	for _, index := range r.indexKeys("sub", m.cfg.Issuer, s.Subject()) {
		found, err := store.Find(ctx, index)
		if err != nil {
			return err
		}
		keys = append(keys, found...)
	}
	if len(keys) <= m.cfg.MaxPerUser {
		return nil
	}
	var others []*Record
	for _, key := range keys {
		rec, err := store.Load(ctx, key)
		if err != nil || key == s.key || rec.Ended != "" {
			continue
		}
		// Other applications of the same user may share the store.
		if _, err := s.site.unsealFacts(rec, r); err == nil {
			others = append(others, rec)
		}
	}
	slices.SortFunc(others, func(a, b *Record) int { return a.LastSeen.Compare(b.LastSeen) })
	for len(others) >= m.cfg.MaxPerUser {
		m.cfg.Observer.LimitReached(LimitUserSessions)
		if _, err := m.endUnseen(ctx, store, others[0], ReasonLimit); err != nil {
			return err
		}
		others = others[1:]
	}
	return nil
}
