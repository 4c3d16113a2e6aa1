// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func withDPoP(cfg *Config) { cfg.DPoP = true }

// boundLogin is login with a key.
func boundLogin(t testing.TB, c *Client, as *astest.Server, key *DPoPKey) (*TokenResponse, error) {
	t.Helper()
	state, verifier := NewState(), NewCodeVerifier()
	u, err := c.AuthorizationURL(t.Context(), AuthorizationRequest{
		RedirectURI: redirectURI, State: state, Nonce: NewNonce(), CodeVerifier: verifier, DPoPKey: key,
	})
	if err != nil {
		return nil, err
	}
	callback, err := as.Login(u)
	if err != nil {
		return nil, err
	}
	return c.Exchange(t.Context(), ExchangeRequest{
		Code: Secret(callback.Query().Get("code")), CodeVerifier: verifier, RedirectURI: redirectURI, DPoPKey: key,
	})
}

// proofParts decodes a proof. (No token of others has its key in its own header.)
func proofParts(t testing.TB, proof Secret) (head, payload, signature []byte) {
	t.Helper()
	parts := strings.Split(proof.Reveal(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for i, to := range []*[]byte{&head, &payload, &signature} {
		var err error
		if *to, err = base64.RawURLEncoding.DecodeString(parts[i]); err != nil {
			t.Error(err)
		}
	}
	return head, payload, signature
}

// DP-01, DP-03: what a proof says, and what it does not.
func TestDPoPProof(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	c := newClient(t, astest.New(astest.Options{}), withDPoP)
	u, err := url.Parse("https://rs.test:8443/a%2Fb/c%20d?y=1#z")
	if err != nil {
		t.Fatal(err)
	}
	proof, err := c.ProveTo("rs", key, "PUT", proofURI(u), "token")
	if err != nil {
		t.Fatal(err)
	}
	head, payload, signature := proofParts(t, proof)
	input := proof.Reveal()[:strings.LastIndexByte(proof.Reveal(), '.')]
	if !verifySignature("ES256", []byte(input), signature, key.private.Public()) {
		t.Error("the signature is not that of the key")
	}
	var header struct {
		Typ, Alg string
		JWK      map[string]string
	}
	if err := json.Unmarshal(head, &header); err != nil || header.Typ != "dpop+jwt" || header.Alg != "ES256" || len(header.JWK) != 4 || header.JWK["d"] != "" || header.JWK["kty"] != "EC" {
		t.Errorf("header %s: %v", head, err)
	}
	var claims struct {
		JTI, HTM, HTU, ATH string
		IAT                int64
		NBF                *int64
		Nonce              *string
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("token"))
	if claims.HTM != "PUT" || claims.HTU != "https://rs.test:8443/a%2Fb/c%20d" || claims.ATH != base64.RawURLEncoding.EncodeToString(sum[:]) || claims.NBF != nil || claims.Nonce != nil {
		t.Errorf("claims %s", payload)
	}
	if id, err := base64.RawURLEncoding.DecodeString(claims.JTI); err != nil || len(id) < 12 {
		t.Errorf("jti %q", claims.JTI)
	}
	if age := time.Since(time.Unix(claims.IAT, 0)); age < 0 || age > 5*time.Second {
		t.Errorf("iat is %v old", age)
	}
}

// DP-06
func TestDPoPProofsAreNeverTheSame(t *testing.T) {
	t.Parallel()
	key, c := newKey(t), newClient(t, astest.New(astest.Options{}))
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				proof, err := c.ProveTo("rs", key, "GET", "https://rs.test/", "token")
				if err != nil {
					t.Error(err)
					return
				}
				_, payload, _ := proofParts(t, proof)
				cl, _ := parseClaims(payload)
				jti, _ := cl.text("jti")
				mu.Lock()
				seen[jti] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 400 {
		t.Errorf("%d different jti of 400 proofs", len(seen))
	}
}

// DP-01, DP-07, DP-09, RF-09, PR-08: the code, the tokens and all that is got with
// them are bound to the key, whether the request is pushed or not.
func TestDPoPFromLoginToUserInfo(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*astest.Options){
		"by the browser":   func(*astest.Options) {},
		"pushed":           func(o *astest.Options) { o.RequirePAR = true },
		"issuer with path": func(o *astest.Options) { o.Path = "/t1" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := astest.Options{DPoP: true, RequireDPoP: true}
			change(&options)
			as, key := astest.New(options), newKey(t)
			c := newClient(t, as, withDPoP)
			tokens, err := boundLogin(t, c, as, key)
			if err != nil {
				t.Fatalf("%v %s", err, lastProofError(as))
			}
			if tokens, err = c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken, DPoPKey: key}); err != nil {
				t.Fatalf("%v %s", err, lastProofError(as))
			}
			exchanged, err := c.ExchangeToken(t.Context(), TokenExchangeRequest{SubjectToken: tokens.AccessToken, Audience: []string{"https://b.test"}, DPoPKey: key})
			if err != nil {
				t.Fatalf("%v %s", err, lastProofError(as))
			}
			for _, token := range []Secret{tokens.AccessToken, exchanged.AccessToken} {
				for _, mode := range []ValidateMode{ValidateJWT, ValidateIntrospection, ValidateAuto} {
					if _, err := c.CheckBoundAccessToken(t.Context(), token, key, mode, as.Audience(token.Reveal())...); err != nil {
						t.Errorf("mode %s: %v", mode, err)
					}
				}
			}
			if tokens.TokenType != "DPoP" {
				t.Errorf("token type %s", tokens.TokenType)
			}
			if _, err := c.BoundUserInfo(t.Context(), tokens.AccessToken, key, "alice"); err != nil {
				t.Error(err)
			}
			proofs := 0
			for _, r := range as.Requests("") {
				wanted := r.Endpoint == astest.Token || r.Endpoint == astest.UserInfo || r.Endpoint == astest.PAR
				p := r.Proof()
				if (p != nil) != wanted || p != nil && p.JKT != key.Thumbprint() {
					t.Errorf("%s: proof %v", r.Endpoint, p)
				}
				if p != nil {
					proofs++
				}
				if authorization := r.Endpoint == astest.PAR || r.Endpoint == astest.Authorize && !options.RequirePAR; authorization && r.Form.Get("dpop_jkt") != key.Thumbprint() {
					t.Errorf("%s: dpop_jkt is %q", r.Endpoint, r.Form.Get("dpop_jkt"))
				}
			}
			if proofs < 4 {
				t.Errorf("%d proofs", proofs)
			}
		})
	}
}

