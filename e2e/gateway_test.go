// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

const (
	audience     = "urn:e2e:api"
	clientSecret = "only-for-these-tests-and-nothing-else"
)

// buildCaddy builds the command once for all tests.
var buildCaddy = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "caddy-bff-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "caddy")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	out, err := exec.Command("go", "build", "-o", path, "../cmd/caddy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build ./cmd/caddy: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := buildCaddy(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// bench is everything that one test runs: the gateway between a browser, an
// authorization server and a resource server.
type bench struct {
	authorizationServer *authorizationServer
	resourceServer      *resourceServer
	gateway             *process
	browser             *browser
	origin              string
	dir                 string // the gateway's data and configuration
	caddy               string
	subject             string // who is signed in; default: alice
}

func newBench(t *testing.T, accessTokenLife time.Duration) *bench {
	t.Helper()
	return newBenchWith(t, accessTokenLife, nil)
}

// newBenchWith is newBench with a client that authenticates in another way:
// authenticate completes the authorization server's settings, and returns options
// of bff. Nil: client_secret_basic.
func newBenchWith(t *testing.T, accessTokenLife time.Duration, authenticate func(*bench, *authorizationServerSettings) string) *bench {
	t.Helper()
	node(t, "oidc-provider") // before anything is built
	if err := os.RemoveAll(outputDirectory(t)); err != nil {
		t.Fatal(err)
	}
	caddy, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	// Another host than the authorization server's: to a browser that is another
	// site, with cookies of its own.
	b := &bench{caddy: caddy, dir: t.TempDir(), origin: "http://localhost:" + strconv.Itoa(redistest.FreePort(t))}
	b.resourceServer = startResourceServer(t)
	secret := filepath.Join(b.dir, "client_secret")
	if err := os.WriteFile(secret, []byte(clientSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := authorizationServerSettings{
		AccessTokenLife:       int(accessTokenLife / time.Second),
		ClientID:              "e2e",
		ClientSecret:          clientSecret,
		RedirectURI:           b.origin + "/bff/callback",
		PostLogoutRedirectURI: b.origin + "/bff/logout/callback",
		BackchannelLogoutURI:  b.origin + "/bff/backchannel",
		Audience:              audience,
	}
	credentials := "client_secret {file." + secret + "}"
	if authenticate != nil {
		credentials = authenticate(b, &settings)
	}
	b.authorizationServer = startAuthorizationServer(t, settings)
	b.resourceServer.trust(b.authorizationServer.Issuer, audience)
	caddyfile := fmt.Sprintf(`{
	admin off
	persist_config off
	grace_period 5s
	log {
		level DEBUG
		format json
	}
}

%s {
	bind 127.0.0.1
	log
	bff {
		issuer %s
		client_id e2e
		%s
	}
	handle /api/* {
		bff_proxy %s
	}
	handle {
		respond "the application"
	}
}
`, b.origin, b.authorizationServer.Issuer, credentials, b.resourceServer.address)
	if err := os.WriteFile(filepath.Join(b.dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	b.startGateway(t)
	b.browser = newBrowser(t, b.origin)
	return b
}

// startGateway starts the gateway, and waits until it serves.
func (b *bench) startGateway(t *testing.T) {
	t.Helper()
	cmd := exec.Command(b.caddy, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	b.gateway = start(t, "gateway", cmd)
	deadline := time.Now().Add(30 * time.Second)
	for {
		res, err := http.Get(b.origin + "/")
		if err == nil {
			_ = res.Body.Close()
			return
		}
		select {
		case <-b.gateway.exited:
			t.Fatalf("the gateway ended at its start; see %s", outputDirectory(t))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the gateway does not serve: %v", err)
		}
	}
}

// login signs the user in, and checks that the page that was asked for is where
// the browser ends.
func (b *bench) login(t *testing.T) {
	t.Helper()
	end := b.browser.navigate(t, b.origin+"/bff/login?return_to="+url.QueryEscape("/orders?page=2"))
	if end.status != http.StatusOK || end.url.String() != b.origin+"/orders?page=2" || end.body != "the application" {
		t.Fatalf("login ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
}

type sessionAnswer struct {
	Authenticated bool           `json:"authenticated"`
	User          map[string]any `json:"user"`
	Reason        string         `json:"reason"`
	Session       *struct {
		ID string `json:"id"`
	} `json:"session"`
}

func (b *bench) session(t *testing.T) (s sessionAnswer) {
	t.Helper()
	b.browser.json(t, http.MethodGet, "/bff/session", &s)
	return s
}

// call calls the API, and says what is wrong with the answer.
func (b *bench) call(ctx context.Context, method string, body []byte) error {
	got, err := b.browser.fetch(ctx, method, "/api/orders", body)
	if err != nil {
		return err
	}
	var echo struct{ Sub, Body string }
	if got.status != http.StatusOK || json.Unmarshal(got.body, &echo) != nil || echo.Sub != cmp.Or(b.subject, "alice") || echo.Body != string(body) {
		return fmt.Errorf("%s with %d bytes: %s", method, len(body), got)
	}
	return nil
}

// settled waits until the resource server has seen the newest token, so that
// its generations can be compared with the authorization server's refreshes.
func (b *bench) settled(t *testing.T) (generations int, stats authorizationServerStats) {
	t.Helper()
	for range 50 {
		before := b.authorizationServer.stats(t)
		if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
			t.Fatal(err)
		}
		generations = b.resourceServer.generations()
		stats = b.authorizationServer.stats(t)
		// A refresh that the call started in the background may be under way.
		if stats.Refreshes == before.Refreshes && generations == stats.Refreshes+stats.Codes {
			return generations, stats
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%d access tokens came to the resource server, the authorization server says %+v", generations, stats)
	return 0, stats
}

// check compares what is to be true at the end of every test.
func (b *bench) check(t *testing.T) {
	t.Helper()
	if stats := b.authorizationServer.stats(t); len(stats.Refused) != 0 || stats.Reused != 0 {
		t.Errorf("the authorization server refused: %q", stats.Refused)
	}
	_, forbidden := b.resourceServer.seen()
	if len(forbidden) != 0 {
		t.Errorf("the resource server was sent %d headers that are not its business, first %q", len(forbidden), forbidden[0])
	}
	b.noSecretsInLogs(t)
}

// noSecretsInLogs searches what the gateway wrote, at level DEBUG, for every
// code, token and cookie of the test. HARDENING D7.
func (b *bench) noSecretsInLogs(t *testing.T) {
	t.Helper()
	secrets := []string{clientSecret}
	for _, i := range b.authorizationServer.issued(t) {
		secrets = append(secrets, i.Value)
	}
	checkLogs(t, secrets, b.browser.cookies(t))
}

// checkLogs searches the gateway's log for secrets and the values of cookies.
func checkLogs(t *testing.T, secrets []string, cookies []*http.Cookie) {
	t.Helper()
	for _, cookie := range cookies {
		secrets = append(secrets, cookie.Value)
	}
	log, err := os.ReadFile(filepath.Join(outputDirectory(t), "gateway.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(`"level":"debug"`)) {
		t.Error("the gateway's log is not at level DEBUG: the search proves nothing")
	}
	for _, secret := range secrets {
		if len(secret) < 16 {
			t.Fatalf("%q is too short to search for", secret)
		}
		for _, form := range []string{
			secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret))[:20],
			base64.RawURLEncoding.EncodeToString([]byte(secret))[:20],
		} {
			if i := bytes.Index(log, []byte(form)); i >= 0 {
				line := log[bytes.LastIndexByte(log[:i], '\n')+1:]
				line, _, _ = bytes.Cut(line, []byte("\n"))
				t.Errorf("a secret is in the gateway's log:\n%.600s", line)
				break
			}
		}
	}
}

// The main job: calls go on over expiries, and nobody notices them.
func TestCallsGoOnOverExpiries(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	b := newBench(t, life)

	if s := b.session(t); s.Authenticated || s.Reason != "none" {
		t.Fatalf("before the login: %+v", s)
	}
	if got, err := b.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil); err != nil || got.status != http.StatusUnauthorized ||
		got.header.Get("X-BFF-Error") != "session_required" {
		t.Fatalf("a call before the login: %v, %v", got, err)
	}
	b.login(t)
	if s := b.session(t); !s.Authenticated || s.User["sub"] != "alice" || s.Session == nil || s.Session.ID == "" {
		t.Fatalf("after the login: %+v", s)
	}
	for _, cookie := range b.browser.cookies(t) {
		if cookie.Name != "bff" {
			t.Errorf("after the login the browser has a cookie %q", cookie.Name)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*life)
	defer cancel()
	var mu sync.Mutex
	calls, failures := 0, []error(nil)
	var worst time.Duration
	var wg sync.WaitGroup
	for client := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				method, body := http.MethodGet, []byte(nil)
				if i%3 == client%3 {
					method, body = http.MethodPost, bytes.Repeat([]byte("x"), 2000)
				}
				start := time.Now()
				err := b.call(t.Context(), method, body)
				mu.Lock()
				calls++
				worst = max(worst, time.Since(start))
				if err != nil {
					failures = append(failures, err)
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if len(failures) != 0 {
		t.Fatalf("%d of %d calls failed, the first: %v", len(failures), calls, failures[0])
	}
	generations, stats := b.settled(t)
	if generations < 5 { // five lives, each refreshed before its end
		t.Errorf("only %d access tokens in %s with tokens of %s", generations, 5*life, life)
	}
	if stats.Codes != 1 || stats.Refreshes != generations-1 {
		t.Errorf("%d access tokens came from %d codes and %d refreshes", generations, stats.Codes, stats.Refreshes)
	}
	if reasons, _ := b.resourceServer.seen(); len(reasons) != 0 {
		t.Errorf("the resource server answered 401 %d times, first for %q", len(reasons), reasons[0])
	}
	b.check(t)
	t.Logf("%d calls over %d access tokens, the slowest took %s", calls, generations, worst)
}

// HARDENING F101, in one instance: everybody comes at once, the token has run
// out, and the authorization server is slow and ends the grant when a refresh
// token comes twice.
func TestParallelCallsAtExpiry(t *testing.T) {
	t.Parallel()
	const life = 6 * time.Second
	b := newBench(t, life)
	b.login(t)
	for round := range 2 {
		if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
			t.Fatal(err)
		}
		_, before := b.settled(t)
		b.authorizationServer.delayTokens(t, 300*time.Millisecond)
		time.Sleep(life + 100*time.Millisecond)

		const calls = 200
		failures := make(chan error, calls)
		ready := make(chan struct{})
		var wg sync.WaitGroup
		for i := range calls {
			wg.Go(func() {
				ctx := t.Context()
				if i == 0 { // whoever comes first may leave: nobody else notices
					short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
					defer cancel()
					_ = b.call(short, http.MethodGet, nil)
					return
				}
				<-ready
				if err := b.call(ctx, http.MethodGet, nil); err != nil {
					failures <- err
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		start := time.Now()
		close(ready)
		wg.Wait()
		if took := time.Since(start); took > life/2 {
			t.Fatalf("round %d: the calls took %s, nearly the life of the new token: this machine is too busy to tell", round, took)
		}
		close(failures)
		for err := range failures {
			t.Errorf("round %d: %v", round, err)
		}
		after := b.authorizationServer.stats(t)
		if n := after.Refreshes - before.Refreshes; n != 1 {
			t.Errorf("round %d: %d calls at once made %d refreshes, want 1", round, calls, n)
		}
		b.authorizationServer.delayTokens(t, 0)
	}
	b.check(t)
}

// A resource server that refuses a token which is not at its end: one refresh,
// the call is repeated, and the browser never hears of it.
func TestRefusedTokenIsHealed(t *testing.T) {
	t.Parallel()
	b := newBench(t, 60*time.Second)
	b.login(t)
	for _, c := range []struct {
		method string
		body   []byte
	}{{http.MethodGet, nil}, {http.MethodPost, bytes.Repeat([]byte("body "), 6000)}} {
		if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
			t.Fatal(err)
		}
		before := b.authorizationServer.stats(t)
		b.resourceServer.refuse()
		if err := b.call(t.Context(), c.method, c.body); err != nil {
			t.Fatalf("with a revoked access token: %v", err)
		}
		if n := b.authorizationServer.stats(t).Refreshes - before.Refreshes; n != 1 {
			t.Fatalf("%s: %d refreshes, want 1", c.method, n)
		}
	}
	b.check(t)
}

// HARDENING F301: kill -9 loses no session.
func TestKill9KeepsTheSession(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3*time.Second)
	b.login(t)
	id := b.session(t).Session.ID
	for round := range 3 {
		if round > 0 {
			time.Sleep(3 * time.Second) // so that a refresh token of before the kill is used after it
		}
		if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
			t.Fatal(err)
		}
		b.settled(t)
		b.gateway.kill()
		b.startGateway(t)
		if s := b.session(t); !s.Authenticated || s.Session.ID != id {
			t.Fatalf("after kill -9 number %d: %+v", round+1, s)
		}
		if err := b.call(t.Context(), http.MethodPost, []byte("after the restart")); err != nil {
			t.Fatal(err)
		}
	}
	if stats := b.authorizationServer.stats(t); stats.Codes != 1 || stats.Refreshes < 2 {
		t.Errorf("%d logins and %d refreshes", stats.Codes, stats.Refreshes)
	}
	b.check(t)
}

// HARDENING A208, A403: after a logout the cookie is worth nothing, the refresh
// token is revoked, and the authorization server's session is over too.
func TestLogout(t *testing.T) {
	t.Parallel()
	b := newBench(t, 60*time.Second)
	b.login(t)
	if err := b.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Fatal(err)
	}
	old := b.browser.cookies(t)
	issued := b.authorizationServer.issued(t)

	var out struct {
		LogoutURL string `json:"logout_url"`
	}
	b.browser.json(t, http.MethodPost, "/bff/logout?return_to="+url.QueryEscape("/goodbye"), &out)
	if !strings.HasPrefix(out.LogoutURL, b.authorizationServer.Issuer+"/session/end?") {
		t.Fatalf("logout_url: %q", out.LogoutURL)
	}
	for _, i := range issued {
		// The ID token may be there, as the hint that some servers insist on.
		if i.Kind != "id_token" && strings.Contains(out.LogoutURL, i.Value) {
			t.Errorf("%s is in the logout URL", i.Kind)
		}
	}
	if s := b.session(t); s.Authenticated {
		t.Fatalf("after the logout: %+v", s)
	}
	for _, cookie := range b.browser.cookies(t) {
		if cookie.Name == "bff" {
			t.Error("the logout left the session cookie in the browser")
		}
	}
	thief := newBrowser(t, b.origin)
	origin, err := url.Parse(b.origin)
	if err != nil {
		t.Fatal(err)
	}
	thief.client.Jar.SetCookies(origin, old)
	if got, err := thief.fetch(t.Context(), http.MethodGet, "/api/orders", nil); err != nil || got.status != http.StatusUnauthorized {
		t.Fatalf("the old cookie after the logout: %v, %v", got, err)
	}

	end := b.browser.submit(t, b.browser.navigate(t, out.LogoutURL), "logout", "yes")
	if end.status != http.StatusOK || end.url.String() != b.origin+"/goodbye" {
		t.Fatalf("the logout ended at %s with %d:\n%s", end.url, end.status, end.body)
	}
	if left := b.browser.cookies(t); len(left) != 0 {
		t.Errorf("after the logout the browser still has %d cookies of the gateway, %q first", len(left), left[0].Name)
	}
	deadline := time.Now().Add(5 * time.Second)
	for b.authorizationServer.stats(t).Revocations == 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if stats := b.authorizationServer.stats(t); stats.Revocations != 1 || stats.Logouts != 1 {
		t.Errorf("the authorization server saw %d revocations and %d logouts, want 1 and 1", stats.Revocations, stats.Logouts)
	}
	b.check(t)
}
