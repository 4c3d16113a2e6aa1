// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"testing"
)

func TestFreePortSkipsTakenOnes(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	got, err := freePort(port)
	if err != nil || got <= port {
		t.Fatalf("got %d, %v with %d taken", got, err, port)
	}
	if got, err := freePort(0); err != nil || got == 0 {
		t.Fatalf("any port: %d, %v", got, err)
	}
}

func TestFreePortSkipsWhatIsTakenOnIPv6(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no ::1")
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	if got, err := freePort(port); err != nil || got == port {
		t.Fatalf("got %d, %v with %d taken", got, err, port)
	}
}
