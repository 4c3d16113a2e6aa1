// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// PX-13: a token for one upstream sent to another one: whatever happens to the
// session, at any moment, each upstream gets tokens of its own audience, its own
// user, and no others.
func TestCrossSending(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crossSending(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func crossSending(t *testing.T, r *rand.Rand) {
	a := newBench(t, astest.Options{AccessTokenLifetime: time.Minute, Latency: map[string]time.Duration{astest.Token: 200 * time.Millisecond}})
	a.store.exclusive = false
	instances := []*bench{a, newInstance(t, a.as, a.store)}
	purposes := []*session.Purpose{nil, orders, stock, swapped,
		{Exchange: &session.Exchange{Audience: []string{"orders"}, Scope: []string{"openid"}}},
		{Resource: []string{ordersURI}, Scope: []string{"openid"}}, ordersOnly}
	br := browser{}
	a.login(br)
	var mu sync.Mutex
	sent := map[string]int{} // the purpose that a token was sent for
	send := func(b *bench, i int, refused bool) {
		s, err := b.open(br)
		if err != nil {
			t.Error(err)
			return
		}
		source := s.For(purposes[i])
		tok, err := source.Token(t.Context())
		if err != nil {
			t.Errorf("%s: %v", purposes[i], err)
			return
		}
		check := func(tok string) {
			mu.Lock()
			defer mu.Unlock()
			if was, ok := sent[tok]; ok && was != i {
				t.Errorf("a token for %s was sent for %s", purposes[was], purposes[i])
			}
			sent[tok] = i
			if want := b.wantAudience(purposes[i]); !slices.Equal(b.as.Audience(tok), want) {
				t.Errorf("%s was sent a token for %q", purposes[i], b.as.Audience(tok))
			}
		}
		check(tok)
		if refused {
			if fresh, err := source.Refresh(t.Context(), tok); err == nil {
				check(fresh)
				source.Accepted(fresh)
			}
		}
	}
	for range 40 {
		switch r.IntN(12) {
		case 0: // a reload, with the purposes in another order of no meaning
			b := instances[r.IntN(2)]
			b.m = b.manager()
			b.site = b.m.Site(origin)
		case 1: // signing in again
			a.login(br)
		case 2:
			if s, err := a.open(br); err == nil {
				_, _ = s.ForceRefresh(t.Context())
			}
		}
		var order [5]int
		for i := range order {
			order[i] = r.IntN(len(purposes))
		}
		refused := r.IntN(20) // the one of that number, if there is one
		together(len(order), func(i int) { send(instances[i%2], order[i], i == refused) })
		time.Sleep(time.Duration(r.IntN(40)) * time.Second)
	}
	if len(sent) < 40 || a.as.ReuseDetections() != 0 {
		t.Errorf("%d tokens, %d reuses", len(sent), a.as.ReuseDetections())
	}
}

func (b *bench) wantAudience(p *session.Purpose) []string {
	switch {
	case p == nil || p.Resource == nil && p.Exchange == nil:
		return []string{apiURI}
	case p.Exchange != nil:
		return p.Exchange.Audience
	}
	return p.Resource
}

// A reload changes what an upstream is sent: nothing that was got for another
// purpose goes there, not even for one that differs in little.
func TestCrossSendingAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		b.login(br)
		seen := map[string]string{b.mustToken(br): "default"}
		for _, p := range []*session.Purpose{
			{Resource: []string{ordersURI}},
			{Resource: []string{ordersURI}, Scope: []string{"openid"}},
			{Resource: []string{ordersURI}, Scope: []string{"openid", "profile"}},
			{Resource: []string{ordersURI + "/"}},
			{Scope: []string{"openid"}},
			{Scope: []string{"openid", "profile"}},
			{Exchange: &session.Exchange{Resource: []string{ordersURI}}},
			{Exchange: &session.Exchange{Audience: []string{ordersURI}}},
			{Exchange: &session.Exchange{Scope: []string{"openid"}}},
			{Exchange: &session.Exchange{Resource: []string{ordersURI}, Scope: []string{"openid"}}},
			{Exchange: &session.Exchange{Resource: []string{ordersURI}, RequestedTokenType: oauth.TokenTypeJWT}},
		} {
			tok, err := b.tokenFor(br, p)
			if err != nil {
				t.Fatal(err)
			}
			if was := seen[tok]; was != "" {
				t.Errorf("the token of %s is sent for %s", was, p)
			}
			seen[tok] = p.String()
			again := *p
			again.Scope = slices.Clone(p.Scope)
			slices.Reverse(again.Scope)
			if same, err := b.tokenFor(br, &again); err != nil || same != tok {
				t.Errorf("%s: another token for the same: %v", p, err)
			}
		}
	})
}

