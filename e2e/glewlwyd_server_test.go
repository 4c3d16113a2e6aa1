// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// glewlwyd is the authorization server of that name, in C, with a database of its
// own: as Debian packages it, set up over its administration API.
type glewlwyd struct {
	issuer string
	base   string // where everybody sees it: before it stands what writes the journal
	admin  *browser

	database string // its file
	// one at a time may have it: two logins take each other's rows in the database, and
	// while somebody else reads that, the server cannot write.
	one sync.Mutex

	mu      sync.Mutex
	journal []exchange
}

// exchange is a request that the server has got from a client, and its answer.
type exchange struct {
	path   string // below the issuer
	form   url.Values
	header http.Header
	status int
	typ    string // of the answer
	answer []byte
}

// member gives a member of a JSON answer.
func (e exchange) member(name string) string {
	var members map[string]any
	_ = json.Unmarshal(e.answer, &members)
	value, _ := members[name].(string)
	return value
}

// glewlwydSchema makes an empty database, with an administrator.
const glewlwydSchema = "/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3"

const (
	glewlwydPassword = "only-for-these-tests"
	glewlwydResource = "https://api.example.test" // nothing but URLs may be resources
)

// glewlwydInstalled gives the path of the server, when it and its database are there.
func glewlwydInstalled(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("glewlwyd")
	if err != nil {
		missing(t, "Glewlwyd", "install the package glewlwyd")
	}
	for _, component := range []string{"/usr/bin/sqlite3", glewlwydSchema} {
		if _, err := os.Stat(component); err != nil {
			missing(t, component, "install the package glewlwyd of Debian")
		}
	}
	return path
}

// startGlewlwyd starts the server with one user, alice, who has granted all
// clients what they ask for.
func startGlewlwyd(t *testing.T, accessTokenLife time.Duration, clients ...map[string]any) *glewlwyd {
	t.Helper()
	path := glewlwydInstalled(t)
	schema, err := os.Open(glewlwydSchema)
	if err != nil {
		t.Fatal(err)
	}
	defer schema.Close()
	dir := t.TempDir()
	database := exec.Command("sqlite3", filepath.Join(dir, "database"))
	database.Stdin = schema
	if out, err := database.CombinedOutput(); err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	port := strconv.Itoa(redistest.FreePort(t))
	g := &glewlwyd{database: filepath.Join(dir, "database")}
	g.base = g.record(t, "http://127.0.0.1:"+port)
	g.issuer = g.base + "/api/glewlwyd"
	configuration := filepath.Join(dir, "glewlwyd.conf")
	if err := os.WriteFile(configuration, fmt.Appendf(nil, `port = %s
bind_address = "127.0.0.1"
external_url = "%s"
login_url = "login.html"
api_prefix = "api"
static_files_path = "%s"
log_mode = "console"
log_level = "DEBUG"
cookie_secure = 0
session_key = "GLEWLWYD2_SESSION_ID"
admin_scope = "g_admin"
profile_scope = "g_profile"
user_module_path = "/usr/lib/glewlwyd/user"
client_module_path = "/usr/lib/glewlwyd/client"
user_auth_scheme_module_path = "/usr/lib/glewlwyd/scheme"
plugin_module_path = "/usr/lib/glewlwyd/plugin"
use_secure_connection = false
secure_connection_key_file = "/nonexistent"
secure_connection_pem_file = "/nonexistent"
secure_connection_ca_file = "/nonexistent"
hash_algorithm = "SHA512"
database = { type = "sqlite3"; path = "%s/database"; };
`, port, g.base, dir, dir), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "glewlwyd", exec.Command(path, "-c", configuration))
	p.line(t, "Glewlwyd started", 10*time.Second) // and listens a moment later
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	g.admin = newBrowser(t, g.base)
	g.signIn(t, g.admin, "admin", "password")
	for _, scope := range []string{"api", "offline_access"} {
		g.call(t, g.admin, http.MethodPost, "/api/scope/", map[string]any{
			"name": scope, "display_name": scope, "description": scope, "password_required": false, "scheme": map[string]any{},
		}, nil)
	}
	g.call(t, g.admin, http.MethodPost, "/api/mod/plugin/", map[string]any{
		"module": "oidc", "name": "glewlwyd", "display_name": "glewlwyd", "enabled": true, "parameters": g.parameters(t, accessTokenLife),
	}, nil)
	g.call(t, g.admin, http.MethodPost, "/api/user/", map[string]any{
		"username": "alice", "name": "Alice", "email": "alice@example.test", "password": glewlwydPassword, "enabled": true,
		"scope": []string{"openid", "api", "offline_access", "g_profile"},
	}, nil)
	alice := newBrowser(t, g.base)
	g.signIn(t, alice, "alice", glewlwydPassword)
	for _, client := range clients {
		g.call(t, g.admin, http.MethodPost, "/api/client/", client, nil)
		g.call(t, alice, http.MethodPut, fmt.Sprintf("/api/auth/grant/%s/", client["client_id"]), map[string]any{"scope": "openid api offline_access"}, nil)
	}
	return g
}

