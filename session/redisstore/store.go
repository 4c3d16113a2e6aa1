// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Package redisstore keeps session records in Redis, or in a server that speaks
// its protocol, such as Valkey: for several gateway instances, and for sessions
// that outlive the machine. Standalone servers, Sentinel and Cluster work, over
// TCP, TLS and Unix sockets, with ACL users. Redis 6 and newer have what local
// copies need; older ones, from 5 on, work without them.
//
// # Local copies
//
// Load answers from memory while nobody changed the record: the server tells of
// changes (CLIENT TRACKING over RESP3) on the connection that the record was
// read on. A copy counts only while that connection has proved alive within the
// last second, so that a change by another instance is seen at once, and within
// a second when the message about it is lost. (Longer only on the wrong side of
// a split network, where a primary that was replaced still answers: until it
// steps down, or the sentinels are asked again after two seconds.) A connection
// that is made anew starts without copies. Where the server does not support
// this, each Load reads, and a warning says so once. [Store.Fresh] always reads.
//
// Load never goes back in time by the store's own doing: it does not give an
// older revision after a newer one, nor after a write of this store's. When the
// server itself goes back, because a failover lost writes, Load fails for two
// seconds, in which the server may come round, and then gives what there is.
// Fresh gives it at once. A record that is gone is gone.
//
// # Writes
//
// Each change is one script that compares and swaps, and that recognises itself
// when it has to be sent again because the reply was lost. Writes are as durable
// as the server: appendonly and its fsync policy are the operator's. A failover
// may lose the last ones; with WaitReplicas a write that too few replicas have
// is answered with [session.ErrStoreUnavailable] instead of success. It may
// last nevertheless. Whatever the server refuses (READONLY, OOM, MISCONF,
// NOREPLICAS, NOAUTH) is ErrStoreUnavailable as well, and never "not found".
//
// Times to live are relative, by the server's clock: the clocks of instances
// are not compared. A maxmemory-policy other than noeviction lets the server
// drop sessions; the store warns of it when it may look.
//
// # Commands
//
// A user needs GETRANGE, EXISTS, GET, STRLEN, SET, DEL, EVAL, EVALSHA, TIME,
// ZADD, ZCARD, ZRANGE, ZREM, ZREMRANGEBYSCORE, ZREVRANGE, ZSCORE,
// EXPIRE, PING and CLIENT on the keys that begin with the prefix; WAIT where
// replicas are waited for; CLUSTER and ASKING in a cluster; ROLE with sentinels.
// CONFIG GET is used when it is allowed, once. Neither KEYS nor SCAN ever is.
package redisstore

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// Store is a [session.Store] in Redis. Use [Open].
type Store struct {
	o      Options
	keys   keyspace
	log    *slog.Logger
	copies *copies
	gate   gate // calls under way
	own    gate // connections that WAIT is sent on

	uncached sync.Once // the warning
	reads    atomic.Uint32
	closed   atomic.Bool
	stop     chan struct{}
	running  sync.WaitGroup // calls and goroutines

	mu      sync.Mutex
	link    *link         // nil while there is none
	linked  chan struct{} // closed when there is
	linkErr error         // why there is none
}

// Open gives a store that connects in the background: it does not fail because
// the server is down, and tries again until Close. Errors are those of options.
func Open(o Options) (*Store, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, keys: keyspace(o.KeyPrefix), log: o.Logger,
		gate: make(gate, o.MaxCalls), own: make(gate, ownSize),
		stop: make(chan struct{}), linked: make(chan struct{}),
	}
	s.copies = newCopies(s.keys, o.MaxCopies, o.MaxBytes)
	s.warnPlaintext()
	s.running.Add(2)
	go s.connect(!o.NoClientCache)
	go s.heartbeat()
	return s, nil
}

// Create implements [session.Store].
func (s *Store) Create(ctx context.Context, rec *session.Record) error {
	value, err := encode(rec)
	if err != nil {
		return err
	}
	if err := s.enter(ctx, rec, rec.Index, maxMembers); err != nil {
		return err
	}
	return s.write(ctx, rec, createScript, value, session.ErrExists)
}

// Replace implements [session.Store].
func (s *Store) Replace(ctx context.Context, old, next *session.Record) error {
	if next.Key != old.Key || next.Rev != old.Rev+1 {
		return unavailable(errors.New("not the next revision of the record"))
	}
	value, err := encode(next)
	if err != nil {
		return err
	}
	// Entries outlive the record a little, so that only a record that lives
	// longer than before needs them made again.
	added := next.Index
	if !next.Expiry.After(old.Expiry) {
		added = without(next.Index, old.Index)
	}
	if err := s.enter(ctx, next, added, 0); err != nil {
		return err
	}
	err = s.write(ctx, next, replaceScript, value, session.ErrConflict, string(revisionPrefix(old.Key, old.Rev)))
	if err == nil {
		s.leaveLater(without(old.Index, next.Index), next.Key)
	}
	return err
}

// write runs the script of Create or Replace.
func (s *Store) write(ctx context.Context, rec *session.Record, c *script, value []byte, otherwise error, more ...string) error {
	began := s.copies.now()
	var life time.Duration
	args := func() []string {
		life = lifeOf(rec)
		return append([]string{
			string(value), strconv.FormatInt(life.Milliseconds(), 10), strconv.Itoa(maxValueSize),
		}, more...)
	}
	var repeated bool
	reply, err := s.change(ctx, c, s.keys.record(rec.Key), &repeated, args)
	var o int64
	if err == nil {
		if o, err = reply.AsInt64(); err != nil {
			err = unavailable(err)
		}
	}
	if err != nil {
		s.copies.distrust(rec.Key)
		return err
	}
	switch outcome(o) {
	case done:
		s.copies.wrote(rec, value, began, life)
		return nil
	case absent:
		s.copies.distrust(rec.Key)
		return session.ErrNotFound
	case refused:
		s.copies.distrust(rec.Key)
		if repeated && c == replaceScript {
			// It may have been replaced by us first, and then by somebody else.
			return unavailable(errUncertain)
		}
		return otherwise
	}
	return unavailable(errDamaged)
}

// Delete implements [session.Store].
func (s *Store) Delete(ctx context.Context, key session.Key) error {
	var repeated bool
	reply, err := s.change(ctx, deleteScript, s.keys.record(key), &repeated, fixed(strconv.Itoa(maxValueSize)))
	if err != nil {
		s.copies.distrust(key)
		return err
	}
	s.copies.forget(key)
	if value, err := reply.AsBytes(); err == nil {
		// What was no record leaves entries that expire.
		if rec, err := decode(key, value); err == nil {
			s.leaveLater(rec.Index, key)
		}
	}
	return nil
}

// Find implements [session.Store]. It looks at every record that the index
// names, and takes off the index what no longer belongs there.
func (s *Store) Find(ctx context.Context, index session.IndexKey) ([]session.Key, error) {
	found, stale, err := s.find(ctx, index)
	if err != nil {
		return nil, err
	}
	s.leaveLater([]session.IndexKey{index}, stale...)
	return found, nil
}

// Close implements [session.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed.Swap(true) {
		s.mu.Unlock()
		s.running.Wait()
		return nil
	}
	close(s.stop)
	s.mu.Unlock()
	s.copies.wakeWatches()
	s.running.Wait()
	// Nothing can make a link any more.
	if s.link != nil {
		s.link.Close()
	}
	return nil
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Local       = (*Store)(nil)
	_ session.Caching     = (*Store)(nil)
	_ session.Watcher     = (*Store)(nil)
	_ session.Replaceable = (*Store)(nil)
	_ session.Shared      = (*Store)(nil)
)