// defaultResource is a configuration with resource indicators for the default token.
func defaultResource(t *testing.T, as *astest.Server, resource ...string) func(*session.Config) {
	client, err := oauth.New(oauth.Config{
		Issuer: as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic", Resource: resource,
		ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: as.HTTPClient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *session.Config) { c.Client = client }
}

// Instances with different resources for the default token, as during a rollout: each
// has its own, and what was exchanged for that, without getting them by turns.
func TestDifferentDefaultResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute}, patient)
		first.store.exclusive = false
		instances, want := []*bench{first}, []string{apiURI}
		for _, resource := range []string{ordersURI, stockURI} {
			instances = append(instances, newInstance(t, first.as, first.store, patient, defaultResource(t, first.as, resource)))
			want = append(want, resource)
		}
		br := browser{}
		first.login(br)
		for range 1200 {
			sent := map[string]bool{}
			for i, b := range instances {
				tok := b.mustToken(br)
				if got := b.as.Audience(tok); !slices.Equal(got, []string{want[i]}) {
					t.Fatalf("a token for %q, want %q", got, want[i])
				}
				sent[tok], sent[b.mustTokenFor(br, swapped)] = true, true
			}
			if len(sent) != 6 {
				t.Fatalf("%d different tokens", len(sent))
			}
			time.Sleep(time.Second)
		}
		// In twenty minutes each needs about two of each kind, and an exchange for each default one.
		if n, x := first.as.Refreshes(), len(first.as.ExchangeRequests()); n < 5 || n > 12 || x < 6 || x > 24 {
			t.Errorf("%d refreshes, %d exchanges", n, x)
		}
		first.refreshes(first.as.Refreshes())
	})
}

// A reload changes the resource of the default token: the one that is there was not
// got for it.
func TestCrossSendingAfterTheDefaultResourceChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		reload := func(resource ...string) {
			b.m = b.manager(defaultResource(t, b.as, resource...))
			b.site = b.m.Site(origin)
		}
		br := browser{}
		b.login(br)
		b.mustToken(br)
		narrow, err := b.tokenFor(br, ordersOnly)
		if err != nil {
			t.Fatal(err)
		}
		for i, resource := range [][]string{{ordersURI}, {ordersURI, stockURI}, {stockURI}, {ordersURI}, nil} {
			reload(resource...)
			want := resource
			if want == nil {
				want = []string{apiURI}
			}
			if got := b.as.Audience(b.mustToken(br)); !slices.Equal(got, want) {
				t.Errorf("%d: a token for %q, want %q", i, got, want)
			}
			if tok, err := b.tokenFor(br, ordersOnly); err != nil || !slices.Equal(b.as.Audience(tok), want) || resource != nil && tok == narrow {
				t.Errorf("%d: less scope: a token for %q, %v", i, b.as.Audience(tok), err)
			}
			b.mustToken(br)
		}
		b.refreshes(1 + 3 + 3) // those of the first two are there when they come again
		// And at login.
		reload(stockURI, ordersURI)
		fresh := browser{}
		b.login(fresh)
		b.as.ForgetRequests()
		if got := b.as.Audience(b.mustToken(fresh)); !slices.Equal(got, []string{stockURI, ordersURI}) {
			t.Errorf("after login: %q", got)
		}
		b.refreshes(0)
	})
}

// Signing in as somebody else: nothing that was got for the user before.
func TestCrossSendingAfterLoginAsSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		before := b.login(br)
		old := []string{b.mustToken(br), b.mustTokenFor(br, orders), b.mustTokenFor(br, swapped)}
		b.as.Configure(func(o *astest.Options) { o.User = "bob" })
		res, err := b.finish(br, b.begin(br, func(r *session.LoginRequest) { r.Previous = before }))
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range []*session.Purpose{nil, orders, swapped} {
			if tok := b.mustTokenFor(br, p); slices.Contains(old, tok) || b.as.Subject(tok) != "bob" {
				t.Errorf("for %s: a token of %q", p, b.as.Subject(tok))
			}
			if tok, err := before.For(p).Token(t.Context()); err == nil {
				t.Errorf("the session before still gives %q, was %q", tok, old[i])
			}
		}
		if res.Session.Subject() != "bob" {
			t.Error("not bob")
		}
	})
}

// A record of an earlier version has no more than one access token, and one of this
// version opens there too: what is not known is left out, and got again.
func TestRecordOfAnEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour})
		br := browser{}
		s := b.login(br)
		tok := b.mustToken(br)
		if err := s.AsEarlierVersion(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := newInstance(t, b.as, b.store)
		if n.mustToken(br) != tok {
			t.Error("another token")
		}
		n.mustTokenFor(br, orders)
		n.refreshes(1)
		later, err := n.open(br)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // the streak goes by what the record tells
			_, _ = later.Refresh(t.Context(), n.mustToken(br))
		}
		n.refreshes(3)
	})
}
