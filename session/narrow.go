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
	// maxNarrow is how many access tokens a record holds beside the default one.
	// Of more, the one that was got first goes.
	maxNarrow = 16
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
	if a.source != ([sha256.Size]byte{}) {
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

// generation is its gen, 0 where there is no token.
func (a *accessToken) generation() uint64 {
	if a == nil {
		return 0
	}
	return a.gen
}

// worthKeeping reports that the token may still be asked for.
func (a *accessToken) worthKeeping(now time.Time) bool {
	end := a.expiry()
	if end.IsZero() {
		end = a.issued.Add(keepUnknown)
	}
	return now.Before(end)
}

// of gives the access token for an aim; nil if there is none. One that was got
// for anything else is none.
func (t *tokens) of(to aim) *accessToken {
	if to.byDefault() {
		if t.purpose == to.id {
			return t.accessToken
		}
		return nil
	}
	for _, a := range t.narrow {
		if a.purpose == to.id {
			return a
		}
	}
	return nil
}

// placed gives the token whose place one for an aim takes: for the default one,
// whatever that was got for.
func (t *tokens) placed(to aim) *accessToken {
	if to.byDefault() {
		return t.accessToken
	}
	return t.of(to)
}

// with gives a copy in which a has its place, and others that are of no more use
// have none.
func (t *tokens) with(to aim, a *accessToken, now time.Time) *tokens {
	c := *t
	c.narrow = nil
	for _, other := range t.narrow {
		if (to.byDefault() || other.purpose != to.id) && other.worthKeeping(now) {
			c.narrow = append(c.narrow, other)
		}
	}
	if to.byDefault() {
		c.accessToken = a
		return &c
	}
	c.narrow = append(c.narrow, a)
	for len(c.narrow) > maxNarrow {
		first := 0
		for i, other := range c.narrow {
			if other.issued.Before(c.narrow[first].issued) {
				first = i
			}
		}
		c.narrow = slices.Delete(c.narrow, first, first+1)
	}
	return &c
}

// exchangedSince gives a copy that has the access tokens too which were exchanged
// between two states of a record; nil if there are none.
func (t *tokens) exchangedSince(before, after *tokens) *tokens {
	c := *t
	c.narrow = slices.Clone(t.narrow)
	added := false
	for _, a := range after.narrow {
		if a.source == ([sha256.Size]byte{}) || slices.ContainsFunc(before.narrow, func(b *accessToken) bool { return b.purpose == a.purpose && b.gen >= a.gen }) {
			continue
		}
		c.narrow = append(slices.DeleteFunc(c.narrow, func(b *accessToken) bool { return b.purpose == a.purpose }), a)
		added = true
	}
	if !added || len(c.narrow) > maxNarrow {
		return nil
	}
	return &c
}

// only gives a copy without the access tokens for other upstreams than the one of
// an aim; nil if there are none. What takes up too much room can be had again.
func (t *tokens) only(to aim) *tokens {
	c := *t
	c.narrow = nil
	if a := t.of(to); a != nil && !to.byDefault() {
		c.narrow = []*accessToken{a}
	}
	if len(c.narrow) == len(t.narrow) {
		return nil
	}
	return &c
}

// without gives a copy that has no access token for the upstream of an aim; nil
// if there is none.
func (t *tokens) without(to aim) *tokens {
	c := *t
	c.narrow = slices.DeleteFunc(slices.Clone(t.narrow), func(a *accessToken) bool { return a.purpose == to.id })
	if to.byDefault() || len(c.narrow) == len(t.narrow) {
		return nil
	}
	return &c
}
