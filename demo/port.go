// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"strconv"
)

// attempts bounds the search for a free port.
const attempts = 100

// freePort returns first, or the next port above it that is free on loopback; with 0 any free port. Browsers may take
// localhost for ::1, so a port that somebody else serves there counts as taken.
func freePort(first int) (int, error) {
	for port := first; port < first+attempts && port < 1<<16; port++ {
		got, err := probe(port)
		if err != nil {
			continue
		}
		if first != 0 {
			return port, nil
		}
		return got, nil
	}
	return 0, fmt.Errorf("no free port from %d on", first)
}

// probe listens on the port for a moment.
func probe(port int) (int, error) {
	v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	defer v4.Close()
	port = v4.Addr().(*net.TCPAddr).Port
	if !hasIPv6() {
		return port, nil
	}
	v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	return port, v6.Close()
}

// hasIPv6 reports whether this machine has ::1.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}
