// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Times of a connection. Together with those of a call they see to it that
// nobody waits longer than a second for a server that is not there.
const (
	dialTimeout = 800 * time.Millisecond // connecting, and signing in again as long
	// A connection on which nothing came for pingAfter is asked, and given up
	// when it does not answer for pongWithin.
	pingAfter  = 500 * time.Millisecond
	pongWithin = 750 * time.Millisecond
	// refreshEvery is how often the layout of a cluster, or the primary that
	// sentinels name, is looked at without a reason.
	refreshEvery = 2 * time.Second

	connectAgain    = 250 * time.Millisecond // after a failure, doubling
	connectAgainMax = 2 * time.Second
	complainEvery   = time.Minute
	// trackAgain is how often a server without local copies is asked for them.
	trackAgain = 5 * time.Minute

	bufferSize = 64 << 10 // of a connection, each way
	ringScale  = 11       // 2^11 commands in a connection's queue: several times MaxCalls
	ownSize    = 128      // connections that WAIT is sent on
)

// link is the client of a server, a group of sentinels or a cluster. It
// reconnects by itself.
type link struct {
	rueidis.Client
	tracking bool // it serves local copies
}

// connect makes the link, however long that takes, and then ends. Calls wait
// for it a bounded time. It is why [Open] succeeds while the server is down.
func (s *Store) connect(tracking bool) {
	defer s.running.Done()
	wait, complained := connectAgain, time.Time{}
	for {
		l, err := s.dial(tracking)
		switch {
		case err == nil:
			if !complained.IsZero() {
				s.log.Info("the session store is connected")
			}
			if !s.linkUp(l) {
				l.Close()
				return
			}
			s.running.Add(1)
			go s.inspect(l)
			if !tracking && !s.o.NoClientCache {
				s.warnUncached()
				s.running.Add(1)
				go s.awaitTracking(l)
			}
			return
		case tracking && cannotTrack(err):
			tracking = false
			continue
		}
		s.linkDown(err)
		if time.Since(complained) > complainEvery {
			s.log.Error("connecting the session store; trying again", "error", err)
			complained = time.Now()
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, connectAgainMax)
		case <-s.stop:
			return
		}
	}
}

// cannotTrack reports a server that serves no local copies. One that is busy, or
// starting, says so later.
func cannotTrack(err error) bool {
	return errors.Is(err, rueidis.ErrNoCache) && !slices.ContainsFunc(passing, func(word string) bool {
		return strings.HasPrefix(err.Error(), word+" ")
	})
}

func (s *Store) warnUncached() {
	s.uncached.Do(func() {
		s.log.Warn("the server does not support client-side caching (CLIENT TRACKING over RESP3), or does not allow it: " +
			"every request reads the session from it")
	})
}

// dial makes a link, once.
func (s *Store) dial(tracking bool) (*link, error) {
	addresses := make([]string, len(s.o.Addresses))
	for i, a := range s.o.Addresses {
		addresses[i] = a.Dial()
	}
	option := rueidis.ClientOption{
		InitAddress:       addresses,
		SelectDB:          s.o.DB,
		ClientName:        "caddy-bff",
		AuthCredentialsFn: s.credentials,
		DialCtxFn:         s.dialContext,
		TLSConfig:         s.o.TLS,
		Dialer:            net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfter},
		ConnWriteTimeout:  pongWithin,
		ClusterOption:     rueidis.ClusterOption{ShardsRefreshInterval: refreshEvery, MaxMovedRedirections: 5},

		// One connection for each server: what is read on it and what is
		// invalidated on it come in the order in which they happened.
		PipelineMultiplex:   -1,
		AlwaysPipelining:    true,
		RingScaleEachConn:   ringScale,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		BlockingPoolSize:    ownSize,
		BlockingPoolCleanup: time.Minute,

		DisableRetry:    true, // we know which commands may be sent twice, and for how long
		DisableCache:    !tracking,
		NewCacheStoreFn: s.copies.newTracker,
	}
	if sentinel := s.o.Sentinel; sentinel != nil {
		option.Sentinel = rueidis.SentinelOption{
			MasterSet:               sentinel.Master,
			Dialer:                  net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfter, Resolver: sentinelResolver},
			TLSConfig:               s.o.TLS,
			TopologyRefreshInterval: refreshEvery,
		}
	}
	client, err := rueidis.NewClient(option)
	switch {
	case err != nil && len(addresses) > 1 && s.o.Sentinel == nil && isNoCluster(err):
		return nil, errors.New("several addresses are given, and the server is not a cluster: " +
			"name the master of the sentinels at these addresses, or give one address")
	case err != nil:
		return nil, err
	case s.o.Cluster && client.Mode() != rueidis.ClientModeCluster:
		client.Close()
		return nil, errors.New("the server is not a cluster")
	}
	return &link{Client: client, tracking: tracking}, nil
}