func lastProofError(as *astest.Server) string {
	last := ""
	for _, r := range as.Requests("") {
		if r.ProofError != "" {
			last = r.ProofError
		}
	}
	return last
}

// DP-08, TK-02: tokens that are not bound are let go; and so are those that are,
// where nobody has a key.
func TestDPoPTokenType(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		told  string
		bound bool
		good  bool
	}{
		{"DPoP", true, true}, {"dPOP", true, true}, {"Bearer", true, false}, {"", true, false}, {"mac", true, false},
		{"Bearer", false, true}, {"DPoP", false, false},
	} {
		as := astest.New(astest.Options{DPoP: true, TokenResponse: func(_ string, body map[string]any) { body["token_type"] = tc.told }})
		var key *DPoPKey
		if tc.bound {
			key = newKey(t)
		}
		_, err := boundLogin(t, newClient(t, as), as, key)
		if (err == nil) != tc.good || !tc.good && !errors.Is(err, ErrUnusable) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

// The metadata have the say whether there is an algorithm for both.
func TestDPoPAlgorithmIsOffered(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		algs any
		good bool
	}{
		"both": {[]string{"RS256", "ES256"}, true}, "another": {[]string{"RS256", "EdDSA"}, false}, "not told": {nil, true},
	} {
		log := &logged{}
		as := astest.New(astest.Options{DPoP: true, MetadataDoc: func(doc map[string]any) { doc["dpop_signing_alg_values_supported"] = tc.algs }})
		_, err := boundLogin(t, newClient(t, as, withDPoP, func(cfg *Config) { cfg.Logger = log.logger() }), as, newKey(t))
		if (err == nil) != tc.good || !tc.good && (!errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "ES256")) {
			t.Errorf("%s: %v", name, err)
		}
		if said := log.count("does not announce DPoP") == 1; said != (tc.algs == nil) {
			t.Errorf("%s: said %v", name, said)
		}
	}
	if _, err := New(Config{Issuer: "https://as.test", ClientID: "app", AuthMethod: AuthNone, Params: url.Values{"dpop_jkt": {"x"}}}); err == nil {
		t.Error("dpop_jkt can be configured")
	}
}

