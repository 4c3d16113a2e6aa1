// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// withNonces is bound with both servers demanding nonces, where tokens are bound by
// DPoP: for the pushed request and at the resource server there is none yet, and the
// token request has the one that came with the answer to the pushed request.
func withNonces(s *scenario) {
	s.t.Helper()
	if !s.set.as.DPoP {
		bound(s)
		return
	}
	s.as.DemandDPoPNonce(true)
	s.rs.DemandNonce(true)
	bound(s)
	s.tries(2, 2)
}

// withoutNonces: nobody demands any, and nothing is sent twice.
func withoutNonces(s *scenario) {
	s.t.Helper()
	bound(s)
	s.tries(1, 1)
}

// otherLetters: only the resource server demands one, by a challenge whose scheme is in
// lower case as always here. Nothing is refreshed for it.
func otherLetters(s *scenario) {
	s.t.Helper()
	s.rs.DemandNonce(false)
	bound(s)
	s.tries(1, 2)
}

// tries checks how often it took to push the request, and to use the access token, and
// that the token request and what follows was right at once.
func (s *scenario) tries(push, use int) {
	s.t.Helper()
	byGateway := 0
	for _, r := range s.rs.Requests() {
		if r.URL == "/api/orders" {
			byGateway++
		}
	}
	if pushed, tokens := s.as.Count(astest.PAR), s.as.Count(astest.Token); pushed != push || tokens != 1 || byGateway != use {
		s.t.Errorf("%d pushed requests, %d token requests, %d to the resource server; want %d, 1, %d", pushed, tokens, byGateway, push, use)
	}
}

// proven looks at the DPoP proofs of all requests of a scenario: each is there where one
// is due, by one key, and is sent once. What they say the servers have checked.
func (s *scenario) proven(unique func(what, value string)) {
	s.t.Helper()
	jkt := ""
	look := func(where string, due bool, header http.Header, p *astest.Proof) {
		s.t.Helper()
		if !due || p == nil {
			if due || header["Dpop"] != nil {
				s.t.Errorf("%s: a DPoP proof is missing, unreadable, or none is due: %q", where, header["Dpop"])
			}
			return
		}
		if jkt == "" {
			jkt = p.JKT
		}
		jti, _ := p.Claims["jti"].(string)
		unique("proof", jti)
		if p.JKT != jkt || len(header["Dpop"]) != 1 {
			s.t.Errorf("%s: %d proofs, or by another key", where, len(header["Dpop"]))
		}
	}
	for _, r := range s.as.Requests("") {
		due := r.Endpoint == astest.PAR || r.Endpoint == astest.Token || r.Endpoint == astest.UserInfo
		look(r.Endpoint, due && s.set.as.DPoP, r.Header, r.Proof())
		if r.ProofError != "" {
			s.t.Errorf("%s: the proof is refused: %s", r.Endpoint, r.ProofError)
		}
	}
	for _, r := range s.rs.Requests() {
		if r.URL == "/api/orders" { // of the gateway: thieves ask for "/"
			look("resource server", s.set.as.DPoP, r.Header, r.Proof())
		}
	}
}
