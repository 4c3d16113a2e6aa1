// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// userInfoLimit bounds the renewal of claims, which goes on when nobody waits.
const userInfoLimit = 15 * time.Second

// describe adds what the UserInfo endpoint says of the end user to the claims of
// the ID token, if that is wanted. What it does not say for sure is not added: then
// there is no login, as rules and applications count on these claims.
func (m *Manager) describe(ctx context.Context, access oauth.Secret, key *oauth.DPoPKey, id *oauth.IDToken) error {
	if !m.cfg.UserInfo {
		return nil
	}
	info, err := m.userInfo(ctx, access, key, id.Subject)
	switch {
	case err == nil:
		id.Claims = mergeClaims(info, id.Claims)
		return nil
	case errors.Is(err, oauth.ErrUnusable), errors.Is(err, oauth.ErrUnsupported):
		return err
	}
	return outage(err)
}

// userInfo asks the UserInfo endpoint with an access token that is bound to a key, or
// to none if that is nil.
func (m *Manager) userInfo(ctx context.Context, access oauth.Secret, key *oauth.DPoPKey, subject string) (map[string]any, error) {
	if key == nil {
		return m.cfg.Client.UserInfo(ctx, access, subject)
	}
	return m.cfg.Client.BoundUserInfo(ctx, access, key, subject)
}

// describedIn gives the names of those claims that the ID token does not have.
func describedIn(claims map[string]any, id oauth.Secret) ([]string, error) {
	signed, err := oauth.IDTokenClaims(id)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if _, ok := signed[name]; !ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// renewClaims asks the UserInfo endpoint anew. If nothing comes of it the claims
// stay as they are: a session that lives is not ended for them.
func (s *Session) renewClaims(ctx context.Context) error {
	if !s.m.cfg.UserInfo {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), userInfoLimit)
	defer cancel()
	o, err := s.current(ctx)
	if err != nil {
		return err
	}
	t := o.tokens.of(s.m.aims.byDefault)
	if t == nil || s.entry().held.Load() != nil {
		return nil // the store has not got these tokens yet
	}
	info, err := s.m.userInfo(ctx, t.access, o.tokens.key, o.facts.subject)
	if err == nil {
		err = s.storeClaims(ctx, info)
	}
	if err != nil && !over(err) {
		s.m.cfg.Logger.Warn("claims could not be renewed at the UserInfo endpoint; those that are there stay", "session", s.key.short(), "error", err)
		return nil
	}
	return err
}

// storeClaims lays claims of the UserInfo endpoint over those of the session, but
// not over those of its ID token, which are signed.
func (s *Session) storeClaims(ctx context.Context, info map[string]any) error {
	r, err := s.m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	return s.change(ctx, func(o *opened, next *Record) error {
		signed, err := oauth.IDTokenClaims(o.tokens.id)
		if err != nil {
			return err
		}
		described := maps.Clone(info)
		maps.DeleteFunc(described, func(name string, _ any) bool { _, ok := signed[name]; return ok })
		fresh, facts := *o.tokens, *o.facts
		fresh.claims = maps.Clone(o.tokens.claims)
		for _, name := range o.tokens.described {
			if _, ok := signed[name]; !ok {
				delete(fresh.claims, name) // it is told again, or was taken away
			}
		}
		fresh.claims, fresh.described = mergeClaims(fresh.claims, described), slices.Sorted(maps.Keys(described))
		return s.site.sealInto(next, r, s.ticket.secret[:], &fresh, &facts)
	})
}
