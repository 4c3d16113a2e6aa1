// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"slices"
	"strings"
)

// scope is what is asked for, nil: whatever was granted.
func (a aim) scope() []string {
	switch {
	case a.purpose == nil:
		return nil
	case a.purpose.Exchange != nil:
		return a.purpose.Exchange.Scope
	}
	return a.purpose.Scope
}

// compare tells, once for each purpose, of a token that is another one than was
// asked for, as far as that shows without looking into it: it has more scope (RFC
// 6749 section 3.3 lets a server decide), or is the very one that somebody else has.
// It is used all the same; what a resource server takes is for that to say.
func (m *Manager) compare(to aim, a *accessToken, others *tokens) {
	if to.byDefault() {
		return
	}
	var more []string
	for _, scope := range a.scope {
		if asked := to.scope(); len(asked) > 0 && !slices.Contains(asked, scope) {
			more = append(more, scope)
		}
	}
	if len(more) > 0 && to.told.CompareAndSwap(false, true) {
		m.cfg.Logger.Warn("the authorization server gives more scope for an upstream than was asked for", "for", to.purpose.String(), "more", strings.Join(more, " "))
	}
	same := func(b *accessToken) bool { return b.purpose != to.id && b.access == a.access }
	if (same(others.accessToken) || slices.ContainsFunc(others.narrow, same)) && to.told.CompareAndSwap(false, true) {
		m.cfg.Logger.Warn("the authorization server gives the same access token for different upstreams: it seems to ignore what was asked for", "for", to.purpose.String())
	}
}
