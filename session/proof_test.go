// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/memstore"
)

// binding has an instance bind the tokens of new logins, or not.
func binding(t testing.TB, as *astest.Server, dpop bool) func(*session.Config) {
	t.Helper()
	client, err := oauth.New(oauth.Config{
		Issuer: as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic", DPoP: dpop,
		ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: as.HTTPClient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *session.Config) { c.Client = client }
}

// newBound is a bench with DPoP.
func newBound(t testing.TB, options astest.Options, edit ...func(*session.Config)) *bench {
	t.Helper()
	options.DPoP = true
	as := astest.New(options)
	store := memstore.New(memstore.Options{})
	t.Cleanup(func() { store.Close() }) //nolint:errcheck // memory
	return newInstance(t, as, &faultyStore{Store: store, exclusive: true}, append(edit, binding(t, as, true))...)
}

// prover is a source of access tokens that are bound.
type prover interface {
	Bound() bool
	Proof(server, method, uri, token string) (string, error)
	Answered(server string, header http.Header, sent time.Time)
}

// present asks a resource server with a token and its proof, and gives the status.
func present(t testing.TB, rs *astest.ResourceServer, p prover, token string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://rs.test/things?q=1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if p.Bound() {
		proof, err := p.Proof("rs", http.MethodGet, "http://rs.test/things", token)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "DPoP "+token)
		r.Header.Set("DPoP", proof)
	}
	sent := time.Now()
	res, err := astest.InMemory(rs).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p.Answered("rs", res.Header, sent)
	return res.StatusCode
}

// DP-07: the key of a login goes to every instance, and with each refresh.
func TestBoundSessionOverTwoInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBound(t, astest.Options{RequireDPoP: true})
		a.store.exclusive = false
		b := newInstance(t, a.as, a.store, binding(t, a.as, true))
		br, rs := browser{}, a.as.ResourceServer()
		first := a.login(br)
		loginKey := a.as.Requests(astest.Token)[0].Proof().JKT
		tok, err := first.Token(t.Context())
		if err != nil || present(t, rs, first, tok) != http.StatusOK {
			t.Fatalf("%v, and the resource server saw %+v", err, rs.Requests())
		}
		for range 3 {
			time.Sleep(6 * time.Minute)
			s, err := b.open(br)
			if err != nil {
				t.Fatal(err)
			}
			fresh, err := s.Token(t.Context())
			if err != nil || fresh == tok || present(t, rs, s, fresh) != http.StatusOK {
				t.Fatalf("%v, and the resource server saw %+v", err, rs.Requests())
			}
			tok = fresh
		}
		if got := a.mustToken(br); got != tok {
			t.Error("the instances have different tokens")
		}
		b.refreshes(3)
		for _, r := range a.as.Requests(astest.Token) {
			if p := r.Proof(); p == nil || p.JKT != loginKey {
				t.Errorf("%s with the proof %v", r.GrantType, p)
			}
		}
		for _, r := range rs.Requests() {
			if r.Proof().JKT != loginKey {
				t.Error("another key at the resource server")
			}
		}
	})
}

// DP-07, DP-10, SU-03: a request in flight that goes on with the session of a step-up
// proves the key of that one; and its token is no bearer token, even where the old
// one was.
func TestBoundContinuation(t *testing.T) {
	for name, bound := range map[string]bool{"before and after": true, "after": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				options := levels()
				b := newBound(t, options)
				b.store.exclusive = false
				a := newInstance(t, b.as, b.store, binding(t, b.as, bound))
				br, rs := browser{}, b.as.ResourceServer()
				a.login(br)
				inFlight, refused := mustOpen(t, b, br), mustOpen(t, b, br)
				old, err := inFlight.Token(t.Context())
				if err != nil || inFlight.Bound() != bound || present(t, rs, inFlight, old) != http.StatusOK {
					t.Fatalf("%v, and the resource server saw %+v", err, rs.Requests())
				}
				b.stepUp(br, gold())
				for _, get := range []func() (string, error){
					func() (string, error) { return inFlight.Token(t.Context()) },
					func() (string, error) { return refused.Refresh(t.Context(), old) },
				} {
					if token, err := get(); err != nil || token == old {
						t.Fatalf("after the step-up: %v, another token: %t", err, token != old)
					}
				}
				for _, s := range []*session.Session{inFlight, refused} {
					token, err := s.Token(t.Context())
					if err != nil || !s.Bound() || present(t, rs, s, token) != http.StatusOK {
						t.Errorf("%v, bound: %t, and the resource server saw %+v", err, s.Bound(), rs.Requests())
					}
				}
			})
		})
	}
}

