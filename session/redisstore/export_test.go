// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore

// Tracking reports whether the store reads from local copies.
func (s *Store) Tracking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil && s.link.tracking
}

// Track asks the server for local copies, as happens from time to time.
func (s *Store) Track() (done bool) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	return s.track(l)
}
