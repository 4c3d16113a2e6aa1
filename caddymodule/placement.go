// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
)

// placement is where a `bff` or `bff_protect` stands among a server's routes.
type placement struct {
	way    []step
	site   string
	others int // handlers that are not `bff` and came before

	bff     *Handler // nil for bff_protect
	proxied bool     // a bff_protect that was written as bff_proxy
	bearer  bool     // a bff_protect that takes tokens of clients without a session
	dpop    bool     // a bff_protect that lets none pass whose token is not bound to a key
}

// step is one of the steps of the way to a handler: into a route of a list, to a
// handler of a route, into a list of a handler.
type step struct {
	at       string // tells it from the other steps that could be taken here
	group    string // of a route
	terminal bool   // of a route: nothing after it runs
	conds    []string
	instead  bool // of a list: it runs instead of the handler's other lists
}

// parting gives the first step at which two ways differ.
func parting(a, b *placement) int {
	k := 0
	for k < len(a.way)-1 && k < len(b.way)-1 && a.way[k].at == b.way[k].at {
		k++
	}
	return k
}

// apart reports whether no request can pass both, a coming before b, as far as
// groups, terminal routes and alternatives tell. Matchers may tell more.
func apart(a, b *placement) bool {
	k := parting(a, b)
	if a.way[k].instead || b.way[k].instead || (a.way[k].group != "" && a.way[k].group == b.way[k].group) {
		return true
	}
	return slices.ContainsFunc(a.way[k:], func(s step) bool { return s.terminal })
}

// within reports whether what lets a request come to b, from where the ways of a
// and b part, lets it come to a as well.
func within(b, a *placement) bool {
	k := parting(a, b)
	var conds []string
	for _, s := range b.way[k:] {
		conds = append(conds, s.conds...)
	}
	for _, s := range a.way[k:] {
		for _, c := range s.conds {
			if !slices.Contains(conds, c) {
				return false
			}
		}
	}
	return true
}

// checkPlacements looks at where all `bff` and `bff_protect` of a server stand.
// It has to be called by each of them when it is provisioned, and does its work
// for the first: then the routes of all are still there as they were written.
func checkPlacements(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	mod, err := ctx.App("bff")
	if err != nil {
		return err
	}
	app := mod.(*App)
	if app.placed[server] {
		return nil
	}
	if app.placed == nil {
		app.placed = make(map[*caddyhttp.Server]bool)
	}
	app.placed[server] = true

	routes := findPlacements(server, server.Routes)
	if err := errors.Join(checkOverlaps(routes), checkSessions(server, routes)); err != nil {
		return err
	}
	warnSharedCookies(app.logger, routes)
	if server.Errors == nil {
		return nil
	}
	inErrors := findPlacements(server, server.Errors.Routes)
	if err := errors.Join(checkOverlaps(inErrors), checkErrorRoutes(routes, inErrors)); err != nil {
		return err
	}
	// What a request was given before it failed is there for the error routes.
	if slices.ContainsFunc(routes, func(p *placement) bool { return p.bff != nil }) {
		return nil
	}
	return checkSessions(server, inErrors)
}

// checkOverlaps refuses a `bff` that always runs together with another whose
// base path overlaps: one serves the endpoints, the other's sessions are asked
// for, and no login ever helps.
func checkOverlaps(all []*placement) error {
	for i, b := range all {
		for _, a := range all[:i] {
			if a.bff == nil || b.bff == nil || apart(a, b) || !overlapping(a.bff.BasePath, b.bff.BasePath) {
				continue
			}
			// Between two that follow each other directly nothing can end a request.
			if within(b, a) || (within(a, b) && a.others == b.others) {
				return fmt.Errorf("%s: two bff handle the same requests: %s, and %s; the first would serve the endpoints of both. "+
					"Keep them apart with handle blocks, or give them base paths of which neither is below the other", b.site, a.bff, b.bff)
			}
		}
	}
	return nil
}

// checkErrorRoutes refuses a `bff` in handle_errors where the site has one with the
// same endpoints: it has run already, and what it found out is there.
func checkErrorRoutes(routes, inErrors []*placement) error {
	for _, b := range inErrors {
		for _, a := range routes {
			if a.bff != nil && b.bff != nil && a.site == b.site && !a.byHost() && !b.byHost() && overlapping(a.bff.BasePath, b.bff.BasePath) {
				return fmt.Errorf("%s: handle_errors has another bff, %s; leave it out, the one of the site is at hand there", b.site, b.bff)
			}
		}
	}
	return nil
}

// overlapping reports base paths that are equal, or one below the other.
func overlapping(a, b string) bool { return returnurl.Below(a, b) || returnurl.Below(b, a) }

