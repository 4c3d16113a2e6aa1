// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/certmagic"

	_ "github.com/caddyserver/caddy/v2/modules/standard" // as in cmd/caddy: the Caddyfile may use what it likes

	_ "github.com/caddy-bff/caddy-bff"
	"github.com/caddy-bff/caddy-bff/demo/journal"
)

// pause is how long a restart leaves the gateway down: about as long as a service manager takes.
const pause = time.Second

// gateway is Caddy with the bff modules, in this process, with the Caddyfile that a user would write.
type gateway struct {
	config  []byte // the Caddyfile as JSON
	journal *journal.Journal

	mu      sync.Mutex // one start or stop at a time
	stopped bool       // for good
}

// newGateway reads the Caddyfile. The variables are those of its {$NAME} places; they are put into the environment of
// this process, as is what makes Caddy keep all that it writes below data.
func newGateway(caddyfile, data string, variables map[string]string, j *journal.Journal) (*gateway, error) {
	variables["XDG_DATA_HOME"] = data
	variables["XDG_CONFIG_HOME"] = data
	for name, value := range variables {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	// Caddy looked at the environment when the program was loaded.
	caddy.DefaultStorage = &certmagic.FileStorage{Path: caddy.AppDataDir()}
	caddy.ConfigAutosavePath = filepath.Join(caddy.AppConfigDir(), "autosave.json")

	source, err := os.ReadFile(caddyfile)
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's Caddyfile: %w", err)
	}
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(source, map[string]any{"filename": caddyfile})
	if err != nil {
		return nil, fmt.Errorf("the gateway's Caddyfile: %w", err)
	}
	if len(warnings) > 0 {
		var list []string
		for _, warning := range warnings {
			list = append(list, warning.String())
		}
		return nil, fmt.Errorf("the gateway's Caddyfile: %s", strings.Join(list, "; "))
	}
	return &gateway{config: config, journal: j}, nil
}

// start starts the gateway. It serves when start returns.
func (g *gateway) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	caddy.BufferedLog() // until the configuration says where the log goes
	if err := caddy.Load(g.config, true); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	return nil
}

// restart stops the gateway, leaves it down for a moment, and starts it again. Should it not start again the error is
// returned; it is then down.
func (g *gateway) restart() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil
	}
	if err := caddy.Stop(); err != nil {
		return fmt.Errorf("stopping the gateway: %w", err)
	}
	g.journal.Append(journal.Event{Kind: journal.GatewayStopped})
	time.Sleep(pause)
	if err := caddy.Load(g.config, true); err != nil {
		return fmt.Errorf("starting the gateway again: %w", err)
	}
	g.journal.Append(journal.Event{Kind: journal.GatewayRestarted})
	return nil
}

// stop stops the gateway for good.
func (g *gateway) stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	return caddy.Stop()
}
