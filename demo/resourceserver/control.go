// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package resourceserver

import (
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

// maxOutage bounds what a request may ask for.
const maxOutage = 2 * time.Minute

// events answers what has happened to this session, and to all of them, since the event with the ID in the query
// parameter after.
func (s *Server) events(w http.ResponseWriter, r *http.Request, t token) {
	after, err := strconv.ParseInt(r.FormValue("after"), 10, 64)
	if err != nil && r.FormValue("after") != "" {
		answer(w, http.StatusBadRequest, map[string]string{"error": "after must be a number"})
		return
	}
	events, last := s.config.Journal.Since(after, journal.Label(t.session))
	answer(w, http.StatusOK, map[string]any{"events": events, "last": last, "time": time.Now(), "down_for": s.downFor()})
}

// revoke revokes the access tokens that this session has had so far.
func (s *Server) revoke(w http.ResponseWriter, _ *http.Request, t token) {
	s.config.AuthorizationServer.RevokeAccessTokens(t.session)
	answer(w, http.StatusOK, map[string]any{"time": time.Now()})
}

// outage takes the authorization server down for the seconds in the query parameter seconds.
func (s *Server) outage(w http.ResponseWriter, r *http.Request, _ token) {
	seconds, err := strconv.Atoi(r.FormValue("seconds"))
	d := time.Duration(seconds) * time.Second
	if err != nil || d <= 0 || d > maxOutage {
		answer(w, http.StatusBadRequest, map[string]string{"error": "seconds must be a number from 1 to 120"})
		return
	}
	s.config.AuthorizationServer.TakeDown(d)
	answer(w, http.StatusOK, map[string]any{"time": time.Now(), "down_for": s.downFor()})
}

// restart restarts the gateway, through which the answer travels: so it goes first.
func (s *Server) restart(w http.ResponseWriter, _ *http.Request, _ token) {
	answer(w, http.StatusAccepted, map[string]any{"time": time.Now()})
	time.AfterFunc(100*time.Millisecond, s.config.Restart)
}

// downFor returns the seconds until the authorization server is back, 0 where it is up.
func (s *Server) downFor() float64 {
	until := s.config.AuthorizationServer.DownUntil()
	if until.IsZero() {
		return 0
	}
	return max(0, time.Until(until).Seconds())
}
