// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAccessTokenLivesItsLifetime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newAccessTokens(15 * time.Second)
		time.Sleep(900 * time.Millisecond) // not on a full second
		token := s.issue(family{id: "f"}, nil)
		if left := time.Until(token.expiry); left < 15*time.Second || left > 16*time.Second {
			t.Fatalf("lives %v", left)
		}
		if token.expiry.Nanosecond() != 0 {
			t.Fatalf("exp is in whole seconds, this one would be cut: %v", token.expiry)
		}
		time.Sleep(15 * time.Second)
		if _, ok := s.live(token.id); !ok {
			t.Fatal("dead too early")
		}
		time.Sleep(time.Second)
		if _, ok := s.live(token.id); ok {
			t.Fatal("alive after its expiry")
		}
		s.issue(family{id: "f"}, nil)
		if len(s.byID) != 1 {
			t.Fatalf("%d tokens are kept, want the live one", len(s.byID))
		}
	})
}

func TestRevokeFamilySparesOthers(t *testing.T) {
	t.Parallel()
	s := newAccessTokens(time.Minute)
	a1, a2, b := s.issue(family{id: "a"}, nil), s.issue(family{id: "a"}, nil), s.issue(family{id: "b"}, nil)
	if n := s.revokeFamily("a"); n != 2 {
		t.Fatalf("%d revoked, want 2", n)
	}
	for id, want := range map[string]bool{a1.id: false, a2.id: false, b.id: true} {
		if _, ok := s.live(id); ok != want {
			t.Errorf("live is %v, want %v", ok, want)
		}
	}
	if _, ok := s.live("never issued"); ok {
		t.Error("a made-up jti is live")
	}
}
