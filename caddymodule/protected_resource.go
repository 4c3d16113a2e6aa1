// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
)

// wellKnownResource is where the metadata of a protected resource is, before the
// path of its identifier (RFC 9728 section 3.1).
const wellKnownResource = "/.well-known/oauth-protected-resource"

// protectedResource is a resource indicator that may name a part of the site.
type protectedResource struct {
	identifier   string
	origin, path string // path: "" for "/", else as it is written
}

// protectedResources picks those of the resource indicators for which there can
// be metadata: whoever gets a token for one of them gets one that is taken here.
func (h *Handler) protectedResources() []protectedResource {
	if !h.judgesBearers() {
		return nil
	}
	var list []protectedResource
	for _, identifier := range h.Resource {
		u, err := url.Parse(identifier)
		if err != nil || u.RawQuery != "" || u.ForceQuery || len(h.AccessToken.Audience) > 0 && !slices.Contains(h.AccessToken.Audience, identifier) {
			continue
		}
		origin, err := parseOrigin(u.Scheme + "://" + u.Host)
		if err != nil {
			continue
		}
		res := protectedResource{identifier: identifier, origin: origin}
		// Of slashes at its end only that of the host is left out (RFC 9728 section 3.1).
		if path := u.EscapedPath(); path != "/" {
			res.path = path
		}
		list = append(list, res)
	}
	return list
}

// resourceMetadata is where the metadata of the resource is that the request is
// for: of several the one that names it most closely. "" for none.
func (hd *handle) resourceMetadata() string {
	best := -1
	for i, res := range hd.bff.resources {
		if res.origin != hd.origin || res.path != "" && !returnurl.Below(hd.url.EscapedPath(), strings.TrimSuffix(res.path, "/")) {
			continue
		}
		if best < 0 || len(res.path) > len(hd.bff.resources[best].path) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return hd.origin + wellKnownResource + hd.bff.resources[best].path
}

// protectedResource gives the resource whose metadata was asked for.
func (hd *handle) protectedResource() (protectedResource, bool) {
	if len(hd.bff.resources) == 0 {
		return protectedResource{}, false
	}
	path, ok := strings.CutPrefix(hd.url.EscapedPath(), wellKnownResource)
	if !ok || hd.siteErr != nil {
		return protectedResource{}, false
	}
	for _, res := range hd.bff.resources {
		if res.origin == hd.origin && res.path == path {
			return res, true
		}
	}
	return protectedResource{}, false
}

// serveProtectedResource serves the metadata of a protected resource (RFC 9728
// section 3.2), for clients without a session.
func (hd *handle) serveProtectedResource(w http.ResponseWriter, r *http.Request, res protectedResource) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return hd.fail(w, r, &httpError{code: codeMethodNotAllowed, allow: "GET, HEAD", err: errors.New("metadata of a protected resource")})
	}
	hd.result = resultEndpoint
	return writeJSON(w, "application/json", http.StatusOK, map[string]any{
		"resource": res.identifier, "authorization_servers": []string{hd.bff.Issuer}, "bearer_methods_supported": []string{"header"},
	})
}