// DP-04, C7: a demand for a nonce belongs to the attempt: one refresh, nothing is
// used twice, and no session ends.
func TestBoundRefreshMeetsANonce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, br := newBound(t, astest.Options{RequireDPoP: true, RequirePAR: true}), browser{}
		b.as.DemandDPoPNonce(false)
		b.login(br)
		b.as.DemandDPoPNonce(false)
		time.Sleep(6 * time.Minute)
		b.mustToken(br)
		b.refreshes(2) // requests, of which the first was not looked at
		if n := b.as.Refreshes(); n != 1 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// DP-07: tokens for one upstream are bound as well, however they are got.
func TestBoundPurposes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, br := newBound(t, astest.Options{RequireDPoP: true}, func(c *session.Config) { c.UserInfo = true }), browser{}
		s := b.login(br)
		if _, err := s.ForceRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := b.as.Count(astest.UserInfo); n != 2 || s.Claims()["nickname"] == nil {
			t.Errorf("%d UserInfo requests, claims %v", n, s.Claims())
		}
		for name, p := range map[string]*session.Purpose{
			"resource": {Resource: []string{"https://b.test"}},
			"scope":    {Scope: []string{"openid"}},
			"exchange": {Exchange: &session.Exchange{Audience: []string{"https://c.test"}}},
		} {
			rs, source := b.as.ResourceServer(), s.For(p)
			tok, err := source.Token(t.Context())
			if err != nil || present(t, rs, source, tok) != http.StatusOK {
				t.Errorf("%s: %v, and the resource server saw %+v", name, err, rs.Requests())
			}
		}
	})
}

// DP-10: what a session is does not change with the configuration.
func TestSessionsKeepTheirKind(t *testing.T) {
	for name, before := range map[string]bool{"off to on": false, "on to off": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, br := newBound(t, astest.Options{}), browser{}
				a.m = a.manager(binding(t, a.as, before))
				a.login(br)
				a.m = a.manager(binding(t, a.as, !before))
				rs := a.as.ResourceServer()
				for range 2 {
					time.Sleep(6 * time.Minute)
					s, err := a.open(br)
					if err != nil {
						t.Fatal(err)
					}
					tok, err := s.Token(t.Context())
					if err != nil || s.Bound() != before || present(t, rs, s, tok) != http.StatusOK {
						t.Fatalf("bound %v: %v, and the resource server saw %+v", s.Bound(), err, rs.Requests())
					}
					if !before {
						if proof, err := s.Proof("rs", "GET", "http://rs.test/", tok); err == nil || proof != "" {
							t.Error("a proof for a token that is not bound")
						}
					}
				}
				for _, r := range a.as.Requests(astest.Token) {
					if (r.Proof() != nil) != before {
						t.Errorf("%s with the proof %v", r.GrantType, r.Proof())
					}
				}
				s := a.login(browser{})
				if s.Bound() == before {
					t.Error("the next login is of the old kind")
				}
			})
		})
	}
}

// DP-08, AT-10: there is no login without tokens that are bound to its key.
func TestLoginsWithoutTheRightBinding(t *testing.T) {
	t.Parallel()
	stranger, err := oauth.NewDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*astest.Options)
		reason string
	}{
		"Bearer":      {func(o *astest.Options) { o.DPoP = false }, "token_type is not DPoP"},
		"another key": {cnf(map[string]any{"jkt": stranger.Thumbprint()}), "another DPoP key"},
		"certificate": {cnf(map[string]any{"x5t#S256": "AAAA"}), "a certificate"},
		"no ES256": {func(o *astest.Options) {
			o.MetadataDoc = func(doc map[string]any) { doc["dpop_signing_alg_values_supported"] = []string{"RS256"} }
		}, "DPoP with ES256"},
	} {
		b, br := newBound(t, astest.Options{}), browser{}
		b.as.Configure(tc.change)
		start, err := b.m.StartLogin(t.Context(), b.site, session.LoginRequest{RedirectURI: callback, ReturnTo: "/"})
		if err == nil {
			br.take(start.Cookies)
			back, visitErr := b.as.Login(start.AuthorizationURL)
			if visitErr != nil {
				t.Fatal(visitErr)
			}
			_, err = b.finish(br, back.Query())
			var failed *session.LoginError
			if !errors.As(err, &failed) || failed.Kind != session.LoginFailed {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), tc.reason) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.open(br); !errors.Is(err, session.ErrNoSession) {
			t.Errorf("%s: there is a session: %v", name, err)
		}
	}
}

