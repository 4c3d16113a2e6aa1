// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"sync"
	"time"
)

const (
	// killedWithin is how long after a refresh for one upstream the refusal of an
	// older token for another one is laid to that refresh.
	killedWithin = time.Minute
	// killedOften, in killedWindow, is no coincidence any more.
	killedOften  = 3
	killedWindow = 10 * time.Minute
)

// killing is what was seen of an authorization server that lets go of a grant's
// older access tokens when its refresh token is used. Nothing but one warning
// comes of it. It is safe for concurrent use.
type killing struct {
	mu    sync.Mutex
	since time.Time
	seen  int
	told  bool
}

// refused notes that a resource server refused t, the current token for an aim.
func (m *Manager) refused(o *opened, to aim, t *accessToken, now time.Time) {
	if to.exchanged() || t.gen >= o.rec.Gen {
		return
	}
	// The last use of the refresh token was for somebody else.
	last := o.tokens.accessToken
	for _, other := range o.tokens.narrow {
		if other.gen == o.rec.Gen && !other.exchanged() {
			last = other
		}
	}
	if last.gen != o.rec.Gen || now.Sub(last.issued) > killedWithin || !m.killing.again(now) {
		return
	}
	m.cfg.Logger.Warn("refreshing for one upstream seems to make the authorization server revoke the access tokens of others, which their resource servers then refuse; "+
		"give these bff_proxy an exchange block in place of resource and scope: a token exchange leaves other tokens alone", "refused", to.purpose.String())
}

// again counts, and reports that it is time for the warning.
func (k *killing) again(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.since) > killedWindow {
		k.since, k.seen = now, 0
	}
	k.seen++
	if k.seen < killedOften || k.told {
		return false
	}
	k.told = true
	return true
}
