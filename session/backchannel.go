// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

// endTogether is how many sessions one logout ends at a time.
const endTogether = 8

// BackchannelLogout ends the sessions that a logout token names (OpenID Connect
// Back-Channel Logout 1.0 section 2.7), over all instances and all sites of this
// client: that of its sid, or all of its sub. A token that has both ends the
// session of that sid if it is the end user's, and those of the end user for which
// the authorization server gave no sid at all. It reports how many were ended;
// that there was none to end is no error. A login that is under way, whose tokens
// were issued before the logout token, makes no session.
//
// A token has its effect once. What it has begun it goes on with when ctx is
// cancelled. Errors: [oauth.ErrLogoutToken] for a token that does not pass, or that
// came before. Any other says that it should be sent again: [*RateLimitedError],
// [oauth.ErrKeysUnavailable], one that wraps [ErrStoreUnavailable], also when the key
// ring cannot be read any more, or [*KeyMismatchError].
func (m *Manager) BackchannelLogout(ctx context.Context, raw oauth.Secret) (ended int, err error) {
	t, err := m.cfg.Client.VerifyLogoutToken(ctx, raw)
	if err != nil {
		return 0, err
	}
	// Only the authorization server gets as far as this. One that signs everybody
	// out at once is not refused at once: it might not come again.
	wait, ok := m.backchannel.turn(time.Now(), logoutPatience)
	if !ok {
		m.cfg.Observer.LimitReached(LimitLogouts)
		return 0, &RateLimitedError{RetryAfter: max(time.Second, wait)}
	}
	if err := sleep(ctx, wait); err != nil {
		return 0, unavailable(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	store, r, err := m.whereAllAre(ctx)
	if err != nil {
		return 0, err
	}
	taken, err := m.takeLogoutToken(ctx, store, t)
	if err != nil {
		return 0, err
	}
	who := signedOut{issuer: t.Issuer, subject: t.Subject, sid: t.SID}
	err = m.leaveMarks(ctx, store, r, who, t.IssuedAt)
	if err == nil {
		ended, err = m.endNamed(ctx, store, r, who, tokensRevoked)
	}
	if err == nil {
		err = m.keepLogoutToken(ctx, store, taken, t.Until)
	}
	if err != nil {
		m.returnLogoutToken(ctx, store, taken)
	}
	return ended, err
}

// FrontchannelLogout ends the session of this client, at whatever site, that has
// the sid of an issuer (OpenID Connect Front-Channel Logout 1.0), and reports how
// many were ended. Whoever asks has shown nothing but that they know the sid, so
// nothing happens at the authorization server: no token is revoked. A session
// without a sid is never meant. Errors: [*RateLimitedError], [*KeyMismatchError], and
// those that wrap [ErrStoreUnavailable].
func (m *Manager) FrontchannelLogout(ctx context.Context, issuer, sid string) (ended int, err error) {
	if !m.cfg.Client.AcceptsIssuer(issuer) || sid == "" {
		return 0, nil
	}
	if wait, ok := m.frontchannel.turn(time.Now(), 0); !ok {
		m.cfg.Observer.LimitReached(LimitLogouts)
		return 0, &RateLimitedError{RetryAfter: max(time.Second, wait)}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutLimit)
	defer cancel()
	store, r, err := m.whereAllAre(ctx)
	if err != nil {
		return 0, err
	}
	return m.endNamed(ctx, store, r, signedOut{issuer: issuer, sid: sid}, tokensDropped)
}

// whereAllAre gives the store, and the ring by which whatever other instances have
// put there can be found.
func (m *Manager) whereAllAre(ctx context.Context) (*openedStore, *ring, error) {
	store, err := m.cfg.Backend.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := m.cfg.Backend.sameKeys(ctx, store, m.cfg.Ring); err != nil {
		return nil, nil, err
	}
	r, err := m.cfg.Ring.certain(ctx)
	return store, r, err
}

// FrontchannelOrigins are those whose pages may hold the frame of a front-channel
// logout.
func (m *Manager) FrontchannelOrigins(ctx context.Context) []string {
	return m.cfg.Client.EndSessionOrigins(ctx)
}

// endNamed ends the sessions that a logout means. After an error some of them may
// live.
func (m *Manager) endNamed(ctx context.Context, store *openedStore, r *ring, who signedOut, left leftover) (ended int, err error) {
	keys, err := m.named(ctx, store, r, who)
	if err != nil {
		return 0, err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		free = make(chan struct{}, endTogether)
	)
	for _, key := range keys {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			was, err := m.endKey(ctx, store, r, who, key, left)
			mu.Lock()
			defer mu.Unlock()
			if was {
				ended++
			}
			if err != nil && len(errs) < endTogether {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return ended, errors.Join(errs...)
}

// named gives the keys of the records that a logout may mean.
func (m *Manager) named(ctx context.Context, store *openedStore, r *ring, who signedOut) (keys []Key, err error) {
	for kind, value := range map[string]string{"sub": who.subject, "sid": who.sid} {
		if value == "" {
			continue
		}
		found, err := find(ctx, store, r.indexKeys(kind, who.issuer, m.cfg.ClientID, value))
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	slices.SortFunc(keys, func(a, b Key) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(keys), nil
}

// endKey ends the session of key if the logout means it.
func (m *Manager) endKey(ctx context.Context, store *openedStore, r *ring, who signedOut, key Key, left leftover) (bool, error) {
	rec, err := store.Load(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, unavailable(err)
	case rec.Ended != "" || !m.means(r, who, rec):
		return false, nil
	}
	return m.endUnseen(ctx, store, rec, ReasonRevoked, left)
}

// means reports that a logout means the session of rec, which was found by one of
// the logout's values. Only one with both asks for more.
func (m *Manager) means(r *ring, who signedOut, rec *Record) bool {
	if who.subject == "" || who.sid == "" {
		return true
	}
	carries := func(kind, value string) bool {
		return slices.ContainsFunc(r.indexKeys(kind, who.issuer, m.cfg.ClientID, value), func(k IndexKey) bool {
			return slices.Contains(rec.Index, k)
		})
	}
	withoutSID := len(rec.Index) == 1 // see indexOf
	return carries("sub", who.subject) && (withoutSID || carries("sid", who.sid))
}

// find gives the keys of the records that carry any of the index keys.
func find(ctx context.Context, store Store, index []IndexKey) ([]Key, error) {
	var keys []Key
	for _, k := range index {
		found, err := store.Find(ctx, k)
		if err != nil {
			return nil, unavailable(fmt.Errorf("finding sessions: %w", err))
		}
		keys = append(keys, found...)
	}
	return keys, nil
}
