// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// takenFor is how long a logout token is one call's alone. It is longer than
	// what that call may take, so that no second one works beside it, and short,
	// because a call that dies with its process leaves the token untaken.
	takenFor = logoutLimit + 5*time.Second
	// takenLook is how often others look what came of that call.
	takenLook = 100 * time.Millisecond
	// takenMargin is how much longer than it would pass a token is remembered:
	// clocks of instances may differ by as much.
	takenMargin = time.Minute
)

// errTakenBefore says that a logout token has had its effect.
var errTakenBefore = fmt.Errorf("%w: jti came before", oauth.ErrLogoutToken)

// takeLogoutToken makes a logout token this call's, over all instances: whoever
// creates the record of its jti. A token that another call is at work with is
// waited for. What it gives has to go to keepLogoutToken or returnLogoutToken.
// Errors: errTakenBefore when it has had its effect; ErrStoreUnavailable.
func (m *Manager) takeLogoutToken(ctx context.Context, store *openedStore, t *oauth.LogoutToken) (*Record, error) {
	key := Key(sha256.Sum256(bind("logout token", t.Issuer, m.cfg.ClientID, t.ID)))
	for {
		rec := &Record{Key: key, Rev: 1, Expiry: time.Now().Add(takenFor)}
		err := store.Create(ctx, rec)
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, ErrExists) {
			return nil, unavailable(err)
		}
		switch old, err := store.fresh(ctx, key); {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return nil, unavailable(err)
		case old.Rev > 1:
			return nil, errTakenBefore
		}
		if err := sleep(ctx, takenLook); err != nil {
			return nil, unavailable(err)
		}
	}
}

// keepLogoutToken notes that the token has had its effect, for as long as it would
// pass.
func (m *Manager) keepLogoutToken(ctx context.Context, store *openedStore, rec *Record, until time.Time) error {
	next := rec.Next()
	next.Expiry = later(rec.Expiry, until.Add(takenMargin))
	return unavailable(store.Replace(ctx, rec, next))
}

// returnLogoutToken lets the token be taken again: it has had no effect, or not all
// of it, and the authorization server may try again.
func (m *Manager) returnLogoutToken(ctx context.Context, store *openedStore, rec *Record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := store.Delete(ctx, rec.Key); err != nil {
		m.cfg.Logger.Warn("a logout token without effect cannot be taken again at once", "after", takenFor, "error", err)
	}
}
