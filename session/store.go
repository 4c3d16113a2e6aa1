// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"fmt"
)

// Errors of a [Store]. "Not found" and "cannot say" are different answers, and
// only the first one ends a session.
var (
	// ErrNotFound: the store is sure that it has no live record of that key.
	ErrNotFound = errors.New("session record not found")
	// ErrConflict: the stored record is no longer the one that was to be
	// replaced. Load it again and decide again.
	ErrConflict = errors.New("session record was changed meanwhile")
	// ErrExists: Create found a live record of that key.
	ErrExists = errors.New("session record exists already")
	// ErrFull: the store takes no new record because a documented bound is
	// reached. Records that it has can still be replaced.
	ErrFull = errors.New("session store is full")
	// ErrTooLarge: the encoded record is larger than [MaxRecordSize].
	ErrTooLarge = errors.New("session record is too large")
	// ErrStoreUnavailable: the store cannot say, or cannot take a change, now.
	// Nobody is logged out for it.
	ErrStoreUnavailable = errors.New("session store is unavailable")
	// ErrWentBack is an ErrStoreUnavailable: the store has an older revision of
	// the record than it gave before, and does not believe it yet. See [Caching].
	ErrWentBack = fmt.Errorf("%w: it shows an older revision than it did before", ErrStoreUnavailable)
)

// A Store keeps session records. [storetest.Run] holds an implementation to
// this contract.
//
// Concurrency: all methods are safe for concurrent use. No method holds a lock
// between calls, and none waits for another record's change to finish.
//
// Absence: a record that was never created, was deleted, or whose Expiry has
// passed is absent: Load and Replace give [ErrNotFound]. A store may keep the
// bytes longer; it never shows them. (A store that counts by a clock of its own
// counts from when the write came to it.)
//
// Visibility: when Create, Replace or Delete returned nil, every later Load by
// any instance that shares the store sees the change, and the change survives
// whatever the store's documentation says it survives. When one of them
// returned any other error than those of this file, the change may or may not
// have happened: the caller loads again to find out.
//
// Immutability: records go in and come out as pointers to values that nobody
// changes any more. A store may keep the very pointer that it was given, and
// gives the same pointer to many callers.
//
// Cancellation: a context that is done makes a call return soon, with an error
// that wraps the context's. The change may still happen.
//
// Failure: whatever is not one of this file's answers is wrapped in
// [ErrStoreUnavailable]: a record that does not decode as well (it is never
// deleted for that), a disk that is full, a connection that is cut.
//
// Size: a record whose encoding is larger than [MaxRecordSize] is refused with
// [ErrTooLarge].
type Store interface {
	// Create adds a record. It fails with ErrExists if a live record of that
	// key is there, and with ErrFull if the store takes no more.
	Create(ctx context.Context, rec *Record) error
	// Load gives the live record of key, or ErrNotFound.
	Load(ctx context.Context, key Key) (*Record, error)
	// Replace puts next in the place of old, if the stored record still has
	// old's Rev; otherwise ErrConflict (or ErrNotFound when it is gone). next
	// has old's Key and old's Rev + 1 (see Record.Next). Indexes follow next.
	Replace(ctx context.Context, old, next *Record) error
	// Delete removes the record of key. Absent is fine.
	Delete(ctx context.Context, key Key) error
	// Find gives the keys of the live records that carry the index key, in no
	// order. None is an empty slice and no error.
	Find(ctx context.Context, index IndexKey) ([]Key, error)
	// Close waits for calls in flight and releases what the store holds.
	// Calls after it fail with ErrStoreUnavailable.
	Close() error
}

// Exclusive is an optional ability of a [Store]: Exclusive reports true when no
// other process can use the store at the same time. Then an attempt of another
// owner in a record can only be one that died with its process.
type Exclusive interface {
	Exclusive() bool
}

// Local is an optional ability of a [Store] that has records in memory: Local
// gives what Load would give without asking anybody, or nil. It does not wait.
type Local interface {
	Local(key Key) *Record
}

// Caching is an optional ability of a [Store] that keeps local copies and learns
// of changes by others with a delay: Fresh is Load past the copies. What Load
// gives may be older than what Fresh gives, but it never goes back in time, and
// it is not what Replace has just refused. Where what is behind the store goes
// back, because a replica took over that had not got the last writes, Load fails
// with ErrWentBack for a while, and Fresh gives what there is.
type Caching interface {
	Fresh(ctx context.Context, key Key) (*Record, error)
}

// Replaceable is an optional ability of a [Store] behind which another server may
// take over that has not got the last writes.
type Replaceable interface {
	// Replaced gives a channel that is closed when another server answers, or the
	// same one on a new connection: nobody can tell one from the other.
	Replaced() <-chan struct{}
}

// Watcher is an optional ability of a [Store]: Watch tells of changes by
// anybody, so that nobody has to ask again and again.
type Watcher interface {
	// Watch gives a channel that is closed when the record of key may have
	// changed after the call, or when the store can no longer tell. It may be
	// closed without a change. stop gives the watch back; it has to be called,
	// once.
	Watch(key Key) (changed <-chan struct{}, stop func())
}

// MaxMembers is how many members a set of a [Shared] store keeps.
const MaxMembers = 64

// Shared is an optional ability of a [Store] that several instances use at the
// same time: they find out whether they belong together, without anybody to decide.
type Shared interface {
	// Join adds members to the set of that name if it is empty or has one of them
	// already, and else changes nothing, in one step: of those who have nothing in
	// common and come to an empty set at the same moment one is let in. To join
	// again is fine, and keeps members in the set: it has the [MaxMembers] that
	// were joined with last, and may forget one that nobody joined with for 30 days
	// (a store forgets none sooner). An empty set stays empty, and a set stays for
	// as long as the store keeps anything.
	//
	// There are 1 to MaxMembers members of 1 to 64 bytes; like the name, they are
	// public. An error says that the store cannot tell; the members may be in the
	// set then.
	Join(ctx context.Context, name string, members []string) (Joined, error)
}

// Joined is the answer to who wants to join a set.
type Joined struct {
	// OK: the members are in the set.
	OK bool
	// Members are those of the set when OK is false.
	Members []string
	// Place is where the set is, in the words of the store, for whoever has to
	// delete it by hand.
	Place string
}
