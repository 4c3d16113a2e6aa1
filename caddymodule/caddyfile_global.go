// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() { httpcaddyfile.RegisterGlobalOption("bff", parseGlobal) }

// parseGlobal reads the global option. Syntax:
//
//	{
//	    bff {
//	        store <name> { }
//	        keys  <secret...>
//	    }
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Err("bff already specified")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "bff", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from the tokens of the global option.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalOptions(d, func(o *options) error {
		switch o.name {
		case "store":
			return a.unmarshalStore(o)
		case "keys":
			if err := o.secrets(&a.Keys); err != nil {
				return err
			}
			if err := checkWrittenKeys(a.Keys); err != nil {
				return o.d.WrapErr(err)
			}
			return nil
		}
		return o.unrecognized()
	})
}

func (a *App) unmarshalStore(o *options) error {
	if err := o.once(); err != nil {
		return err
	}
	if !o.d.NextArg() {
		return o.d.Errf("%s needs a name", o.path)
	}
	name := o.d.Val()
	mod, err := caddyfile.UnmarshalModule(o.d, "bff.stores."+name)
	if err != nil {
		return err
	}
	if _, ok := mod.(StoreModule); !ok {
		return o.d.Errf("module bff.stores.%s is not a session store", name)
	}
	a.StoreRaw = caddyconfig.JSONModuleObject(mod, "store", name, nil)
	return nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*App)(nil)
