// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"crypto/sha256"
	"net/http"
	"strings"
)

// Site is one public origin of an application. Cookies and sealed values of one
// site do not open at another, and a changed issuer or client makes another.
// It is immutable.
type Site struct {
	origin   string
	name     string // of the session cookie
	id       [sha256.Size]byte
	secure   bool
	sameSite http.SameSite
}

// maxSites bounds how many origins one manager remembers; more are computed
// each time (a wildcard site has as many as its visitors make up).
const maxSites = 1024

// Site gives the site of a public origin, "https://app.example.com" say: scheme
// and host in lower case, a port only where it is not the scheme's own.
func (m *Manager) Site(origin string) *Site {
	if s, ok := m.sites.Load(origin); ok {
		return s.(*Site)
	}
	s := m.newSite(origin)
	if m.siteCount.Add(1) <= maxSites {
		m.sites.Store(origin, s)
	}
	return s
}

func (m *Manager) newSite(origin string) *Site {
	s := &Site{origin: origin, name: cookieBase, sameSite: m.cfg.SameSite, secure: strings.HasPrefix(origin, "https://")}
	if m.cfg.Name != "" {
		s.name += "-" + m.cfg.Name
	}
	if s.secure {
		s.name = securePrefix + s.name
	}
	s.id = sha256.Sum256(bind("site", origin, m.cfg.Issuer, m.cfg.ClientID, s.name))
	return s
}

// Origin gives the origin that the site was made for.
func (s *Site) Origin() string { return s.origin }

// CookieName gives the name of the session cookie.
func (s *Site) CookieName() string { return s.name }
