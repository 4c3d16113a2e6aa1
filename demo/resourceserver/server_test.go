// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package resourceserver

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

const audience = "http://api.test"

// issuer stands for the authorization server.
type issuer struct {
	*testing.T
	key     *rsa.PrivateKey
	jwks    *httptest.Server
	fetched int

	mu      sync.Mutex
	revoked map[string]bool
	down    time.Time
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{T: t, key: key, revoked: map[string]bool{}}
	i.jwks = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.fetched++
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Use: "sig", Algorithm: "RS256"}}})
	}))
	t.Cleanup(i.jwks.Close)
	return i
}

func (i *issuer) Issuer() string  { return "http://issuer.test" }
func (i *issuer) JWKSURI() string { return i.jwks.URL }

func (i *issuer) Live(jti string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.revoked[jti]
}

func (i *issuer) RevokeAccessTokens(session string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revoked["id of "+session] = true
}

func (i *issuer) TakeDown(d time.Duration) time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = time.Now().Add(d)
	return i.down
}

func (i *issuer) DownUntil() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.down
}

// sign makes an access token of the session "s", with changes.
func (i *issuer) sign(key any, algorithm jose.SignatureAlgorithm, changes map[string]any) string {
	i.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		i.Fatal(err)
	}
	claims := map[string]any{
		"iss": i.Issuer(), "aud": []string{audience}, "sub": "alice", "sid": "s", "jti": "id of s",
		"exp": time.Now().Add(time.Minute).Unix(),
	}
	maps.Copy(claims, changes)
	raw, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		i.Fatal(err)
	}
	return raw
}

type answered struct {
	status    int
	challenge string
	body      map[string]any
}

func start(t *testing.T, i *issuer, j *journal.Journal, restart func()) func(method, path, authorization string) answered {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Start(Config{Listener: listener, Audience: audience, AuthorizationServer: i, Restart: restart, Journal: j})
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return func(method, path, authorization string) answered {
		t.Helper()
		request, err := http.NewRequest(method, "http://"+listener.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			request.Header.Set("Authorization", authorization)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		a := answered{status: response.StatusCode, challenge: response.Header.Get("WWW-Authenticate")}
		if err := json.Unmarshal(raw, &a.body); err != nil {
			t.Fatalf("%d, not JSON: %s", a.status, raw)
		}
		return a
	}
}

func TestHelloSaysWhatItSaw(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	call := start(t, i, j, nil)
	for range 3 {
		a := call(http.MethodGet, "/api/hello", "Bearer "+i.sign(i.key, jose.RS256, nil))
		if a.status != http.StatusOK || a.body["sub"] != "alice" || a.body["generation"] != journal.Label("id of s") || a.body["session"] != journal.Label("s") {
			t.Fatalf("%+v", a)
		}
		if left := a.body["expires_in"].(float64); left < 50 || left > 60 {
			t.Fatalf("expires_in %v", left)
		}
	}
	if i.fetched != 1 {
		t.Errorf("keys were fetched %d times, want once", i.fetched)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	call := start(t, i, j, nil)
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i.revoked["revoked"] = true
	bare := `Bearer realm="demo"`
	invalid := bare + `, error="invalid_token", error_description="access token invalid"`
	for name, test := range map[string]struct{ authorization, challenge string }{
		"none":           {"", bare},
		"another scheme": {"Basic YTpi", bare},
		"garbage":        {"Bearer garbage", invalid},
		"expired":        {"Bearer " + i.sign(i.key, jose.RS256, map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), invalid},
		"no expiry":      {"Bearer " + i.sign(i.key, jose.RS256, map[string]any{"exp": 0}), invalid},
		"wrong audience": {"Bearer " + i.sign(i.key, jose.RS256, map[string]any{"aud": "gateway"}), invalid},
		"wrong issuer":   {"Bearer " + i.sign(i.key, jose.RS256, map[string]any{"iss": "http://evil.test"}), invalid},
		"foreign key":    {"Bearer " + i.sign(foreign, jose.RS256, nil), invalid},
		"HS256":          {"Bearer " + i.sign([]byte("0123456789abcdef0123456789abcdef"), jose.HS256, nil), invalid},
		"alg none":       {"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.", invalid},
		"revoked": {
			"Bearer " + i.sign(i.key, jose.RS256, map[string]any{"jti": "revoked"}),
			bare + `, error="invalid_token", error_description="access token revoked"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/api/hello", "/api/demo/events"} {
				if name == "revoked" && path != "/api/hello" {
					continue // the buttons work with a revoked token
				}
				if a := call(http.MethodGet, path, test.authorization); a.status != http.StatusUnauthorized || a.challenge != test.challenge {
					t.Fatalf("%s: %+v", path, a)
				}
			}
		})
	}
	if events, _ := j.Since(0, journal.Label("s")); len(events) == 0 || events[0].Kind != journal.Refused {
		t.Errorf("journal: %+v", events)
	}
}

func TestRevokeButton(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	call := start(t, i, j, nil)
	authorization := "Bearer " + i.sign(i.key, jose.RS256, nil)
	if a := call(http.MethodPost, "/api/demo/revoke", authorization); a.status != http.StatusOK {
		t.Fatalf("%+v", a)
	}
	if a := call(http.MethodGet, "/api/hello", authorization); a.status != http.StatusUnauthorized || !strings.Contains(a.challenge, "invalid_token") {
		t.Fatalf("the API takes the revoked token: %+v", a)
	}
	a := call(http.MethodGet, "/api/demo/events?after=0", authorization)
	events, _ := a.body["events"].([]any)
	if a.status != http.StatusOK || len(events) != 1 || events[0].(map[string]any)["kind"] != string(journal.Refused) {
		t.Fatalf("the refusal must be in the journal: %+v", a)
	}
}

func TestOutageButton(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	call := start(t, i, j, nil)
	authorization := "Bearer " + i.sign(i.key, jose.RS256, nil)
	for _, query := range []string{"", "?seconds=0", "?seconds=-5", "?seconds=121", "?seconds=x"} {
		if a := call(http.MethodPost, "/api/demo/outage"+query, authorization); a.status != http.StatusBadRequest || !i.DownUntil().IsZero() {
			t.Fatalf("%q: %+v", query, a)
		}
	}
	a := call(http.MethodPost, "/api/demo/outage?seconds=20", authorization)
	if left, _ := a.body["down_for"].(float64); a.status != http.StatusOK || left < 15 || left > 20 {
		t.Fatalf("%+v", a)
	}
}

func TestRestartButtonAnswersFirst(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	restarted := make(chan struct{})
	call := start(t, i, j, func() { close(restarted) })
	if a := call(http.MethodPost, "/api/demo/restart", "Bearer "+i.sign(i.key, jose.RS256, nil)); a.status != http.StatusAccepted {
		t.Fatalf("%+v", a)
	}
	select {
	case <-restarted:
	case <-time.After(10 * time.Second):
		t.Fatal("no restart")
	}
}

func TestEventsRefusesABadCursor(t *testing.T) {
	t.Parallel()
	i, j := newIssuer(t), &journal.Journal{}
	call := start(t, i, j, nil)
	if a := call(http.MethodGet, "/api/demo/events?after=x", "Bearer "+i.sign(i.key, jose.RS256, nil)); a.status != http.StatusBadRequest {
		t.Fatalf("%+v", a)
	}
}
