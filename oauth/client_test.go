// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// newClient returns a client of as, in memory, with client_secret_basic.
func newClient(t testing.TB, as *astest.Server, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		Issuer: as.Issuer(), ClientID: "app", AuthMethod: AuthClientSecretBasic,
		ClientSecret: func() (Secret, error) { return "secret", nil },
		HTTP:         as.HTTPClient(),
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// transaction is what a login remembers.
type transaction struct {
	state, nonce, verifier Secret
}

const redirectURI = "https://app.test/bff/callback"

// authorize signs in at as and returns the callback's parameters.
func authorize(t testing.TB, c *Client, as *astest.Server) (url.Values, transaction) {
	t.Helper()
	tx := transaction{NewState(), NewNonce(), NewCodeVerifier()}
	u, err := c.AuthorizationURL(t.Context(), AuthorizationRequest{
		RedirectURI: redirectURI, State: tx.state, Nonce: tx.nonce, CodeVerifier: tx.verifier,
	})
	if err != nil {
		t.Fatal(err)
	}
	callback, err := as.Login(u)
	if err != nil {
		t.Fatal(err)
	}
	return callback.Query(), tx
}

// login goes all the way to tokens.
func login(t testing.TB, c *Client, as *astest.Server) (*TokenResponse, transaction) {
	t.Helper()
	params, tx := authorize(t, c, as)
	code, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: tx.state})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := c.Exchange(t.Context(), ExchangeRequest{Code: code, CodeVerifier: tx.verifier, RedirectURI: redirectURI})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, tx
}

