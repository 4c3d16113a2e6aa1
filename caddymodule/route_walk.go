// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxInvoke bounds named routes that invoke each other.
const maxInvoke = 16

// routeWalk looks for our handlers in routes that are not loaded yet.
type routeWalk struct {
	server  *caddyhttp.Server
	site    string
	others  int
	invoked int
	found   []*placement
}

// plainRoute is a route as it is written.
type plainRoute struct {
	Group    string            `json:"group"`
	Match    []json.RawMessage `json:"match"`
	Handle   []json.RawMessage `json:"handle"`
	Terminal bool              `json:"terminal"`
}

func (w *routeWalk) route(way []step, i int, first bool, r plainRoute, conds []string) {
	if !first {
		// It runs only where no route before it in the group did.
		conds = append(slices.Clip(conds), fmt.Sprintf("rest of %s, %d", r.Group, i))
	}
	way = append(slices.Clip(way), step{at: "route " + strconv.Itoa(i), group: r.Group, terminal: r.Terminal, conds: conds})
	for j, raw := range r.Handle {
		w.handler(append(slices.Clip(way), step{at: "handler " + strconv.Itoa(j)}), raw)
	}
}

func (w *routeWalk) list(way []step, routes []plainRoute) {
	groups := make(map[string]bool)
	for i, r := range routes {
		var conds []string
		for _, m := range r.Match {
			conds = append(conds, string(m))
		}
		if len(conds) > 1 { // any of them is enough
			b, _ := json.Marshal(r.Match)
			conds = []string{string(b)}
		}
		w.route(way, i, !groups[r.Group], r, conds)
		if r.Group != "" {
			groups[r.Group] = true
		}
	}
}

func (w *routeWalk) handler(way []step, raw json.RawMessage) {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return // Caddy will say so
	}
	var name string
	_ = json.Unmarshal(members["handler"], &name)
	p := &placement{way: way, site: w.site, others: w.others}
	switch name {
	case "bff":
		p.bff = new(Handler)
		_ = json.Unmarshal(raw, p.bff)
		setDefault(&p.bff.BasePath, defaultBasePath)
		w.found = append(w.found, p)
		return
	case "bff_protect":
		p.proxied = members["token"] != nil
		_ = json.Unmarshal(members["accept_bearer"], &p.bearer)
		_ = json.Unmarshal(members["dpop"], &p.dpop)
		w.found = append(w.found, p)
		w.others++
		return
	case "invoke":
		var target string
		_ = json.Unmarshal(members["name"], &target)
		if r := w.server.NamedRoutes[target]; r != nil && w.invoked < maxInvoke {
			w.invoked++
			w.route(append(slices.Clip(way), step{at: "invoke"}), 0, true, plainRoute{Terminal: r.Terminal, Handle: r.HandlersRaw}, matcherText(*r))
			w.invoked--
		}
		return
	case "subroute":
		var routes []plainRoute
		if json.Unmarshal(members["routes"], &routes) == nil {
			w.list(append(slices.Clip(way), step{at: "routes"}), routes)
		}
		delete(members, "routes")
	default:
		w.others++
	}
	for _, member := range slices.Sorted(maps.Keys(members)) {
		var v any
		if json.Unmarshal(members[member], &v) == nil {
			w.nested(way, member, v)
		}
	}
}

// nested finds lists of routes in what belongs to a handler: they run when the
// handler says so, and instead of each other.
func (w *routeWalk) nested(way []step, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range slices.Sorted(maps.Keys(v)) {
			w.nested(way, at+" "+member, v[member])
		}
	case []any:
		if slices.ContainsFunc(v, isRoute) {
			var routes []plainRoute
			if b, err := json.Marshal(v); err == nil && json.Unmarshal(b, &routes) == nil {
				w.list(append(slices.Clip(way), step{at: at, conds: []string{fmt.Sprint(at, " ", len(w.found), " ", w.others)}, instead: true}), routes)
			}
			return
		}
		for i, e := range v {
			w.nested(way, at+" "+strconv.Itoa(i), e)
		}
	}
}

func isRoute(v any) bool {
	m, ok := v.(map[string]any)
	return ok && m["handle"] != nil
}
