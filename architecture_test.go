// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddybff

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caddy-bff/caddy-bff"

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// listPackages asks the go command, which knows what really is imported.
func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := make(map[string]goPackage)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// arrows is the house: which package of ours may import which. There are no
// other arrows, and each of these is there.
var arrows = map[string][]string{
	"":                   {"caddymodule"},
	"cmd/caddy":          {""},
	"caddymodule":        {"internal/returnurl", "oauth", "session", "session/filestore", "session/memstore", "session/redisstore", "upstream"},
	"session":            {"oauth"},
	"session/filestore":  {"session"},
	"session/memstore":   {"session"},
	"session/redisstore": {"session"},
	"session/storetest":  {"session"},
	"oauth":              {},
	"upstream":           {},
	"internal/astest":    {},
	// Tests alone: they see the gateway from outside, as a module of a running Caddy.
	"internal/conformance": {},
	"internal/redistest":   {},
	"internal/returnurl":   {},
	"internal/simulation":  {},
	"e2e":                  {},
}

func TestArrows(t *testing.T) {
	t.Parallel()
	all := listPackages(t)
	for name, want := range arrows {
		p, ok := all[path.Join(module, name)]
		if !ok {
			t.Errorf("package %q is gone", name)
			continue
		}
		var got []string
		for _, i := range p.Imports {
			if rest, ok := strings.CutPrefix(i, module); ok {
				got = append(got, strings.TrimPrefix(rest, "/"))
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%q imports %q, the design says %q", name, got, want)
		}
	}
	for name := range maps.Keys(all) {
		if rest, ok := strings.CutPrefix(name, module); ok {
			if _, ok := arrows[strings.TrimPrefix(rest, "/")]; !ok {
				t.Errorf("package %s is not in the design", name)
			}
		}
	}
}

// owners says who alone may know a dependency.
var owners = map[string][]string{
	"github.com/caddyserver/caddy/v2":  {"caddymodule", "cmd/caddy"},
	"github.com/caddyserver/certmagic": {"caddymodule"},
	"github.com/prometheus":            {"caddymodule"},
	"go.uber.org/zap":                  {"caddymodule"},
	"github.com/lestrrat-go/jwx/v2":    {"oauth"},
	"github.com/gorilla/securecookie":  {"session"},
	"go.etcd.io/bbolt":                 {"session/filestore"},
	"github.com/redis/rueidis":         {"session/redisstore"},
}

func TestDependenciesStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	all := listPackages(t)
	for name, p := range all {
		rest, ours := strings.CutPrefix(name, module)
		if !ours {
			continue
		}
		rest = strings.TrimPrefix(rest, "/")
		for _, i := range p.Imports {
			for dependency, where := range owners {
				if (i == dependency || strings.HasPrefix(i, dependency+"/")) && !slices.Contains(where, rest) {
					t.Errorf("%s imports %s, which only %q may", name, i, where)
				}
			}
			if rest == "upstream" && strings.Contains(i, ".") {
				t.Errorf("upstream imports %s: it knows the standard library alone", i)
			}
			// A202: nothing here needs weak randomness, so nothing has it.
			if i == "math/rand" || i == "math/rand/v2" {
				t.Errorf("%s imports %s", name, i)
			}
		}
		for _, d := range p.Deps {
			if (rest == "session" || rest == "oauth" || rest == "upstream") && strings.HasPrefix(d, "github.com/caddyserver/") {
				t.Errorf("%s depends on %s: the core does not know Caddy", name, d)
			}
		}
	}
}