func TestLoginRefreshLogout(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config, *astest.Options){
		"client_secret_basic": func(*Config, *astest.Options) {},
		"client_secret_post": func(c *Config, o *astest.Options) {
			c.AuthMethod, o.AuthMethod = AuthClientSecretPost, "client_secret_post"
		},
		"none": func(c *Config, o *astest.Options) {
			c.AuthMethod, c.ClientSecret, o.PublicClient = AuthNone, nil, true
		},
		"RS256":            func(_ *Config, o *astest.Options) { o.Algorithm = "RS256" },
		"EdDSA":            func(_ *Config, o *astest.Options) { o.Algorithm = "EdDSA" },
		"issuer with path": func(_ *Config, o *astest.Options) { o.Path = "/t1" }, // MD-02
		"RFC 8414 alone":   func(_ *Config, o *astest.Options) { o.Path, o.WellKnown = "/t1", "oauth" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := astest.Options{}
			change(&Config{}, &options)
			as := astest.New(options)
			c := newClient(t, as, func(cfg *Config) { change(cfg, &astest.Options{}) })
			ctx := t.Context()

			tokens, tx := login(t, c, as)
			id, err := c.VerifyIDToken(ctx, tokens.IDToken, IDTokenCheck{Nonce: tx.nonce, AccessToken: tokens.AccessToken})
			if err != nil {
				t.Fatal(err)
			}
			if id.Subject != "alice" || id.SID == "" || id.Claims["email"] != "alice@example.com" {
				t.Errorf("ID token: %+v", id)
			}
			v, err := c.CheckAccessToken(ctx, tokens.AccessToken, ValidateJWT)
			if err != nil || !v.JWT || v.Expiry.IsZero() || !c.VerdictCurrent(v, time.Now()) {
				t.Errorf("access token: %+v %v", v, err)
			}
			next, err := c.Refresh(ctx, RefreshRequest{RefreshToken: tokens.RefreshToken})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.VerifyRefreshedIDToken(ctx, next.IDToken, RefreshedIDTokenCheck{
				Subject: id.Subject, Nonce: tx.nonce, AuthTime: id.AuthTime, AccessToken: next.AccessToken,
			}); err != nil {
				t.Error(err)
			}
			if err := c.Revoke(ctx, next.RefreshToken, "refresh_token"); err != nil || as.RefreshTokenLive(next.RefreshToken.Reveal()) {
				t.Errorf("revocation: %v", err)
			}
			if c.TokenLatency() <= 0 {
				t.Error("no latency is known after two token requests")
			}
			for _, r := range as.Requests(astest.Token) {
				if strings.Contains(r.URL, "?") || r.Header.Get("Accept") != "application/json" ||
					r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.Header.Get("Idempotency-Key") != "" {
					t.Errorf("TK-01: %s %v", r.URL, r.Header)
				}
			}
			refresh := as.RefreshRequests()[0]
			if refresh.Form.Has("scope") || refresh.Form.Has("resource") {
				t.Errorf("RF-09: refresh narrows without being asked: %v", refresh.Form)
			}
		})
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	t.Parallel()
	secret := func() (Secret, error) { return "s", nil }
	good := Config{Issuer: "https://as.test", ClientID: "app", AuthMethod: AuthClientSecretBasic, ClientSecret: secret}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no issuer":               func(c *Config) { c.Issuer = "" },
		"http issuer (MD-03)":     func(c *Config) { c.Issuer = "http://as.test" },
		"issuer with query":       func(c *Config) { c.Issuer = "https://as.test?x=1" },
		"issuer with fragment":    func(c *Config) { c.Issuer = "https://as.test#x" },
		"issuer with credentials": func(c *Config) { c.Issuer = "https://u:p@as.test" },
		"relative issuer":         func(c *Config) { c.Issuer = "as.test" },
		"http, looks like local":  func(c *Config) { c.Issuer = "http://localhost.evil.test" },
		"no client ID":            func(c *Config) { c.ClientID = "" },
		"client ID with newline":  func(c *Config) { c.ClientID = "a\nb" },
		"no method":               func(c *Config) { c.AuthMethod = "" },
		"unknown method":          func(c *Config) { c.AuthMethod = "client_secret" },
		"no secret":               func(c *Config) { c.ClientSecret = nil },
		"none with a secret":      func(c *Config) { c.AuthMethod = AuthNone },
		"scope with space":        func(c *Config) { c.Scope = []string{"openid profile"} },
		"scope with quote":        func(c *Config) { c.Scope = []string{`a"b`} },
		"reserved parameter":      func(c *Config) { c.Params = url.Values{"redirect_uri": {"x"}} },
		"negative timeout":        func(c *Config) { c.Timeout = -1 },
		"leeway of an hour":       func(c *Config) { c.Leeway = time.Hour },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, issuer := range []string{"http://localhost:1", "http://127.0.0.2", "http://[::1]:80/x", "http://as.localhost"} {
		cfg := good
		cfg.Issuer = issuer
		if _, err := New(cfg); err != nil {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}

// recorder keeps everything that is logged.
type recorder struct {
	mu  sync.Mutex
	all strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

func TestNothingSecretIsLoggedOrPutIntoErrors(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{ClientSecret: "canary-secret"})
	log := &recorder{}
	c := newClient(t, as, func(cfg *Config) {
		cfg.ClientSecret = func() (Secret, error) { return "canary-secret", nil }
		cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	tokens, tx := login(t, c, as)
	var errs []error
	note := func(err error) {
		if err == nil {
			t.Error("expected an error")
			return
		}
		errs = append(errs, err)
	}
	as.Script(astest.Token, astest.Answer{Status: 400, Body: `{"error":"invalid_grant","error_description":"` + tokens.RefreshToken.Reveal() + `"}`}, astest.Answer{Body: `{"access_token":"canary-at"}`}, astest.Answer{Cut: true})
	for range 3 {
		_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: tokens.RefreshToken})
		note(err)
	}
	_, err := c.VerifyIDToken(t.Context(), tokens.IDToken, IDTokenCheck{Nonce: "other"})
	note(err)
	_, err = c.VerifyIDToken(t.Context(), tokens.IDToken+"A", IDTokenCheck{Nonce: tx.nonce})
	note(err)
	_, err = c.CheckAccessToken(t.Context(), tokens.IDToken, ValidateJWT)
	note(err)
	as.SetDown(true)
	note(c.Revoke(t.Context(), tokens.RefreshToken, "refresh_token"))
	text := log.String()
	for _, err := range errs {
		text += err.Error() + "\n"
	}
	for _, canary := range []string{"canary", tokens.AccessToken.Reveal(), tokens.RefreshToken.Reveal(), tokens.IDToken.Reveal(), tx.nonce.Reveal(), tx.verifier.Reveal()} {
		if strings.Contains(text, canary) {
			t.Errorf("%q shows up in:\n%s", canary, text)
		}
	}
}

func TestLatencyDecays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		if c.TokenLatency() != 0 {
			t.Error("latency is known before any call")
		}
		token := Secret(as.Issue("alice", "openid", "").RefreshToken)
		as.Script(astest.Token, astest.Answer{Delay: 4 * time.Second})
		for range 2 {
			next, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token})
			if err != nil {
				t.Fatal(err)
			}
			token = next.RefreshToken
		}
		if got := c.TokenLatency(); got != 4*time.Second {
			t.Errorf("a fast call hides a slow one: %v", got)
		}
		time.Sleep(time.Minute)
		if got := c.TokenLatency(); got != 2*time.Second {
			t.Errorf("after a minute: %v", got)
		}
		as.Script(astest.Token, astest.Answer{Hang: true})
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token}); ClassOf(err) != ClassAmbiguous {
			t.Errorf("timeout: %v", err)
		}
		if got := c.TokenLatency(); got != 30*time.Second {
			t.Errorf("a timeout counts %v", got)
		}
	})
}

func TestRedirectsAreNotFollowed(t *testing.T) { // TK-09, A504
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		before := as.Count("")
		as.Script(astest.Token, astest.Answer{Status: status, Header: http.Header{"Location": {as.Issuer() + "/evil"}}})
		_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != status || e.Class != ClassOutage || as.Count("") != before+1 {
			t.Errorf("%d: %v, %d requests", status, err, as.Count("")-before)
		}
	}
}