// checkSessions refuses a bff_protect before which there is no `bff` for any
// request. Where named routes hold one, only the request can tell.
func checkSessions(server *caddyhttp.Server, all []*placement) error {
	for _, route := range server.NamedRoutes {
		if route != nil && len(findPlacements(server, caddyhttp.RouteList{*route})) > 0 {
			return nil
		}
	}
	for i, b := range all {
		if err := errors.Join(checkBefore(b, all[:i], b.bearer, (*Handler).judgesBearers, errBearerJudgement),
			checkBefore(b, all[:i], b.dpop, (*Handler).bindsTokens, errDPoPOff)); err != nil {
			return err
		}
		if b.bff != nil || slices.ContainsFunc(all[:i], func(a *placement) bool { return a.bff != nil && !apart(a, b) }) {
			continue
		}
		name := "bff_protect"
		if b.proxied {
			name = "bff_proxy"
		}
		return fmt.Errorf("%s: %s has no bff that handles its requests before it; add a bff block to the site", b.site, name)
	}
	return nil
}

// checkBefore refuses a bff_protect with an option for which the `bff` that ran last
// does not do: that takes tokens of clients without a session, say.
func checkBefore(b *placement, before []*placement, given bool, does func(*Handler) bool, why error) error {
	if !given {
		return nil
	}
	for _, a := range slices.Backward(before) {
		switch {
		case a.bff == nil || apart(a, b):
		case !does(a.bff):
			return fmt.Errorf("%s: %w; %s is before it", b.site, why, a.bff)
		case within(b, a):
			return nil
		}
	}
	return nil
}

// warnSharedCookies tells of applications at one site that write the same cookie.
func warnSharedCookies(logger *slog.Logger, all []*placement) {
	for i, b := range all {
		for _, a := range all[:i] {
			if a.bff == nil || b.bff == nil || a.way[0].at != b.way[0].at || a.bff.Name != b.bff.Name ||
				(a.bff.Issuer == b.bff.Issuer && a.bff.ClientID == b.bff.ClientID) || a.byHost() || b.byHost() {
				continue
			}
			logger.Warn("two applications of one site have the same session cookie, so that signing in to one signs out of the other; give each bff a name",
				"site", b.site, "first", a.bff.String(), "second", b.bff.String())
		}
	}
}

// byHost reports whether more than the site's own address decides about the host.
func (p *placement) byHost() bool {
	return slices.ContainsFunc(p.way[1:], func(s step) bool {
		return slices.ContainsFunc(s.conds, func(c string) bool { return strings.Contains(c, `"host"`) || strings.Contains(c, `"expression"`) })
	})
}

// findPlacements walks routes in the order in which requests pass them.
func findPlacements(server *caddyhttp.Server, routes caddyhttp.RouteList) []*placement {
	w := &routeWalk{server: server}
	for i, r := range routes {
		conds := matcherText(r)
		w.site = siteOfRoute(server, r)
		w.route(nil, i, firstOfGroup(routes, i), plainRoute{Group: r.Group, Terminal: r.Terminal, Handle: r.HandlersRaw}, conds)
	}
	return w.found
}

// matcherText writes a route's matchers, which Caddy may have loaded already.
func matcherText(r caddyhttp.Route) []string {
	if len(r.MatcherSetsRaw) > 0 {
		b, _ := json.Marshal(r.MatcherSetsRaw)
		return []string{string(b)}
	}
	if len(r.MatcherSets) > 0 {
		var b strings.Builder
		for _, set := range r.MatcherSets {
			for _, m := range set {
				text, _ := json.Marshal(m)
				fmt.Fprintf(&b, "%T%s ", m, text) //nolint:errcheck // of strings
			}
		}
		return []string{b.String()}
	}
	return nil
}

func firstOfGroup(routes caddyhttp.RouteList, i int) bool {
	return routes[i].Group == "" || !slices.ContainsFunc(routes[:i], func(r caddyhttp.Route) bool { return r.Group == routes[i].Group })
}

// loadingSite names the site that is being provisioned: the hosts of the route that
// Caddy is at, or what its server listens on.
func loadingSite(ctx caddy.Context) string {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return "a route"
	}
	// Caddy clears what it has loaded, so the first one that is still there is it.
	for _, r := range server.Routes {
		if r.HandlersRaw != nil {
			return siteOfRoute(server, r)
		}
	}
	return siteOfRoute(server, caddyhttp.Route{})
}

func siteOfRoute(server *caddyhttp.Server, r caddyhttp.Route) string {
	var hosts []string
	for _, set := range r.MatcherSets {
		for _, m := range set {
			switch m := m.(type) {
			case caddyhttp.MatchHost:
				hosts = append(hosts, m...)
			case *caddyhttp.MatchHost:
				hosts = append(hosts, *m...)
			}
		}
	}
	for _, set := range r.MatcherSetsRaw {
		var some []string
		if json.Unmarshal(set["host"], &some) == nil {
			hosts = append(hosts, some...)
		}
	}
	if len(hosts) == 0 {
		hosts = server.Listen
	}
	return "site " + strings.Join(hosts, ", ")
}
