// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/filestore"
	"github.com/caddy-bff/caddy-bff/session/memstore"
)

func init() {
	caddy.RegisterModule(FileStore{})
	caddy.RegisterModule(MemoryStore{})
}

// StoreModule is what a module of the namespace bff.stores implements, beside
// what Caddy asks of modules. Its Provision must not open anything: Caddy
// provisions configurations that never run.
type StoreModule interface {
	// PoolKey tells stores apart: configurations whose stores are of the same
	// module and give the same key share one that is open. It must not hold a
	// secret; use a digest.
	PoolKey() string
	// OpenStore opens the store. It is called at first use, again after it
	// failed, and never while a store that it gave is open. It may be called
	// after the module was cleaned up, since the store outlives the
	// configuration. ctx bounds the opening, not the store.
	OpenStore(ctx context.Context, logger *slog.Logger) (session.Store, error)
}

// FileStore keeps sessions in a file. They survive restarts and crashes. One
// process can use the file at a time; several instances need a shared store.
type FileStore struct {
	// Path of the file. Placeholders are replaced once, at load. Default:
	// bff/sessions.db in Caddy's data directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (FileStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "bff.stores.file", New: func() caddy.Module { return new(FileStore) }}
}

// Provision completes the path.
func (s *FileStore) Provision(caddy.Context) error {
	if s.Path == "" {
		s.Path = filepath.Join(caddy.AppDataDir(), "bff", "sessions.db")
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(s.Path, true, true)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	s.Path, err = filepath.Abs(path)
	return err
}

// PoolKey implements [StoreModule].
func (s *FileStore) PoolKey() string { return s.Path }

// OpenStore implements [StoreModule].
func (s *FileStore) OpenStore(ctx context.Context, logger *slog.Logger) (session.Store, error) {
	store, err := filestore.Open(ctx, filestore.Options{Path: s.Path, Logger: logger})
	if err != nil {
		return nil, err // and not a nil *filestore.Store in an interface
	}
	return store, nil
}

// UnmarshalCaddyfile sets up the store. Syntax:
//
//	store file {
//	    path <path>
//	}
func (s *FileStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalOptions(d, func(o *options) error {
		switch o.name {
		case "path":
			return o.text(&s.Path)
		}
		return o.unrecognized()
	})
}

// MemoryStore keeps sessions in memory: they survive a config reload, not a
// restart.
type MemoryStore struct {
	// MaxSessions is how many sessions there may be; then nobody can sign in
	// any more. Default: 100000.
	MaxSessions int64 `json:"max_sessions,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (MemoryStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "bff.stores.memory", New: func() caddy.Module { return new(MemoryStore) }}
}

// Provision checks the bound.
func (s *MemoryStore) Provision(caddy.Context) error {
	if s.MaxSessions < 0 {
		return fmt.Errorf("max_sessions is %d, should be positive", s.MaxSessions)
	}
	return nil
}

// PoolKey implements [StoreModule].
func (s *MemoryStore) PoolKey() string { return strconv.FormatInt(s.MaxSessions, 10) }

// OpenStore implements [StoreModule].
func (s *MemoryStore) OpenStore(context.Context, *slog.Logger) (session.Store, error) {
	return memstore.New(memstore.Options{MaxRecords: s.MaxSessions}), nil
}

// UnmarshalCaddyfile sets up the store. Syntax:
//
//	store memory {
//	    max_sessions <n>
//	}
func (s *MemoryStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalOptions(d, func(o *options) error {
		switch o.name {
		case "max_sessions":
			return o.count(&s.MaxSessions)
		}
		return o.unrecognized()
	})
}

// Interface guards.
var (
	_ StoreModule           = (*FileStore)(nil)
	_ caddy.Provisioner     = (*FileStore)(nil)
	_ caddyfile.Unmarshaler = (*FileStore)(nil)
	_ StoreModule           = (*MemoryStore)(nil)
	_ caddy.Provisioner     = (*MemoryStore)(nil)
	_ caddyfile.Unmarshaler = (*MemoryStore)(nil)
)
