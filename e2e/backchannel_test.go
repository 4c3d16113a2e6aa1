// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// HARDENING C6: oidc-provider signs a user out who never asked the gateway, and
// tells it so by back-channel: the session is over before the user is told.
func TestBackchannelLogout(t *testing.T) {
	t.Parallel()
	b := newBench(t, 60*time.Second)
	b.login(t)
	if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Fatal(err)
	}
	end := b.browser.submit(t, b.browser.navigate(t, b.authorizationServer.Issuer+"/session/end"), "logout", "yes")
	if end.status != http.StatusOK || !strings.HasPrefix(end.url.String(), b.authorizationServer.Issuer+"/session/end/success") {
		t.Fatalf("the logout ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
	if s := b.session(t); s.Authenticated || s.Reason != "revoked" {
		t.Errorf("after the logout: %+v", s)
	}
	if got, err := b.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil); err != nil || got.status != http.StatusUnauthorized {
		t.Errorf("after the logout: %v, %v", got, err)
	}
	if stats := b.authorizationServer.stats(t); stats.Told != 1 || len(stats.Untold) != 0 {
		t.Errorf("the gateway took %d logout tokens, and refused: %q", stats.Told, stats.Untold)
	}
	// The next login is a session like any other.
	b.login(t)
	if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Error(err)
	}
	b.check(t)
}

// HARDENING C6, H104, LO-12: three instances on one Redis, each with fifty sessions
// of a user in its memory: one logout token to one of them.
func TestFleetBackchannelLogout(t *testing.T) {
	f := newFleet(t, fleetOptions{instances: 3, as: astest.Options{AccessTokenLifetime: time.Hour}})
	signOut := func(in *instance, token string, want int) {
		t.Helper()
		a, err := astest.SendLogoutToken(t.Context(), f.client, "http://"+in.address+"/bff/backchannel", token)
		if err != nil || a.Status != want {
			t.Fatalf("instance %d answered %d %s, %v; want %d", in.number, a.Status, a.Body, err, want)
		}
	}
	f.as.Configure(func(o *astest.Options) { o.User = "bob" })
	bob := f.instances[0].login()
	f.as.Configure(func(o *astest.Options) { o.User = "alice" })
	alice := make([]visitor, 50)
	for i := range alice {
		alice[i] = f.instances[i%3].login()
	}
	if got := f.burst(len(alice), func(i int) visitor { return alice[i] }); got[http.StatusOK] != 3*len(alice) {
		t.Fatalf("before: %v", got)
	}

	signOut(f.instances[0], f.as.LogoutToken("", f.as.SIDs("alice")[7], nil), http.StatusOK)
	time.Sleep(time.Second)
	for _, in := range f.instances {
		if status, err := in.call(t.Context(), alice[7]); status != http.StatusUnauthorized {
			t.Errorf("instance %d, signed out by sid: %d, %v", in.number, status, err)
		}
		in.mustCall(alice[8])
	}

	token := f.as.LogoutToken("alice", "", nil)
	began := time.Now()
	signOut(f.instances[1], token, http.StatusOK)
	took := time.Since(began)
	if took > 2*time.Second {
		t.Errorf("ending %d sessions took %s", len(alice), took)
	}
	time.Sleep(time.Second - min(took, time.Second)) // all instances know within one
	if got := f.burst(len(alice), func(i int) visitor { return alice[i] }); got[http.StatusUnauthorized] != 3*len(alice) {
		t.Errorf("after: %v", got)
	}
	t.Logf("49 sessions were over in %s", took)
	for _, in := range f.instances {
		in.mustCall(bob)
		signOut(in, token, http.StatusBadRequest) // once, whoever is asked
	}

	// Two instances at once, with one token.
	again := f.instances[2].login()
	token = f.as.LogoutToken("alice", "", nil)
	var wg sync.WaitGroup
	statuses := make([]int, len(f.instances))
	for i, in := range f.instances {
		wg.Go(func() {
			a, err := astest.SendLogoutToken(t.Context(), f.client, "http://"+in.address+"/bff/backchannel", token)
			if err != nil {
				t.Error(err)
			}
			statuses[i] = a.Status
		})
	}
	wg.Wait()
	count := map[int]int{}
	for _, status := range statuses {
		count[status]++
	}
	if count[http.StatusOK] != 1 || count[http.StatusBadRequest] != 2 {
		t.Errorf("answers %v", statuses)
	}
	if got := f.instances[0].settles(again, 2*time.Second); got.status != http.StatusUnauthorized {
		t.Errorf("status %d", got.status)
	}

	// Cut off from Redis, an instance promises nothing; the same token works later.
	last := f.instances[0].login()
	token = f.as.LogoutToken("alice", "", nil)
	f.instances[0].redis.Die()
	signOut(f.instances[0], token, http.StatusServiceUnavailable)
	f.instances[1].mustCall(last)
	signOut(f.instances[1], token, http.StatusOK)
	if got := f.instances[2].settles(last, 2*time.Second); got.status != http.StatusUnauthorized {
		t.Errorf("status %d", got.status)
	}
}