func isNoCluster(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && reply.Error() == "This instance has cluster support disabled"
}

// sentinelResolver marks the dialer of sentinels. It resolves as any other.
var sentinelResolver = new(net.Resolver)

// sentinelConn is a connection to a sentinel, where other credentials count.
type sentinelConn struct{ net.Conn }

type sentinelAddr struct{ net.Addr }

func (c sentinelConn) RemoteAddr() net.Addr { return sentinelAddr{c.Conn.RemoteAddr()} }

func (s *Store) dialContext(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	network := "tcp"
	for _, a := range s.o.Addresses {
		if a.Socket != "" && a.Socket == address {
			network, config = "unix", nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if config != nil {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, network, address)
	} else {
		conn, err = dialer.DialContext(ctx, network, address)
	}
	if err != nil {
		return nil, err // and not a nil *tls.Conn in an interface
	}
	if dialer.Resolver == sentinelResolver {
		return sentinelConn{conn}, nil
	}
	return conn, nil
}

// credentials are asked for by every new connection.
func (s *Store) credentials(to rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
	username, password := s.o.Username, s.o.Password
	if _, ok := to.Address.(sentinelAddr); ok {
		username, password = s.o.Sentinel.Username, s.o.Sentinel.Password
	}
	if password == nil {
		return rueidis.AuthCredentials{Username: username}, nil
	}
	p, err := password()
	if err != nil {
		return rueidis.AuthCredentials{}, fmt.Errorf("reading the password: %w", err)
	}
	return rueidis.AuthCredentials{Username: username, Password: p.Reveal()}, nil
}

// linkUp publishes the link, unless the store was closed meanwhile.
func (s *Store) linkUp(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.link, s.linkErr = l, nil
	close(s.linked)
	return true
}

func (s *Store) linkDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linkErr = err
}

// current gives the link, and waits for it.
func (s *Store) current(ctx context.Context) (*link, error) {
	s.mu.Lock()
	l, linked := s.link, s.linked
	s.mu.Unlock()
	if l != nil {
		return l, nil
	}
	select {
	case <-linked:
		return s.current(ctx)
	case <-s.stop:
		return nil, errClosed
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.linkErr != nil {
		return nil, fmt.Errorf("not connected: %w", s.linkErr)
	}
	return nil, context.Cause(ctx)
}

// withoutTracking replaces a link whose server does no longer support local
// copies: another one has taken its place, or its access rules have changed.
func (s *Store) withoutTracking(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != l || !l.tracking || s.closed.Load() {
		return
	}
	s.link, s.linked = nil, make(chan struct{})
	s.running.Add(2)
	go s.connect(false)
	go func() {
		defer s.running.Done()
		l.Close()
	}()
}

// awaitTracking looks from time to time whether the server of a link without
// local copies has them now: it, or its access rules, may have been replaced.
func (s *Store) awaitTracking(l *link) {
	defer s.running.Done()
	ticker := time.NewTicker(trackAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.stop:
			return
		}
		if s.track(l) {
			return
		}
	}
}

// track puts a link with local copies in the place of l, if there can be one. It
// reports true when there is nothing more to do for l.
func (s *Store) track(l *link) (done bool) {
	s.mu.Lock()
	current := s.link == l && !s.closed.Load()
	s.mu.Unlock()
	if !current {
		return true
	}
	fresh, err := s.dial(true)
	if err != nil {
		return false
	}
	s.mu.Lock()
	replaced := s.link == l && !s.closed.Load()
	if replaced {
		s.link = fresh
	}
	s.mu.Unlock()
	if !replaced {
		fresh.Close()
		return true
	}
	s.log.Info("the server supports client-side caching now: sessions are read from local copies")
	l.Close() // when the calls on it have ended
	return true
}
