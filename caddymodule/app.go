// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-bff/caddy-bff/session"
)

func init() { caddy.RegisterModule(App{}) }

// App is what all applications of this server share: where sessions are kept,
// and the keys that seal them. It needs no configuration.
type App struct {
	// StoreRaw is where sessions are kept: a module of the namespace bff.stores.
	// Default: file, in Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=bff.stores inline_key=store"`
	// Keys seal and sign: {env.X} or {file.path}, one or more lines each. The
	// first key seals, all open. At least 32 bytes each. Default: a ring that is
	// made once and kept in Caddy's storage, where it gets a new key every 90 days;
	// that signs nobody out. Instances that share a Redis must have the same; one
	// that has others answers logins with 503 key_mismatch.
	Keys []string `json:"keys,omitempty"`

	backendKey  string
	backend     *session.Backend
	ringKey     string
	ring        *session.KeyRing
	sharedRing  *sharedRing
	storage     certmagic.Storage
	removeStore func()                     // takes storage off the ring
	leave       func()                     // ends the check of the ring
	placed      map[*caddyhttp.Server]bool // checked by checkPlacements
	releases    []func()
	logger      *slog.Logger
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "bff", New: func() caddy.Module { return new(App) }}
}

// Provision checks the configuration and takes references to the store and the
// key ring. It opens neither.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Slogger()
	if logRoot.Load() == nil {
		logTo(a.logger)
	}
	if err := metrics.register(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if a.StoreRaw == nil {
		a.StoreRaw = json.RawMessage(`{"store":"file"}`)
	}
	mod, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading the session store: %w", err)
	}
	store, ok := mod.(StoreModule)
	if !ok {
		return fmt.Errorf("module %T is not a session store", mod)
	}
	if err := a.takeRing(ctx.Storage()); err != nil {
		return err
	}
	id := mod.(caddy.Module).CaddyModule().ID
	a.backendKey = string(id) + " " + store.PoolKey()
	backend, release, err := backends.take(a.backendKey, func() (*session.Backend, error) {
		b := session.NewBackend(func(ctx context.Context) (session.Store, error) {
			return store.OpenStore(ctx, processLog)
		}, processLog)
		b.Observe(metrics.ofStore(id.Name()))
		if _, forgets := store.(*MemoryStore); !forgets {
			b.SpoolTo(spoolDir(a.backendKey))
		}
		return b, nil
	})
	if err != nil {
		return err
	}
	a.backend = backend
	a.releases = append(a.releases, release)
	return nil
}

// spoolDir is where refreshed tokens go that a store did not take before the
// process had to end: sealed as in the store, in Caddy's data directory.
func spoolDir(backendKey string) string {
	sum := sha256.Sum256([]byte(backendKey))
	return filepath.Join(caddy.AppDataDir(), "bff", "spool", hex.EncodeToString(sum[:8]))
}

func (a *App) takeRing(storage certmagic.Storage) error {
	var source ringSource
	if len(a.Keys) > 0 {
		configured, err := newConfiguredRing(a.Keys)
		if err != nil {
			return err
		}
		for i, k := range configured.secrets {
			if k.literal() {
				a.logger.Warn("a session key stands in the configuration; use {env.X} or {file.path}", "key", i+1)
			}
		}
		source = configured
	} else {
		source = &storedRing{first: storage}
		a.storage = storage
	}
	a.ringKey = source.poolKey(storage)
	shared, release, err := keyRings.take(a.ringKey, func() (*sharedRing, error) {
		return &sharedRing{source: source, KeyRing: session.NewKeyRing(source, processLog)}, nil
	})
	if err != nil {
		return err
	}
	a.sharedRing, a.ring = shared, shared.KeyRing
	a.releases = append(a.releases, release)
	return nil
}

// Start opens the store and reads the key ring in the background: requests that
// come sooner wait for it, and a failure is tried again by the next request. Keys
// that the configuration names are read at once: one that was taken off them must
// not open anything any more.
func (a *App) Start() error {
	logTo(a.logger)
	if stored, ok := a.sharedRing.source.(*storedRing); ok && a.storage != nil {
		a.removeStore = stored.use(a.storage)
	}
	if len(a.Keys) > 0 {
		if err := a.ring.Reload(context.Background()); err != nil {
			return err
		}
	}
	a.leave = a.backend.Join(a.ring)
	backend, ring, logger := a.backend, a.ring, a.logger
	if !backend.Retain() {
		return nil
	}
	go func() {
		defer backend.Release()
		if err := ring.Load(context.Background()); err != nil {
			logger.Error("reading the key ring", "error", err)
		}
		// Why it cannot be opened is logged by the backend.
		_ = backend.Open(context.Background())
	}()
	return nil
}

// Stop waits for refreshes in flight when the process exits. On a reload there
// is nothing to stop: everything is shared, or holds references of its own.
func (a *App) Stop() error {
	if caddy.Exiting() {
		drain(a.backend)
	}
	if a.leave != nil {
		a.leave()
		a.leave = nil
	}
	if a.removeStore != nil {
		a.removeStore()
		a.removeStore = nil
	}
	return nil
}

// Cleanup gives back what Provision took.
func (a *App) Cleanup() error {
	for _, release := range a.releases {
		release()
	}
	a.releases = nil
	return nil
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
