// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// maxDPoPServers bounds how many servers of a kind are remembered.
	maxDPoPServers = 256
	// maxDPoPNonce bounds the length of a nonce.
	maxDPoPNonce = 1 << 10
	// clockTolerance is a clock difference that proofs are good in spite of.
	clockTolerance = 2 * time.Second
	// maxClockDifference is the largest one that is believed.
	maxClockDifference = 5 * time.Minute
)

// dpopServer is what a server has told that takes proofs.
type dpopServer struct {
	nonce string        // the newest (RFC 9449 section 8); "" for none
	ahead time.Duration // of its clock before ours; 0 where that does not matter
	used  uint64        // grows with each use of any
}

// dpopServers remembers servers of one kind by a name of theirs: authorization
// servers, or resource servers. Neither gets the nonces of the other, even where
// one origin is both (RFC 9449 section 9). Names with the same first word are of one
// address. Safe for concurrent use.
type dpopServers struct {
	mu    sync.Mutex
	known map[string]dpopServer
	uses  uint64
}

// of returns what is known of a server.
func (s *dpopServers) of(name string) dpopServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	server, there := s.known[name]
	if there {
		s.uses++
		server.used = s.uses
		s.known[name] = server
	}
	return server
}

// answered takes what the header of an answer says, for a request that was sent at
// one moment, and answered at another.
func (s *dpopServers) answered(name string, h http.Header, sent, received time.Time) {
	nonce := dpopNonce(h)
	ahead, told := clockAhead(h, sent, received)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.known[name]
	now := before
	if nonce != "" {
		now.nonce = nonce
	}
	if told {
		now.ahead = ahead
	}
	if now == before {
		return
	}
	if _, there := s.known[name]; !there && len(s.known) >= maxDPoPServers {
		s.forget()
	}
	if s.known == nil {
		s.known = map[string]dpopServer{}
	}
	s.uses++
	now.used = s.uses
	s.known[name] = now
}

// forget makes room: it lets go of the one that was used least recently at the
// address with the most names. A client that makes up host names must not have
// others forgotten.
func (s *dpopServers) forget() {
	names, most := map[string]int{}, 0
	for name := range s.known {
		address := addressOf(name)
		names[address]++
		most = max(most, names[address])
	}
	oldest, used := "", uint64(0)
	for name, server := range s.known {
		if names[addressOf(name)] == most && (oldest == "" || server.used < used) {
			oldest, used = name, server.used
		}
	}
	delete(s.known, oldest)
}

// addressOf is the first word of a server's name.
func addressOf(name string) string {
	address, _, _ := strings.Cut(name, " ")
	return address
}

// dpopNonce returns the nonce of an answer; "" for none, for several, and for one
// that is none (RFC 9449 section 8.1).
func dpopNonce(h http.Header) string {
	fields := h["Dpop-Nonce"]
	if len(fields) != 1 || errorText(fields[0], maxDPoPNonce) == "" || !visible(fields[0], false) {
		return ""
	}
	return fields[0]
}

// clockAhead returns how far the clock of a server is ahead of ours, by the Date of
// an answer (RFC 9110 section 6.6.1), where it is worth mentioning. What a cache
// has kept says nothing of the time.
func clockAhead(h http.Header, sent, received time.Time) (ahead time.Duration, told bool) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil || h.Get("Age") != "" {
		return 0, false
	}
	// The answer was made within that second, and while we waited for it.
	switch {
	case date.After(received.Add(clockTolerance)):
		ahead = date.Sub(received)
	case date.Add(time.Second).Before(sent.Add(-clockTolerance)):
		ahead = date.Add(time.Second).Sub(sent)
	}
	if ahead.Abs() > maxClockDifference {
		return 0, false
	}
	return ahead, true
}

// origin returns the origin of a URL as it is written there (RFC 6454 section 4).
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }
