// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

const (
	ordersURI = "https://orders.test"
	stockURI  = "https://stock.test"
	apiURI    = "https://api.test" // the audience of default tokens
)

var (
	orders     = &session.Purpose{Resource: []string{ordersURI}}
	stock      = &session.Purpose{Resource: []string{stockURI}}
	ordersOnly = &session.Purpose{Scope: []string{"openid"}}
)

// tokenFor does what a request to an upstream does.
func (b *bench) tokenFor(br browser, p *session.Purpose) (string, error) {
	s, err := b.open(br)
	if err != nil {
		return "", err
	}
	return s.For(p).Token(b.t.Context())
}

func (b *bench) mustTokenFor(br browser, p *session.Purpose) string {
	b.t.Helper()
	tok, err := b.tokenFor(br, p)
	if err != nil {
		b.t.Fatalf("for %s: %v", p, err)
	}
	want := apiURI
	switch {
	case p == nil:
	case p.Exchange != nil:
		want = append(slices.Clone(p.Exchange.Audience), append(p.Exchange.Resource, apiURI)...)[0]
	case p.Resource != nil:
		want = p.Resource[0]
	}
	if got := b.as.Audience(tok); !slices.Equal(got, []string{want}) {
		b.t.Fatalf("for %s: a token for %q", p, got)
	}
	return tok
}

// patient lets nobody become idle.
func patient(c *session.Config) { c.IdleTimeout = 12 * time.Hour }

// exchanges counts token exchanges.
func (b *bench) exchanges(want int) {
	b.t.Helper()
	if got := len(b.as.ExchangeRequests()); got != want {
		b.t.Errorf("%d token exchanges, want %d", got, want)
	}
}

// RF-09, TX-05, TX-06, PX-13: a token for each upstream from one rotating refresh
// token, each cached, each with its own expiry.
func TestTokenForEachUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Hour}, patient)
		br := browser{}
		b.login(br)
		byDefault, forOrders := b.mustToken(br), b.mustTokenFor(br, orders)
		b.refreshes(1)
		time.Sleep(30 * time.Minute)
		forStock := b.mustTokenFor(br, stock)
		b.refreshes(2)
		for range 10 {
			if b.mustToken(br) != byDefault || b.mustTokenFor(br, orders) != forOrders || b.mustTokenFor(br, stock) != forStock {
				t.Fatal("a token was replaced without need")
			}
		}
		time.Sleep(30*time.Minute + time.Second) // the first two have run out, the third has not
		if b.mustToken(br) == byDefault || b.mustTokenFor(br, orders) == forOrders || b.mustTokenFor(br, stock) != forStock {
			t.Error("not each by its own expiry")
		}
		b.refreshes(4)
		for i, want := range [][]string{{ordersURI}, {stockURI}, nil, {ordersURI}} {
			if r := b.as.RefreshRequests()[i]; !slices.Equal(r.Form["resource"], want) || r.Form.Has("scope") {
				t.Errorf("refresh %d: %v", i, r.Form)
			}
		}
		// Another process finds them in the record.
		other := newInstance(t, b.as, b.store, patient)
		if other.mustTokenFor(br, stock) != forStock {
			t.Error("not in the record")
		}
		b.refreshes(4)
	})
}

// RF-09: less scope, and the whole of it again for the default token.
func TestTokenWithLessScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		whole := b.as.Scope(b.mustToken(br))
		if got := b.as.Scope(b.mustTokenFor(br, ordersOnly)); got != "openid" || whole == "openid" {
			t.Errorf("scope %q of %q", got, whole)
		}
		time.Sleep(time.Minute)
		if got := b.as.Scope(b.mustToken(br)); got != whole {
			t.Errorf("the default token has %q, had %q", got, whole)
		}
		both := &session.Purpose{Resource: []string{ordersURI}, Scope: []string{"openid"}}
		tok := b.mustTokenFor(br, both)
		if got := b.as.Scope(tok); got != "openid" {
			t.Errorf("scope %q", got)
		}
		same := &session.Purpose{Resource: []string{ordersURI}, Scope: []string{"openid"}}
		if b.mustTokenFor(br, same) != tok {
			t.Error("an equal purpose of another configuration has another token")
		}
		b.refreshes(3)
	})
}

// Due early: nobody waits for the token of one upstream either.
func TestTokenForUpstreamIsRefreshedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: time.Minute})
		br := browser{}
		b.login(br)
		b.mustTokenFor(br, orders)
		b.as.Configure(func(o *astest.Options) { o.Latency[astest.Token] = time.Second })
		began, last := time.Now(), ""
		for range 600 {
			before := time.Now()
			last = b.mustTokenFor(br, orders)
			if time.Now() != before {
				t.Fatalf("a request waited, %v after the first", time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if last == "" || b.as.Refreshes() < 10 || b.as.Refreshes() > 30 {
			t.Errorf("%d refreshes", b.as.Refreshes())
		}
		b.refreshes(b.as.Refreshes())
	})
}

