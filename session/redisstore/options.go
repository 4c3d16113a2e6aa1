// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// Defaults of [Options].
const (
	DefaultKeyPrefix   = "bff:"
	DefaultWaitTimeout = 500 * time.Millisecond
	DefaultMaxCopies   = 100_000
	DefaultMaxBytes    = 64 << 20
	DefaultMaxCalls    = 512
)

// Options configure [Open]. All but Addresses have defaults.
type Options struct {
	// Addresses of the server; of the sentinels, where Sentinel is given; or of
	// nodes of a cluster, which tell of the others. One address without Cluster
	// may be either; several without Sentinel are a cluster's.
	Addresses []Address
	// Username and Password sign in, and take precedence over those of an
	// address. Password is called for every new connection, so that a password
	// that changed is used without a restart.
	Username string
	Password func() (session.Secret, error)
	// DB is the database. A cluster has only 0.
	DB int
	// TLS is how to talk TLS. Default: in the clear, or, when an address is a
	// rediss URL, with the system's roots and TLS 1.2 or newer.
	TLS *tls.Config
	// Sentinel finds the server by asking sentinels. Default: not.
	Sentinel *Sentinel
	// Cluster says that the server must be a cluster. Default: as found.
	Cluster bool
	// KeyPrefix begins every key. Stores with different prefixes share a
	// database without seeing each other. Default [DefaultKeyPrefix].
	KeyPrefix string
	// NoClientCache keeps no local copies: each Load asks the server.
	NoClientCache bool
	// WaitReplicas is how many replicas must have acknowledged a write (WAIT)
	// before it counts. A write that they did not acknowledge within
	// WaitTimeout is answered with ErrStoreUnavailable although the primary has
	// it: it may last or not. Default: 0, the primary's word counts.
	WaitReplicas int
	// WaitTimeout bounds the wait for replicas. Default [DefaultWaitTimeout];
	// at most 10 s.
	WaitTimeout time.Duration
	// MaxCopies and MaxBytes bound the local copies, by number and by estimated
	// size. Defaults [DefaultMaxCopies] and [DefaultMaxBytes].
	MaxCopies int
	MaxBytes  int64
	// MaxCalls bounds the calls that are under way to the server at a time.
	// More wait up to half a second and then fail. Default [DefaultMaxCalls].
	MaxCalls int
	// Logger is told of outages and of settings that endanger sessions.
	// Default: nobody.
	Logger *slog.Logger
}

// Sentinel says how to find the primary.
type Sentinel struct {
	// Master is the name under which the sentinels know it.
	Master string
	// Username and Password sign in to the sentinels themselves. Password is
	// called for every new connection. Default: none.
	Username string
	Password func() (session.Secret, error)
}

// Check finds what is wrong with the options, before anything is connected.
func (o Options) Check() error {
	_, err := o.complete()
	return err
}

// complete checks the options and fills in the defaults.
func (o Options) complete() (Options, error) {
	if len(o.Addresses) == 0 {
		return o, errors.New("there is no address")
	}
	first := o.Addresses[0]
	for _, a := range o.Addresses[1:] {
		if a.TLS != first.TLS || a.DB != first.DB || a.Username != first.Username || a.Password != first.Password {
			return o, errors.New("the addresses differ in TLS, database, username or password")
		}
	}
	if o.Username == "" {
		o.Username = first.Username
	}
	if o.Password == nil {
		o.Password = func() (session.Secret, error) { return first.Password, nil }
	}
	switch {
	case first.DB >= 0 && o.DB != 0 && o.DB != first.DB:
		return o, errors.New("an address and the option name different databases")
	case first.DB > 0:
		o.DB = first.DB
	}
	switch {
	case o.DB < 0:
		return o, errors.New("the database is negative")
	case o.DB != 0 && (o.Cluster || o.Sentinel == nil && len(o.Addresses) > 1):
		return o, errors.New("a cluster has only database 0")
	case o.Cluster && o.Sentinel != nil:
		return o, errors.New("it is a cluster or found by sentinels, not both")
	case o.Sentinel != nil && o.Sentinel.Master == "":
		return o, errors.New("the master that the sentinels know has no name")
	case o.WaitReplicas < 0 || o.WaitTimeout < 0 || o.WaitTimeout > 10*time.Second:
		return o, fmt.Errorf("waiting for %d replicas for %s is out of bounds", o.WaitReplicas, o.WaitTimeout)
	}
	for _, a := range o.Addresses {
		if a.Socket != "" && o.TLS != nil {
			return o, errors.New("nobody talks TLS over a socket")
		}
	}
	if o.TLS == nil && first.TLS {
		o.TLS = &tls.Config{}
	}
	if o.TLS != nil {
		o.TLS = o.TLS.Clone()
		o.TLS.MinVersion = max(o.TLS.MinVersion, tls.VersionTLS12)
	}
	if o.KeyPrefix == "" {
		o.KeyPrefix = DefaultKeyPrefix
	}
	if o.WaitTimeout == 0 {
		o.WaitTimeout = DefaultWaitTimeout
	}
	if o.MaxCopies <= 0 {
		o.MaxCopies = DefaultMaxCopies
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxCalls <= 0 {
		o.MaxCalls = DefaultMaxCalls
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
