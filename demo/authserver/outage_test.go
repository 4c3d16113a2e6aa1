// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"errors"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

func TestOutageRefusesConnectionsAndEnds(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn() // leaves a connection that is kept alive
	until := p.TakeDown(300 * time.Millisecond)
	if again := p.TakeDown(time.Hour); !again.Equal(until) {
		t.Errorf("a second outage moved the end from %v to %v", until, again)
	}
	if !p.DownUntil().Equal(until) {
		t.Errorf("down until %v, want %v", p.DownUntil(), until)
	}
	if _, err := p.http.Get(p.Issuer() + "/keys"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("during the outage: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for !p.DownUntil().IsZero() {
		if time.Now().After(deadline) {
			t.Fatal("the outage does not end")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if answer := p.refresh(first.RefreshToken); answer.Status != http.StatusOK {
		t.Fatalf("after the outage: %+v", answer)
	}
	if got := p.kinds(); !slices.Equal(got, []journal.Kind{journal.SignedIn, journal.OutageStarted, journal.OutageEnded, journal.Refreshed}) {
		t.Errorf("journal: %v", got)
	}
}
