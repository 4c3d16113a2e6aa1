// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// markLife is how long it is remembered that somebody was signed out. A login
// whose tokens are older than that and which has made no session yet has given up
// long ago, see callbackLimit.
const markLife = 10 * time.Minute

// logoutMark is the trace of a logout by the authorization server: it stops a login
// that is under way, whose session the logout cannot have found, from making one.
//
// A login makes its record and then looks for marks; a logout makes its marks and
// then looks for records. Whichever comes first, one of them sees the other.
type logoutMark struct {
	issued time.Time // of the logout token, by the authorization server's clock
	at     time.Time // when it came, by the clock of a gateway instance
}

// covers reports that the logout means a login whose ID token was issued at a
// moment, by the same clock, in a call that began at another one. Tokens count
// whole seconds: whoever signs in again within the second of the logout is known
// by the order in which things came to the gateway.
func (k logoutMark) covers(issued, began time.Time) bool {
	if a, b := issued.Unix(), k.issued.Unix(); a != b {
		return a < b
	}
	return !began.After(k.at)
}

// with gives the mark that covers what either of two covers.
func (k logoutMark) with(other logoutMark) logoutMark {
	switch a, b := k.issued.Unix(), other.issued.Unix(); {
	case a < b:
		return other
	case a == b:
		k.at = later(k.at, other.at)
	}
	return k
}

// signedOut says whom a logout means, in the words of an issuer; subject or sid may
// be empty.
type signedOut struct{ issuer, subject, sid string }

// marks are the kinds and values of marks that a logout leaves. One that has both
// means a session of the end user that has that sid, or that has none at all.
func (w signedOut) marks() [][]string {
	switch {
	case w.sid == "":
		return [][]string{{"ended sub", w.subject}}
	case w.subject == "":
		return [][]string{{"ended sid", w.sid}}
	}
	return [][]string{{"ended sid of sub", w.sid, w.subject}, {"ended sub without sid", w.subject}}
}

// marksOf are the kinds and values of marks that mean a session.
func (f *facts) marks() [][]string {
	if f.sid == "" {
		return [][]string{{"ended sub", f.subject}, {"ended sub without sid", f.subject}}
	}
	return [][]string{{"ended sub", f.subject}, {"ended sid", f.sid}, {"ended sid of sub", f.sid, f.subject}}
}

// markKeys gives the store keys of a mark of an issuer, under each root of the ring.
// The store cannot read whom they mean.
func (m *Manager) markKeys(r *ring, issuer string, mark []string) []IndexKey {
	return r.indexKeys(mark[0], append([]string{issuer, m.cfg.ClientID}, mark[1:]...)...)
}

// leaveMarks stores the marks of a logout.
func (m *Manager) leaveMarks(ctx context.Context, store *openedStore, r *ring, who signedOut, issued time.Time) error {
	mark := logoutMark{issued: issued, at: time.Now()}
	for _, kind := range who.marks() {
		for _, key := range m.markKeys(r, who.issuer, kind) {
			if err := leaveMark(ctx, store, Key(key), mark); err != nil {
				return unavailable(err)
			}
		}
	}
	return nil
}

func leaveMark(ctx context.Context, store *openedStore, key Key, mark logoutMark) error {
	for {
		rec := mark.record(key)
		err := store.Create(ctx, rec)
		if !errors.Is(err, ErrExists) {
			return err
		}
		old, err := store.fresh(ctx, key)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if before, ok := markOf(old); ok {
			mark = mark.with(before)
		}
		next := old.Next()
		next.Facts, next.Expiry = mark.record(key).Facts, later(old.Expiry, rec.Expiry)
		err = store.Replace(ctx, old, next)
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
}

// record encodes a mark: two moments, which are nobody's secret.
func (k logoutMark) record(key Key) *Record {
	data := binary.BigEndian.AppendUint64(nil, uint64(k.issued.UnixNano()))
	data = binary.BigEndian.AppendUint64(data, uint64(k.at.UnixNano()))
	return &Record{Key: key, Rev: 1, Expiry: time.Now().Add(markLife), Facts: data}
}

func markOf(rec *Record) (logoutMark, bool) {
	if len(rec.Facts) != 16 {
		return logoutMark{}, false
	}
	at := func(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }
	return logoutMark{issued: at(rec.Facts[:8]), at: at(rec.Facts[8:])}, true
}

// endedMeanwhile fails with an EndedError when the authorization server has signed
// out whoever the facts of a session name, after it issued their ID token. Any
// other error says that this cannot be known.
func (m *Manager) endedMeanwhile(ctx context.Context, store *openedStore, f *facts, issued, began time.Time) error {
	r, err := m.cfg.Ring.current(ctx)
	if err != nil {
		return err
	}
	for _, kind := range f.marks() {
		for _, key := range m.markKeys(r, f.issuer, kind) {
			rec, err := store.fresh(ctx, Key(key))
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return unavailable(err)
			}
			if mark, ok := markOf(rec); ok && mark.covers(issued, began) {
				return &EndedError{Reason: ReasonRevoked}
			}
		}
	}
	return nil
}
