// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"
)

// stolen uses the access token that the resource server took last, without what it is
// bound to.
func (s *scenario) stolen() {
	s.t.Helper()
	all := s.rs.Requests()
	last := all[len(all)-1]
	if !s.set.as.DPoP {
		s.see("access token without the certificate %d", s.use("Bearer "+last.Token, ""))
		return
	}
	s.see("access token as a bearer token %d, with the proof of another request %d", s.use("Bearer "+last.Token, ""), s.use("DPoP "+last.Token, last.Header.Get("DPoP")))
}

// use asks the resource server as a thief would, and gives the status of the answer.
func (s *scenario) use(authorization, proof string) int {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.api, http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", authorization)
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	answer, err := overTLS.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		s.t.Errorf("a stolen access token: %d", answer.StatusCode)
	}
	return answer.StatusCode
}