// What is refused has to be the token of that purpose: naming another one
// refreshes nothing.
func TestRefusedTokenOfAnotherUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{})
		br := browser{}
		s := b.login(br)
		byDefault, forOrders := b.mustToken(br), b.mustTokenFor(br, orders)
		for _, refused := range []string{byDefault, "something else", ""} {
			if tok, err := s.For(orders).Refresh(t.Context(), refused); err != nil || tok != forOrders {
				t.Errorf("%q, %v", tok, err)
			}
		}
		if tok, err := s.Refresh(t.Context(), forOrders); err != nil || tok != byDefault {
			t.Errorf("%q, %v", tok, err)
		}
		b.refreshes(1)
	})
}

// AT-06, AT-08: a token is judged by the audience of its purpose.
func TestAudienceOfThePurpose(t *testing.T) {
	for name, tc := range map[string]struct {
		validate oauth.ValidateMode
		audience []string
		ignores  bool // the authorization server ignores resource indicators
		ok       bool
	}{
		"jwt":                              {validate: oauth.ValidateJWT, ok: true},
		"jwt, audience of others":          {validate: oauth.ValidateJWT, audience: []string{apiURI}, ok: true},
		"jwt, ignored":                     {validate: oauth.ValidateJWT, ignores: true},
		"jwt, ignored, audience of all":    {validate: oauth.ValidateJWT, ignores: true, audience: []string{apiURI}},
		"auto":                             {validate: oauth.ValidateAuto, ok: true},
		"auto, ignored, nothing asked":     {validate: oauth.ValidateAuto, ignores: true, ok: true},
		"auto, ignored, audience of all":   {validate: oauth.ValidateAuto, ignores: true, audience: []string{apiURI}},
		"auto, audience of others":         {validate: oauth.ValidateAuto, audience: []string{apiURI}, ok: true},
		"expiry: what is inside is hid":    {validate: oauth.ValidateExpiry, ignores: true, ok: true},
		"auto, scope alone: that of all":   {validate: oauth.ValidateAuto, audience: []string{apiURI}, ok: true},
		"auto, scope alone: another's one": {validate: oauth.ValidateAuto, audience: []string{"https://other.test"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := astest.Options{}
				if tc.ignores {
					o.AccessTokenClaims = func(_, claims map[string]any) { claims["aud"] = apiURI }
				}
				b := newBench(t, o)
				client, err := oauth.New(oauth.Config{
					Issuer: b.as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic", Audience: tc.audience,
					ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: b.as.HTTPClient(),
				})
				if err != nil {
					t.Fatal(err)
				}
				b.m = b.manager(func(c *session.Config) { c.Client, c.Validate = client, tc.validate })
				b.site = b.m.Site(origin)
				br, p := browser{}, orders
				if strings.Contains(name, "scope alone") {
					p = ordersOnly
				}
				b.login(br)
				for range 3 {
					_, err := b.tokenFor(br, p)
					if tc.ok != (err == nil) || err != nil && !errors.Is(err, session.ErrTokenUnavailable) {
						t.Fatalf("got %v", err)
					}
				}
				b.refreshes(1)
				if !tc.ok && !strings.Contains(b.log.String(), "does not pass validation") {
					t.Error("nothing in the log")
				}
			})
		})
	}
}

// What nobody asks for any more leaves the record, and there is a bound.
func TestPurposesLeaveTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 10 * time.Minute})
		br := browser{}
		s := b.login(br)
		for i := range 100 {
			b.mustTokenFor(br, &session.Purpose{Resource: []string{fmt.Sprintf("https://%d.test", i)}})
			if n := s.Narrow(t.Context()); n != min(i+1, 16) {
				t.Fatalf("%d tokens after %d upstreams", n, i+1)
			}
			time.Sleep(time.Second)
		}
		b.refreshes(100)
		b.mustTokenFor(br, &session.Purpose{Resource: []string{"https://99.test"}}) // the newest are there
		b.refreshes(100)
		time.Sleep(10 * time.Minute)
		b.mustToken(br)
		if n := s.Narrow(t.Context()); n != 0 {
			t.Errorf("%d tokens that have run out", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, astest.Options{AccessTokenLifetime: 40 * time.Minute, AccessTokenType: "opaque",
			TokenResponse: func(grant string, body map[string]any) {
				if grant == "refresh_token" {
					delete(body, "expires_in")
				}
			}})
		br := browser{}
		s := b.login(br)
		b.mustTokenFor(br, orders)
		if !s.For(orders).ExpiryUnknown() {
			t.Error("the expiry is known")
		}
		time.Sleep(50 * time.Minute)
		s.Touch(t.Context())
		b.mustToken(br)
		if n := s.Narrow(t.Context()); n != 1 {
			t.Errorf("%d tokens within the hour", n)
		}
		time.Sleep(11 * time.Minute)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.Narrow(t.Context()); n != 0 {
			t.Errorf("%d tokens of unknown expiry after an hour", n)
		}
	})
}
