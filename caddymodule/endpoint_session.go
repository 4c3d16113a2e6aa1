// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// sessionState is what a browser may know of its session.
type sessionState struct {
	Authenticated bool           `json:"authenticated"`
	User          map[string]any `json:"user"`
	Session       *sessionInfo   `json:"session"`
	Reason        session.Reason `json:"reason,omitempty"`
	LoginURL      string         `json:"login_url"`
	LogoutURL     string         `json:"logout_url,omitempty"`
}

type sessionInfo struct {
	ID                string `json:"id"`
	CreatedAt         string `json:"created_at"` // RFC 3339
	ExpiresIn         int64  `json:"expires_in"` // all in seconds
	IdleExpiresIn     int64  `json:"idle_expires_in"`
	AbsoluteExpiresIn int64  `json:"absolute_expires_in"`
}

// serveSession says whether there is a session, without starting a login,
// without extending the session and without asking the authorization server.
func (hd *handle) serveSession(w http.ResponseWriter, r *http.Request) error {
	s, err := hd.open(r.Context())
	if err != nil {
		reason, sure := noSession(err)
		if !sure {
			return hd.fail(w, r, err)
		}
		addVary(w.Header(), "Cookie")
		return writeJSON(w, "application/json", http.StatusOK, sessionState{Reason: reason, LoginURL: hd.endpointURL("login")})
	}
	return hd.writeSession(w, s)
}

func (hd *handle) writeSession(w http.ResponseWriter, s *session.Session) error {
	addVary(w.Header(), "Cookie")
	return writeJSON(w, "application/json", http.StatusOK, sessionState{
		Authenticated: true,
		User:          hd.bff.visibleClaims(s),
		Session: &sessionInfo{
			ID: s.ID(), CreatedAt: s.CreatedAt().UTC().Format(time.RFC3339),
			ExpiresIn: secondsUntil(s.End()), IdleExpiresIn: secondsUntil(s.IdleEnd()), AbsoluteExpiresIn: secondsUntil(s.LifetimeEnd()),
		},
		LoginURL:  hd.endpointURL("login"),
		LogoutURL: hd.logoutURL(s),
	})
}

// serveExtend is the one way to extend the idle timeout on purpose.
func (hd *handle) serveExtend(w http.ResponseWriter, r *http.Request) error {
	s, err := hd.open(r.Context())
	if err == nil {
		err = s.Extend(r.Context())
	}
	if err != nil {
		return hd.fail(w, r, err)
	}
	return hd.writeSession(w, s)
}

// logoutURL is a plain link that ends this session and no other.
func (hd *handle) logoutURL(s *session.Session) string {
	return hd.endpointURL("logout") + "?sid=" + s.LogoutProof()
}

// protocolClaims are for the gateway alone, also where all claims are shown.
var protocolClaims = []string{"nonce", "at_hash", "c_hash", "s_hash"}

// visibleClaims are those that the configuration lets the browser see.
func (h *Handler) visibleClaims(s *session.Session) map[string]any {
	all := s.Claims()
	out := make(map[string]any, len(all))
	for name, v := range all {
		if h.claims == nil || h.claims[name] {
			out[name] = v
		}
	}
	for _, name := range protocolClaims {
		delete(out, name)
	}
	if h.claims == nil || h.claims["sub"] {
		out["sub"] = s.Subject()
	}
	return out
}

// secondsUntil never says that there is a second left when there is not.
func secondsUntil(t time.Time) int64 { return max(0, int64(time.Until(t)/time.Second)) }