func cnf(members map[string]any) func(*astest.Options) {
	return func(o *astest.Options) {
		o.AccessTokenClaims = func(_, claims map[string]any) { claims["cnf"] = members }
	}
}

// AT-10: a refreshed token that is bound to something else is not used.
func TestRefreshedTokenIsBoundToAnotherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, br := newBound(t, astest.Options{}), browser{}
		b.login(br)
		b.as.Configure(cnf(map[string]any{"jkt": "another"}))
		time.Sleep(6 * time.Minute)
		if tok, err := b.token(br); !errors.Is(err, session.ErrTokenUnavailable) || tok != "" {
			t.Errorf("token %q, %v", tok, err)
		}
		if !strings.Contains(b.log.String(), "bound to another DPoP key (cnf jkt)") {
			t.Error("the log does not say why")
		}
		b.as.Configure(func(o *astest.Options) { o.AccessTokenClaims = nil })
		time.Sleep(time.Minute)
		b.mustToken(br) // nobody is signed out for it
	})
}

// DP-07: the key waits in the login's cookie, sealed, and there is room for it
// beside the longest return URL.
func TestBoundLoginFitsItsCookie(t *testing.T) {
	t.Parallel()
	b, br := newBound(t, astest.Options{}), browser{}
	b.login(br)
	live, err := b.open(br)
	if err != nil {
		t.Fatal(err)
	}
	back := b.begin(br, func(r *session.LoginRequest) {
		r.ReturnTo, r.Previous = "/"+strings.Repeat("x", session.MaxReturnTo-1), live
	})
	for _, c := range br {
		if len(c.Value) > 3900 {
			t.Errorf("a cookie of %d bytes", len(c.Value))
		}
	}
	if _, err := b.finish(br, back); err != nil {
		t.Error(err)
	}
	keys := []string{}
	for _, r := range b.as.Requests(astest.Token) {
		keys = append(keys, r.Proof().JKT)
	}
	if len(slices.Compact(slices.Sorted(slices.Values(keys)))) != 2 {
		t.Errorf("two logins with the keys %v", keys)
	}
}

// DP-07, TX-03: an exchange that waited for its subject token while a step-up came back
// is the business of the session that goes on: the old key fits no token of that one.
func TestBoundExchangeOverAStepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := levels()
		options.AccessTokenLifetime = 5 * time.Minute
		b := newBound(t, options)
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		time.Sleep(6 * time.Minute)
		params := b.beginStepUp(br, gold())
		b.as.Script(astest.Token, astest.Answer{DelayReply: 2 * time.Second})
		got := make(chan error, 1)
		go func() { _, err := b.tokenFor(old, swapped); got <- err }()
		time.Sleep(time.Second)
		if _, err := b.finish(br, params); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("a request in flight: %v", err)
		}
		requests := b.as.Requests(astest.Token)
		jkt := requests[len(requests)-1].Proof().JKT
		for _, r := range b.as.ExchangeRequests() {
			if r.Status != http.StatusOK || r.Proof().JKT != jkt {
				t.Errorf("an exchange was answered %d %s, the proof by the key of the session that goes on: %t", r.Status, r.ProofError, r.Proof().JKT == jkt)
			}
		}
		b.exchanges(1)
		b.refreshes(1)
	})
}

// DP-07, TX-03: nor is an exchange made anew with a token of that session, where the
// subject token is refreshed because it was refused.
func TestBoundExchangeAgainOverAStepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBound(t, levels())
		br := browser{}
		b.login(br)
		old := maps.Clone(br)
		params := b.beginStepUp(br, gold())
		b.as.Script(astest.Token, astest.OAuthError(http.StatusBadRequest, "invalid_grant"), astest.Answer{DelayReply: 2 * time.Second})
		got := make(chan error, 1)
		go func() { _, err := b.tokenFor(old, swapped); got <- err }()
		time.Sleep(time.Second)
		if _, err := b.finish(br, params); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("a request in flight: %v", err)
		}
		requests := b.as.Requests(astest.Token)
		jkt := requests[len(requests)-1].Proof().JKT
		for _, r := range b.as.ExchangeRequests()[1:] {
			if r.Status != http.StatusOK || r.Proof().JKT != jkt {
				t.Errorf("an exchange was answered %d %s, the proof by the key of the session that goes on: %t", r.Status, r.ProofError, r.Proof().JKT == jkt)
			}
		}
		b.exchanges(2)
		b.refreshes(1)
	})
}
