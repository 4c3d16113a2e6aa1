// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"context"
	"errors"
	"time"
)

// StoreObserver is told of every call of a [Store]. StoreCalled is called in the
// caller's goroutine: it has to return at once, and is safe for concurrent use.
// took is negative where nobody measured it: a record that is in memory comes
// faster than the clock is read.
type StoreObserver interface {
	StoreCalled(op StoreOp, result StoreResult, took time.Duration)
}

// StoreOp is what a store was asked to do.
type StoreOp uint8

// The operations: the methods of [Store], and what is made of them.
const (
	StoreCreate  StoreOp = iota
	StoreLoad            // also of a record that was in memory, see StoreLocal
	StoreReplace         // compare-and-swap
	StoreDelete
	StoreFind
	StoreSpool   // refreshed tokens were written to a file, for the next process
	StoreDeliver // and that one has stored them; StoreConflict: it was too late
	StoreHeal    // a record that had gone back in time was put right
	storeOps
)

// String gives the name of the operation.
func (o StoreOp) String() string {
	return [storeOps]string{"create", "load", "replace", "delete", "find", "spool", "deliver", "heal"}[o]
}

// StoreOps gives all operations.
func StoreOps() []StoreOp { return upTo(storeOps) }

// StoreResult is what became of it.
type StoreResult uint8

// The results. Only StoreUnavailable is a failure of the store.
const (
	StoreOK    StoreResult = iota
	StoreLocal             // as StoreOK, from memory
	StoreNotFound
	StoreConflict
	StoreExists
	StoreFull
	StoreTooLarge
	StoreCanceled // the caller went away
	StoreUnavailable
	storeResults
)

// String gives the name of the result.
func (r StoreResult) String() string {
	return [storeResults]string{"ok", "local", "not_found", "conflict", "exists", "full", "too_large", "canceled", "unavailable"}[r]
}

// StoreResults gives all results.
func StoreResults() []StoreResult { return upTo(storeResults) }

func upTo[T ~uint8](n T) (all []T) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// storeResult is the result that an error of a store means.
func storeResult(err error) StoreResult {
	switch {
	case err == nil:
		return StoreOK
	case errors.Is(err, ErrConflict):
		return StoreConflict
	case errors.Is(err, ErrNotFound):
		return StoreNotFound
	case errors.Is(err, ErrExists):
		return StoreExists
	case errors.Is(err, ErrFull):
		return StoreFull
	case errors.Is(err, ErrTooLarge):
		return StoreTooLarge
	case errors.Is(err, context.Canceled):
		return StoreCanceled
	}
	return StoreUnavailable
}

// unmeasured is the duration of what nobody measured.
const unmeasured time.Duration = -1

// Observe names who is told of the calls of the store. To be called before first
// use. Default: nobody.
func (b *Backend) Observe(o StoreObserver) { b.observer = o }

type unobservedStore struct{}

func (unobservedStore) StoreCalled(StoreOp, StoreResult, time.Duration) {}

func (s *openedStore) called(op StoreOp, began time.Time, err error) {
	s.observer.StoreCalled(op, storeResult(err), time.Since(began))
}

// Create implements [Store].
func (s *openedStore) Create(ctx context.Context, rec *Record) error {
	began := time.Now()
	err := s.Store.Create(ctx, rec)
	s.called(StoreCreate, began, err)
	return err
}

// Load implements [Store]. What is in memory comes without a look at the clock.
func (s *openedStore) Load(ctx context.Context, key Key) (*Record, error) {
	if s.local != nil && ctx.Err() == nil {
		if rec := s.local.Local(key); rec != nil {
			s.observer.StoreCalled(StoreLoad, StoreLocal, unmeasured)
			return rec, nil
		}
	}
	began := time.Now()
	rec, err := s.Store.Load(ctx, key)
	s.called(StoreLoad, began, err)
	return rec, err
}

// Replace implements [Store].
func (s *openedStore) Replace(ctx context.Context, old, next *Record) error {
	began := time.Now()
	err := s.Store.Replace(ctx, old, next)
	s.called(StoreReplace, began, err)
	return err
}

// Delete implements [Store].
func (s *openedStore) Delete(ctx context.Context, key Key) error {
	began := time.Now()
	err := s.Store.Delete(ctx, key)
	s.called(StoreDelete, began, err)
	return err
}

// Find implements [Store].
func (s *openedStore) Find(ctx context.Context, index IndexKey) ([]Key, error) {
	began := time.Now()
	keys, err := s.Store.Find(ctx, index)
	s.called(StoreFind, began, err)
	return keys, err
}