// parameters are those of its OpenID Connect plugin: PKCE is demanded, refresh tokens
// are used once.
func (g *glewlwyd) parameters(t *testing.T, accessTokenLife time.Duration) map[string]any {
	t.Helper()
	jwk := astest.NewKey("RS256", "glewlwyd").PrivateJWK()
	jwk["alg"] = "RS256"
	keys, err := json.Marshal(map[string]any{"keys": []any{jwk}})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{
		"iss": g.issuer, "subject-type": "public",
		"jwks-private": string(keys), "default-kid": "glewlwyd", "jwks-show": true, "jwt-type": "rsa", "jwt-key-size": "256",
		"access-token-duration": int(accessTokenLife.Seconds()), "refresh-token-duration": 3600, "code-duration": 60,
		"refresh-token-rolling": false, "refresh-token-one-use": "always",
		"auth-type-code-enabled": true, "auth-type-code-revoke-replayed": true, "auth-type-refresh-enabled": true,
		"allowed-scope": []string{"openid", "api", "offline_access"}, "scope": []any{},
		"name-claim": "mandatory", "name-claim-scope": []any{}, "email-claim": "mandatory", "email-claim-scope": []any{},
		"scope-claim": "no", "scope-claim-scope": []any{}, "address-claim": map[string]any{"type": "no"},
		"pkce-allowed": true, "pkce-required": true, "pkce-method-plain-allowed": false,
		"oauth-as-iss-id":   true,
		"oauth-par-allowed": true, "oauth-par-required": false, "oauth-par-request_uri-prefix": "urn:ietf:params:oauth:request_uri:", "oauth-par-duration": 60,
		"request-parameter-allow": true, "request-parameter-ietf-strict": true, "request-maximum-exp": 3600,
		"client-jwks-parameter": "jwks", "client-jwks_uri-parameter": "jwks_uri", "client-pubkey-parameter": "pubkey",
		"oauth-fapi-allow-jarm": true,
		"oauth-dpop-allowed":    true, "oauth-dpop-iat-duration": 60, "oauth-dpop-nonce-mandatory": false,
		"resource-allowed": true, "resource-scope": map[string]any{"api": []string{glewlwydResource}},
		"introspection-revocation-allowed": true, "introspection-revocation-allow-target-client": true, "introspection-revocation-auth-scope": []any{},
		"session-management-allowed": true, "session-cookie-name": "GLEWLWYD2_OIDC_SID", "session-cookie-expiration": 3600,
		"back-channel-logout-allowed": true,
	}
}

func (g *glewlwyd) signIn(t *testing.T, b *browser, user, password string) {
	t.Helper()
	g.call(t, b, http.MethodPost, "/api/auth/", map[string]any{"username": user, "password": password}, nil)
}

// call calls an API of the server.
func (g *glewlwyd) call(t *testing.T, b *browser, method, path string, body, into any) {
	t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, g.base+path, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s, %v", method, path, res.Status, got, err)
	}
	if into != nil {
		if err := json.Unmarshal(got, into); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, got)
		}
	}
}

// record starts what stands before the server and writes the journal.
func (g *glewlwyd) record(t *testing.T, server string) string {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.one.Lock()
		defer g.one.Unlock()
		path := strings.TrimPrefix(r.URL.Path, "/api/glewlwyd/")
		if !slices.Contains([]string{"auth", "par", "token", "introspect", "revoke", "userinfo"}, path) {
			proxy.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		e := exchange{path: path, header: r.Header.Clone(), form: r.URL.Query()}
		if r.Method == http.MethodPost {
			e.form, _ = url.ParseQuery(string(body))
		}
		got := httptest.NewRecorder()
		proxy.ServeHTTP(got, r)
		e.status, e.answer = got.Code, got.Body.Bytes()
		e.typ, _, _ = strings.Cut(got.Header().Get("Content-Type"), ";")
		g.mu.Lock()
		g.journal = append(g.journal, e)
		g.mu.Unlock()
		maps.Copy(w.Header(), got.Header())
		w.WriteHeader(got.Code)
		_, _ = w.Write(e.answer)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

// seen gives what came at a path from a client, with a grant of that type if one is
// named.
func (g *glewlwyd) seen(client, path, grant string) []exchange {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.journal), func(e exchange) bool {
		name, _, basic := (&http.Request{Header: e.header}).BasicAuth()
		if !basic {
			name = e.form.Get("client_id")
		}
		return name != client || e.path != path || grant != "" && e.form.Get("grant_type") != grant
	})
}

// refreshTokens counts those of a client that the server has given out, and those
// of them that are still good, by its database.
func (g *glewlwyd) refreshTokens(t *testing.T, client string) (all, enabled int) {
	t.Helper()
	g.one.Lock()
	defer g.one.Unlock()
	query := exec.Command("sqlite3", "-readonly", "-cmd", ".timeout 5000", "-separator", " ", g.database,
		"SELECT count(*), coalesce(sum(gpor_enabled), 0) FROM gpo_refresh_token WHERE gpor_client_id = '"+client+"'")
	out, err := query.CombinedOutput()
	if err == nil {
		_, err = fmt.Sscan(string(out), &all, &enabled)
	}
	if err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	return all, enabled
}

// secrets gives every code and token that went through.
func (g *glewlwyd) secrets() (secrets []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.journal {
		for _, secret := range []string{e.form.Get("code"), e.form.Get("client_assertion"), e.member("access_token"), e.member("refresh_token"), e.member("id_token")} {
			if secret != "" {
				secrets = append(secrets, secret)
			}
		}
	}
	return secrets
}
