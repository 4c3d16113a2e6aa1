// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// authenticateUser has Options.User authenticate for an authorization request, as
// Options.ACRs and Options.SingleSignOn say.
func (s *Server) authenticateUser(q url.Values) (sid, acr string, at time.Time) {
	if len(s.opts.ACRs) > 0 {
		acr = s.opts.ACRs[0]
	}
	for _, wanted := range strings.Fields(q.Get("acr_values")) {
		if slices.Contains(s.opts.ACRs, wanted) {
			acr = wanted
			break
		}
	}
	sid, at = random(), time.Now()
	if !s.opts.SingleSignOn {
		return sid, acr, at
	}
	for _, g := range slices.Backward(s.grants.all) {
		if g.subject != s.opts.User {
			continue
		}
		sid = g.sid
		maxAge, err := strconv.Atoi(q.Get("max_age"))
		if tooOld := err == nil && time.Since(g.authTime) > time.Duration(maxAge)*time.Second; !tooOld && g.acr == acr && q.Get("prompt") != "login" {
			at = g.authTime
		}
		break
	}
	return sid, acr, at
}

// Authentication returns how the end user authenticated for an access token that was
// issued, as a resource server learns it (RFC 9470 section 6); zero for any other.
func (s *Server) Authentication(accessToken string) (acr string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grants.access[accessToken]; t != nil {
		return t.grant.acr, t.grant.authTime
	}
	return "", time.Time{}
}