// DP-04, PR-08, C7: a demand for a nonce is met once, with a new proof and a new
// client assertion, in the same call.
func TestDPoPNonceOfTheAuthorizationServer(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{DPoP: true, RequireDPoP: true, RequirePAR: true, AuthMethod: "client_secret_jwt", ClientSecret: strings.Repeat("s", 32)})
	c := newClient(t, as, withDPoP, func(cfg *Config) {
		cfg.AuthMethod = AuthClientSecretJWT
		cfg.ClientSecret = func() (Secret, error) { return Secret(strings.Repeat("s", 32)), nil }
	})
	key := newKey(t)
	as.DemandDPoPNonce(true)
	tokens, err := boundLogin(t, c, as, key)
	if err != nil {
		t.Fatalf("%v %s %s", err, lastProofError(as), lastAuthError(as))
	}
	if n := as.Count(astest.PAR); n != 2 {
		t.Errorf("%d pushed requests for one login, of which the first had no nonce", n)
	}
	// The answers to the pushed request and to the code brought the next nonces.
	if n := as.Count(astest.Token); n != 1 {
		t.Errorf("%d token requests for one code", n)
	}
	for range 2 {
		if tokens, err = c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken, DPoPKey: key}); err != nil {
			t.Fatal(err)
		}
	}
	if n := as.Count(astest.Token); n != 3 {
		t.Errorf("%d token requests: a nonce that came with a 200 was not used", n)
	}
	as.DemandDPoPNonce(false)
	if _, err = c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken, DPoPKey: key}); err != nil {
		t.Fatal(err)
	}
	if n := as.Count(astest.Token); n != 5 {
		t.Errorf("%d token requests, 5 expected", n)
	}
	jtis, assertions := map[any]bool{}, map[string]bool{}
	proofs := 0
	for _, r := range append(as.Requests(astest.PAR), as.Requests(astest.Token)...) {
		proofs++
		jtis[r.Proof().Claims["jti"]], assertions[r.Assertion] = true, true
	}
	if len(jtis) != proofs || len(assertions) != proofs {
		t.Errorf("%d jti and %d client assertions for %d requests", len(jtis), len(assertions), proofs)
	}
}

// A server that never takes the nonce that it gave is asked twice, no more, and ends
// nothing. Without a nonce in the answer there is nothing to repeat with.
func TestDPoPNonceIsTriedOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		nonce []string
		calls int
	}{
		"never right": {[]string{"n"}, 2}, "none": {nil, 1}, "two": {[]string{"a", "b"}, 1}, "malformed": {[]string{"a b"}, 1},
		"with a quote": {[]string{`a"b`}, 1}, "endless": {[]string{strings.Repeat("n", 2000)}, 1},
	} {
		as := astest.New(astest.Options{DPoP: true})
		c, key := newClient(t, as), newKey(t)
		a := astest.OAuthError(400, "use_dpop_nonce")
		a.Times, a.Header["Dpop-Nonce"] = -1, tc.nonce
		as.Script(astest.Token, a)
		_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt", DPoPKey: key})
		if ClassOf(err) != ClassOutage || as.Count(astest.Token) != tc.calls {
			t.Errorf("%s: %v after %d calls", name, err, as.Count(astest.Token))
		}
	}
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	a := astest.OAuthError(400, "use_dpop_nonce")
	a.Header.Set("DPoP-Nonce", "n")
	as.Script(astest.Token, a)
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); err == nil || as.Count(astest.Token) != 1 {
		t.Errorf("without a key: %v after %d calls", err, as.Count(astest.Token))
	}
	as.Script(astest.Token, astest.OAuthError(400, "invalid_dpop_proof"))
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt", DPoPKey: newKey(t)}); ClassOf(err) != ClassConfiguration || as.Count(astest.Token) != 2 {
		t.Errorf("a proof that is refused: %v", err)
	}
}

