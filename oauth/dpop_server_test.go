// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

func TestClockAhead(t *testing.T) {
	t.Parallel()
	sent := time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC)
	received := sent.Add(3 * time.Second)
	for name, tc := range map[string]struct {
		date  string
		age   string
		ahead time.Duration
		told  bool
	}{
		"meanwhile":       {"Fri, 02 Jan 2026 03:04:07 GMT", "", 0, true},
		"a little late":   {"Fri, 02 Jan 2026 03:04:10 GMT", "", 0, true},
		"a little early":  {"Fri, 02 Jan 2026 03:04:03 GMT", "", 0, true},
		"ahead":           {"Fri, 02 Jan 2026 03:04:38 GMT", "", 29400 * time.Millisecond, true},
		"behind":          {"Fri, 02 Jan 2026 03:03:35 GMT", "", -29600 * time.Millisecond, true},
		"of a cache":      {"Fri, 02 Jan 2026 03:03:35 GMT", "30", 0, false},
		"of another year": {"Fri, 02 Jan 2027 03:04:05 GMT", "", 0, false},
		"none":            {"", "", 0, false},
		"no date":         {"yesterday", "", 0, false},
	} {
		h := http.Header{}
		h.Set("Date", tc.date)
		if tc.age != "" {
			h.Set("Age", tc.age)
		}
		if ahead, told := clockAhead(h, sent, received); ahead != tc.ahead || told != tc.told {
			t.Errorf("%s: %v %v", name, ahead, told)
		}
	}
}

// DP-05: bounded, and apart.
func TestDPoPServersAreBounded(t *testing.T) {
	t.Parallel()
	var servers dpopServers
	now := time.Now()
	for i := range 3 * maxDPoPServers {
		servers.answered(time.Duration(i).String(), http.Header{"Dpop-Nonce": {time.Duration(i).String()}}, now, now)
	}
	last := time.Duration(3*maxDPoPServers - 1).String()
	if len(servers.known) != maxDPoPServers || servers.of(last).nonce != last || servers.of("other").nonce != "" {
		t.Errorf("%d servers, of the last %q", len(servers.known), servers.of(last).nonce)
	}
}

// DP-05: a client that makes up host names has no other upstream forgotten, and not
// the true name of that one while it is in use.
func TestDPoPServersOfOneAddress(t *testing.T) {
	t.Parallel()
	var servers dpopServers
	now := time.Now()
	tell := func(name string) { servers.answered(name, http.Header{"Dpop-Nonce": {"n"}}, now, now) }
	for _, name := range []string{"http://a host", "https://b host", "https://as.test"} {
		tell(name)
	}
	for i := range 8 * maxDPoPServers {
		tell("http://a host:" + strconv.Itoa(i))
		if servers.of("http://a host").nonce == "" {
			t.Fatalf("its true name is forgotten after %d", i)
		}
	}
	if len(servers.known) != maxDPoPServers || servers.of("https://b host").nonce == "" || servers.of("https://as.test").nonce == "" {
		t.Errorf("%d servers, and others are forgotten", len(servers.known))
	}
}
