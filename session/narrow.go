// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/sha256"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/oauth"
)

const (
	// maxNarrow is how many access tokens a record holds beside the default one. Of
	// more, and of those that it has no room for, a process keeps the others in its
	// memory, at most maxApart in all and about maxApartBytes.
	maxNarrow     = 16
	maxApart      = 64
	maxApartBytes = 256 << 10
	// keepUnknown is how long one stays whose expiry nobody told: an upstream that
	// is no longer configured asks for none, and nothing else says so.
	keepUnknown = time.Hour
)

// accessToken is one access token and what is known of it. It is immutable, but
// for the verdict.
type accessToken struct {
	access       oauth.Secret
	purpose      purposeID // what it was got for
	accessExpiry time.Time // zero: unknown
	issued       time.Time // when it was asked for
	scope        []string
	// gen grows with every token for the purpose. It is the generation of the
	// record that a token came with where that moved, as it does with every use
	// of the refresh token.
	gen uint64
	// prev is the gen of the token whose place it took, 0 if there was none.
	prev uint64
	// source is a digest of the subject token that it was exchanged for.
	source [sha256.Size]byte

	verdict atomic.Pointer[oauth.Verdict] // nil: not judged yet
	sum     atomic.Pointer[[sha256.Size]byte]
}

// digest is what a token that was exchanged for it has as source.
func (a *accessToken) digest() [sha256.Size]byte {
	sum := a.sum.Load()
	if sum == nil {
		made := sha256.Sum256([]byte(a.access))
		sum = &made
		a.sum.Store(sum)
	}
	return *sum
}

// accessTokenWire is its form in a record, see tokensWire.
type accessTokenWire struct {
	For    []byte   `json:"for,omitempty"`
	Access string   `json:"at"`
	Expiry int64    `json:"exp,omitempty"` // unix milliseconds
	Issued int64    `json:"iat"`
	Scope  []string `json:"scope,omitempty"`
	Gen    uint64   `json:"gen"`
	Prev   uint64   `json:"prev,omitempty"`
	Source []byte   `json:"src,omitempty"`
}

func (a *accessToken) wire() accessTokenWire {
	w := accessTokenWire{
		Access: a.access.Reveal(), Expiry: milliseconds(a.accessExpiry), Issued: milliseconds(a.issued),
		Scope: a.scope, Gen: a.gen, Prev: a.prev,
	}
	if a.purpose != (purposeID{}) {
		w.For = a.purpose[:]
	}
	if a.exchanged() {
		w.Source = a.source[:]
	}
	return w
}

func (w *accessTokenWire) token() *accessToken {
	a := &accessToken{
		access: oauth.Secret(w.Access), accessExpiry: fromMilliseconds(w.Expiry), issued: fromMilliseconds(w.Issued),
		scope: w.Scope, gen: w.Gen, prev: w.Prev,
	}
	copy(a.purpose[:], w.For)
	copy(a.source[:], w.Source)
	return a
}

// expiry is when the access token expires: what the authorization server said
// when it issued it, or what the token itself says, whichever is sooner. Zero
// when nobody said.
func (a *accessToken) expiry() time.Time {
	if a == nil {
		return time.Time{}
	}
	end := a.accessExpiry
	if v := a.verdict.Load(); v != nil && !v.Expiry.IsZero() && (end.IsZero() || v.Expiry.Before(end)) {
		end = v.Expiry
	}
	return end
}

// exchanged reports that it was got by token exchange.
func (a *accessToken) exchanged() bool { return a.source != [sha256.Size]byte{} }

// generation is its gen, 0 where there is no token.
func (a *accessToken) generation() uint64 {
	if a == nil {
		return 0
	}
	return a.gen
}

// worthKeeping reports that the token may still be asked for.
func (a *accessToken) worthKeeping(now time.Time) bool { return now.Before(a.serves()) }

// serves is until when it is taken to serve.
func (a *accessToken) serves() time.Time {
	if end := a.expiry(); !end.IsZero() {
		return end
	}
	return a.issued.Add(keepUnknown)
}

// of gives the access token for an aim; nil if there is none. One that was got
// for anything else is none.
func (t *tokens) of(to aim) *accessToken {
	if to.byDefault() && t.purpose == to.id {
		return t.accessToken
	}
	for _, a := range t.narrow {
		if a.purpose == to.id {
			return a
		}
	}
	return nil
}

// othersEnd is when the last of the access tokens runs out that are for anything else
// than an aim.
func (t *tokens) othersEnd(to aim) (end time.Time) {
	for _, a := range append([]*accessToken{t.accessToken}, t.narrow...) {
		if a.purpose != to.id {
			end = later(end, a.serves())
		}
	}
	return end
}

// placed gives the token whose place one for an aim takes: for the default one that of
// the configuration that got one last, if this one has none.
func (t *tokens) placed(to aim) *accessToken {
	if a := t.of(to); a != nil || !to.byDefault() {
		return a
	}
	return t.accessToken
}

// with gives a copy in which a has its place, and others that are of no more use
// have none.
func (t *tokens) with(to aim, a *accessToken, now time.Time) *tokens {
	c := *t
	c.narrow, c.apart = nil, 0
	if to.byDefault() {
		// Two configurations with different ones may use the session by turns.
		c.accessToken = a
		c.add([]*accessToken{t.accessToken}, now)
	} else {
		c.narrow = append(c.narrow, a)
	}
	c.add(t.narrow, now)
	return &c
}

// add appends those that may still be asked for, have no newer one for their
// purpose there, and find room in memory. Those that were got last come first.
func (t *tokens) add(others []*accessToken, now time.Time) {
	size := 0
	for _, a := range t.narrow {
		size += len(a.access)
	}
	for _, a := range others {
		if len(t.narrow) == maxApart {
			return
		}
		if size+len(a.access) <= maxApartBytes && t.purpose != a.purpose && !t.has(a.purpose) && a.worthKeeping(now) {
			t.narrow = append(t.narrow, a)
			size += len(a.access)
		}
	}
}

func (t *tokens) has(id purposeID) bool {
	return slices.ContainsFunc(t.narrow, func(a *accessToken) bool { return a.purpose == id })
}

// stored are those that are in the record, or go into it: the ones that were got
// last.
func (t *tokens) stored() []*accessToken {
	return t.narrow[:max(0, min(len(t.narrow)-t.apart, maxNarrow))]
}

// fewer gives a copy of which the record holds one less; nil if there is none.
func (t *tokens) fewer() *tokens {
	n := len(t.stored())
	if n == 0 {
		return nil
	}
	c := *t
	c.apart = len(t.narrow) - (n - 1)
	return &c
}

// unstored gives a copy of which the record holds nothing.
func (t *tokens) unstored() *tokens {
	c := *t
	c.apart = len(t.narrow)
	return &c
}

// remember gives a copy that has too what this process knows from an earlier state of
// the record, and the record had no room for. What was got before a refresh on request, or exchanged
// for a token that is gone, has to be got anew.
func (t *tokens) remember(before *tokens, now time.Time) *tokens {
	return t.also(slices.DeleteFunc(slices.Clone(before.narrow), func(a *accessToken) bool {
		if a.exchanged() {
			return !t.isSource(a.source)
		}
		return a.gen <= t.floor
	}), now)
}

// also gives a copy that has others too, which are not in the record.
func (t *tokens) also(others []*accessToken, now time.Time) *tokens {
	if len(others) == 0 {
		return t
	}
	c, stored := *t, len(t.stored())
	c.narrow = slices.Clone(t.narrow)
	c.add(others, now)
	c.apart = len(c.narrow) - stored
	return &c
}

// isSource reports that one of the tokens has a digest.
func (t *tokens) isSource(sum [sha256.Size]byte) bool {
	return t.digest() == sum || slices.ContainsFunc(t.narrow, func(a *accessToken) bool { return a.digest() == sum })
}

// exchangedSince gives a copy that has the access tokens too which were exchanged
// between two states of a record; nil if there are none.
func (t *tokens) exchangedSince(before, after *tokens) *tokens {
	fresh := slices.DeleteFunc(slices.Clone(after.narrow), func(a *accessToken) bool {
		return !a.exchanged() || slices.ContainsFunc(before.narrow, func(b *accessToken) bool { return b.purpose == a.purpose && b.gen >= a.gen })
	})
	if len(fresh) == 0 {
		return nil
	}
	c := *t
	c.narrow, c.apart = fresh, 0
	c.add(t.narrow, time.Now())
	return &c
}

// overflow tells of a record that has no room for all access tokens.
func (m *Manager) overflow(t *tokens) {
	if len(t.narrow) == len(t.stored()) {
		return
	}
	m.cfg.Observer.LimitReached(LimitRecordSize)
	if m.crowded.CompareAndSwap(false, true) {
		m.cfg.Logger.Warn("the access tokens of a session take more room than its record has: each instance keeps the others in memory, and gets them for itself", "upstreams", len(t.narrow), "in_record", len(t.stored()))
	}
}