// DP-05: the UserInfo endpoint is a resource server, and its nonces are its own.
func TestDPoPNonceOfUserInfo(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{DPoP: true, RequireDPoP: true})
	c, key := newClient(t, as), newKey(t)
	ofServer, ofUserInfo := as.DemandDPoPNonce(false), as.DemandUserInfoNonce(false)
	tokens, err := boundLogin(t, c, as, key)
	if err != nil {
		t.Fatal(err)
	}
	for i, calls := range []int{2, 3} {
		if _, err := c.BoundUserInfo(t.Context(), tokens.AccessToken, key, "alice"); err != nil {
			t.Fatal(err)
		}
		if n := as.Count(astest.UserInfo); n != calls {
			t.Errorf("%d calls after %d questions", n, i+1)
		}
	}
	for _, r := range as.Requests("") {
		p := r.Proof()
		if p == nil {
			continue
		}
		if nonce := p.Claims["nonce"]; r.Endpoint == astest.UserInfo && nonce == ofServer || r.Endpoint == astest.Token && nonce == ofUserInfo {
			t.Errorf("%s got the nonce of the other", r.Endpoint)
		}
	}
}

// DP-11: proofs are made by the clock of the server.
func TestDPoPClock(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-30 * time.Second, -time.Second, time.Second, 30 * time.Second, 4 * time.Minute, -4 * time.Minute} {
		as := astest.New(astest.Options{DPoP: true, RequireDPoP: true, ClockAhead: ahead})
		if _, err := boundLogin(t, newClient(t, as, func(cfg *Config) { cfg.Leeway = maxLeeway }), as, newKey(t)); err != nil {
			t.Errorf("%v: %v %s", ahead, err, lastProofError(as))
		}
	}
}

// DP-11: what an endpoint says of its clock in refusing a proof is heeded at once: a
// login must not fail for it, and the next one be good.
func TestDPoPClockOfUserInfo(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-40 * time.Second, 40 * time.Second} {
		as, key := astest.New(astest.Options{DPoP: true, RequireDPoP: true, ClockAhead: ahead}), newKey(t)
		c := newClient(t, as, func(cfg *Config) { cfg.Leeway = maxLeeway })
		tokens, err := boundLogin(t, c, as, key)
		if err != nil {
			t.Fatal(err)
		}
		for i, calls := range []int{2, 3} {
			if _, err := c.BoundUserInfo(t.Context(), tokens.AccessToken, key, "alice"); err != nil || as.Count(astest.UserInfo) != calls {
				t.Errorf("%v, question %d: %v after %d calls", ahead, i+1, err, as.Count(astest.UserInfo))
			}
		}
	}
	// One that takes none at all is asked twice, no more.
	as, key := astest.New(astest.Options{DPoP: true}), newKey(t)
	c := newClient(t, as)
	tokens, err := boundLogin(t, c, as, key)
	if err != nil {
		t.Fatal(err)
	}
	as.Script(astest.UserInfo, astest.Answer{Status: 401, Header: http.Header{"Www-Authenticate": {`DPoP error="invalid_dpop_proof"`}}, Times: -1})
	if _, err := c.BoundUserInfo(t.Context(), tokens.AccessToken, key, "alice"); err == nil || as.Count(astest.UserInfo) != 2 {
		t.Errorf("%v after %d calls", err, as.Count(astest.UserInfo))
	}
}
