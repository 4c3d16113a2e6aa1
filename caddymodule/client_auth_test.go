// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// A105, A605: every option of client_auth that is wrong, missing or of no use is
// an error with file and line, and the same in JSON.
func TestWrongClientAuth(t *testing.T) {
	for _, tt := range []struct {
		secret, caddyfile, json, want string
		line                          int // of the option at fault, from that of client_auth
	}{
		{"", "x", `"x"`, `client_auth is "x", should be one of: client_secret_basic, client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth, none`, 0},
		{"", "client_secret_jwt", `"client_secret_jwt"`, "client_auth client_secret_jwt needs a client_secret", 0},
		{"", "private_key_jwt", `{"method":"private_key_jwt"}`, "client_auth private_key_jwt needs a key_file", 0},
		{"secret", "private_key_jwt {\nkey_file /k\n}", `{"method":"private_key_jwt","key_file":"/k"}`, "client_auth private_key_jwt takes no client_secret", 0},
		{"", "tls_client_auth", `"tls_client_auth"`, "client_auth tls_client_auth needs a certificate and its private_key", 0},
		{"", "self_signed_tls_client_auth {\ncertificate /c\n}", `{"method":"self_signed_tls_client_auth","certificate":"/c"}`, "client_auth certificate needs its private_key", 1},
		{"", "none {\nprivate_key /c\n}", `{"method":"none","private_key":"/c"}`, "client_auth private_key needs its certificate", 1},
		{"", "private_key_jwt {\nkey_file /k\nalg none\n}", `{"method":"private_key_jwt","key_file":"/k","alg":"none"}`, `client_auth alg is "none", should be one of: ES256`, 2},
		{"", "private_key_jwt {\nkey_file /k\nalg HS256\n}", `{"method":"private_key_jwt","key_file":"/k","alg":"HS256"}`, `client_auth alg is "HS256"`, 2},
		{strings.Repeat("s", 64), "client_secret_jwt {\nalg RS256\n}", `{"method":"client_secret_jwt","alg":"RS256"}`, `client_auth alg is "RS256", should be one of: HS256`, 1},
		{"secret", "client_secret_post {\nalg HS256\n}", `{"method":"client_secret_post","alg":"HS256"}`, "client_auth alg means nothing with client_auth client_secret_post", 1},
		{"", "none {\nkey_file /k\n}", `{"method":"none","key_file":"/k"}`, "client_auth key_file means nothing with client_auth none, unless request_object is required", 1},
		{strings.Repeat("s", 32), "client_secret_jwt {\nkey_id k\n}", `{"method":"client_secret_jwt","key_id":"k"}`, "client_auth key_id means nothing with client_auth client_secret_jwt", 1},
		{"", "tls_client_auth {\ncertificate /c\nprivate_key /k\naudience issuer\n}", `{"method":"tls_client_auth","certificate":"/c","private_key":"/k","audience":"issuer"}`, "client_auth audience means nothing with client_auth tls_client_auth", 3},
		{"secret", "client_secret_basic {\ntyp JWT\n}", `{"method":"client_secret_basic","typ":"JWT"}`, "client_auth typ means nothing with", 1},
		{"", "private_key_jwt {\nkey_file /k\naudience https://as.example.com/\n}", `{"method":"private_key_jwt","key_file":"/k","audience":"https://as.example.com/"}`, `client_auth audience is "https://as.example.com/", should be one of: issuer, token_endpoint`, 2},
		{"", "private_key_jwt {\nkey_file /k\ntyp jwt\n}", `{"method":"private_key_jwt","key_file":"/k","typ":"jwt"}`, `client_auth typ is "jwt"`, 2},
		{"", "private_key_jwt {\nkey_file /k\nkey_id schlüssel\n}", `{"method":"private_key_jwt","key_file":"/k","key_id":"schlüssel"}`, "client_auth key_id: key ID", 2},
		{strings.Repeat("canary", 5), "client_secret_jwt", `"client_secret_jwt"`, "client_secret: client secret has 30 bytes, HS256 needs at least 32", -1},
		{strings.Repeat("canary", 6), "client_secret_jwt {\nalg HS512\n}", `{"method":"client_secret_jwt","alg":"HS512"}`, "client_secret: client secret has 36 bytes, HS512 needs at least 64", -1},
	} {
		written, member := "issuer https://as.example.com\nclient_id shop\n", ""
		if tt.secret != "" {
			written, member = written+"client_secret "+tt.secret+"\n", `"client_secret":"`+tt.secret+`",`
		} else {
			written += "base_path /x\n"
		}
		_, err := adaptConfig("app.example.com {\nbff {\n" + written + "client_auth " + tt.caddyfile + "\nclaims sub\n}\n}\n")
		if want := fmt.Sprintf(", at Caddyfile:%d", 6+tt.line); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: adapting: error %v, want %q%s", tt.caddyfile, err, tt.want, want)
		}
		err = provisionAt(t, "app.example.com", `{"issuer":"https://as.example.com","client_id":"shop",`+member+`"client_auth":`+tt.json+`}`)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "bff of site app.example.com (") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: loading: error %v, want %q and the site", tt.json, err, tt.want)
		}
	}
	// The dispenser's own: unknown, missing, extra and repeated words.
	for caddyfile, want := range map[string]string{
		"client_auth":                                                       "client_auth needs a value, at Caddyfile:6",
		"client_auth none none":                                             "unexpected argument 'none' of client_auth, at Caddyfile:6",
		"client_auth none\nclient_auth none":                                "client_auth already specified, at Caddyfile:7",
		"client_auth none {\nkey /x\n}":                                     "unrecognized option 'key' of client_auth, at Caddyfile:7",
		"client_auth private_key_jwt {\nkey_file\n}":                        "client_auth key_file needs a value, at Caddyfile:7",
		"client_auth private_key_jwt {\nkey_file /a /b\n}":                  "unexpected argument '/b' of client_auth key_file, at Caddyfile:7",
		"client_auth private_key_jwt {\nkey_file /a\nkey_file /a\n}":        "client_auth key_file already specified, at Caddyfile:8",
		"client_auth private_key_jwt {\nkey_file {file./run/key.pem}\n}":    `client_auth key_file is "{file./run/key.pem}": it takes the path itself, so that a new file is noticed, at Caddyfile:7`,
		"client_auth none {\ncertificate {file./c}\nprivate_key /k\n}":      "it takes the path itself, so that a new file is noticed, at Caddyfile:7",
		"client_auth private_key_jwt {\nkey_file \"{\\\"kty\\\":1}\"\n}":    "client_auth key_file",
		"client_auth private_key_jwt {\nkey_file \"-----BEGIN\ncanary\"\n}": "client_auth key_file is not the path of a file, at Caddyfile:7",
	} {
		_, err := adaptConfig("app.example.com {\nbff {\nissuer https://as.example.com\nclient_id shop\nbase_path /x\n" + caddyfile + "\n}\n}\n")
		if strings.Contains(caddyfile, "kty") {
			if err != nil { // braces: for the load to say
				t.Errorf("%s: %v", caddyfile, err)
			}
			continue
		}
		if err == nil || !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", caddyfile, err, want)
		}
	}
}

// What only the load can find: files that are not there, and what is in them.
func TestClientAuthFilesAtLoad(t *testing.T) {
	dir := t.TempDir()
	path := func(name, content string) string {
		return writeFile(t, filepath.Join(dir, name), []byte(content))
	}
	certificate, key := astest.SelfSigned("app").PEM()
	ec := path("ec.pem", string(astest.NewKey("ES256", "").Files()["PKCS#8"]))
	t.Setenv("BFF_TEST_KEY_FILE", ec)
	t.Setenv("BFF_TEST_KEY", "-----BEGIN PRIVATE KEY-----\ncanary")
	t.Setenv("BFF_TEST_SECRET", "canary-short")
	const start = `{"issuer":"https://as.example.com","client_id":"shop",`
	for config, want := range map[string]string{
		`"client_auth":{"method":"private_key_jwt","key_file":"/nowhere/key.pem"}`:                                                     "client_auth key_file: oauth: signing key: open /nowhere/key.pem",
		`"client_auth":{"method":"private_key_jwt","key_file":"` + path("text", "canary") + `"}`:                                       "no private key in it",
		`"client_auth":{"method":"private_key_jwt","key_file":"` + ec + `","alg":"PS256"}`:                                             "not of the kind that alg PS256 takes",
		`"client_auth":{"method":"private_key_jwt","key_file":"{env.BFF_TEST_NONE}"}`:                                                  "client_auth key_file is",
		`"client_auth":{"method":"private_key_jwt","key_file":"{env.BFF_TEST_KEY}"}`:                                                   "client_auth key_file is not the path of a file",
		`"client_auth":{"method":"tls_client_auth","certificate":"` + path("c", string(certificate)) + `","private_key":"` + ec + `"}`: "private key does not match public key",
		`"client_auth":{"method":"tls_client_auth","certificate":"/nowhere/c.pem","private_key":"` + path("k", string(key)) + `"}`:     "client_auth certificate: oauth: client certificate: open /nowhere/c.pem",
		`"client_auth":{"method":"private_key_jwt","keyfile":"/x"}`:                                                                    "unknown field",
		`"client_auth":["none"]`:          "client_auth",
		`"client_auth":{"key_file":"/x"}`: "bff needs a client_secret, or client_auth none for a public client, or a client_auth with a key or certificate",
		`"client_secret":"{env.BFF_TEST_SECRET}","client_auth":"client_secret_jwt"`: "client_secret: client secret has 12 bytes, HS256 needs at least 32",
	} {
		err := provisionAt(t, "app.example.com", start+config+"}")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
	for _, config := range []string{
		`"client_auth":{"method":"private_key_jwt","key_file":"{env.BFF_TEST_KEY_FILE}","key_id":"k","alg":"ES256","audience":"token_endpoint","typ":"none"}`,
		`"client_auth":{"method":"none","certificate":"` + path("c", string(certificate)) + `","private_key":"` + path("k", string(key)) + `"}`,
		`"client_secret":"secret","client_auth":{"certificate":"` + path("c", string(certificate)) + `","private_key":"` + path("k", string(key)) + `"}`,
	} {
		if err := provisionAt(t, "app.example.com", start+config+"}"); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// The short form of JSON and the long one are the same, and go back as they came.
func TestClientAuthJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"client_auth":"none"}`:                                       `{"client_auth":"none"}`,
		`{"client_auth":{"method":"none"}}`:                            `{"client_auth":"none"}`,
		`{"client_auth":{"method":"private_key_jwt","key_file":"/k"}}`: `{"client_auth":{"method":"private_key_jwt","key_file":"/k"}}`,
		`{}`: `{}`,
	} {
		var h Handler
		if err := json.Unmarshal([]byte(in), &h); err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(&h)
		if err != nil || string(out) != want {
			t.Errorf("%s became %s, %v", in, out, err)
		}
	}
}

// keyBench is a bench whose client authenticates with a key, registered at the
// authorization server by its jwks_uri.
func keyBench(t *testing.T, options string, key *astest.Key) (b *bench, keyFile string) {
	t.Helper()
	keyFile = filepath.Join(t.TempDir(), "key.json")
	writeKey(t, keyFile, key)
	b = newBench(t, benchOptions{
		as:       astest.Options{AuthMethod: "private_key_jwt", ClientKeys: func() []byte { return b.fetch("/bff/jwks") }},
		bff:      "client_auth private_key_jwt {\nkey_file " + keyFile + "\n" + options + "\n}",
		noSecret: true,
	})
	return b, keyFile
}

func writeKey(t *testing.T, path string, keys ...*astest.Key) {
	t.Helper()
	writeFile(t, path, astest.PrivateKeySet(keys...))
}

// writeFile writes a file and returns its path.
func writeFile(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fetch gets a document from the gateway.
func (b *bench) fetch(path string) []byte {
	b.t.Helper()
	r, err := http.NewRequest(http.MethodGet, b.origin()+path, nil)
	if err != nil {
		b.t.Error(err)
		return nil
	}
	res, err := send(&http.Client{Timeout: 10 * time.Second}, r, b.reloaded)
	if err != nil {
		b.t.Error(err)
		return nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Error(err)
	}
	return body
}

// CA-03, CA-04, CA-09: login, call, refresh and logout with a strict server that
// knows the client by the endpoint jwks; the key file changes under way, without a
// reload; and the same after a reload of another configuration.
func TestPrivateKeyJWT(t *testing.T) {
	first, second := astest.NewKey("ES256", "one"), astest.NewKey("RS256", "two")
	b, keyFile := keyBench(t, "", first)
	c := b.browser().login()
	if got := c.burst(1); got[200] != 1 {
		t.Fatalf("answers %v", got)
	}
	signedBy := func() any {
		requests := b.as.Requests(astest.Token)
		header, _ := requests[len(requests)-1].AssertionParts()
		return header["kid"]
	}
	// The new key is published, and the old one signs until everybody knows that.
	writeKey(t, keyFile, second)
	time.Sleep(1100 * time.Millisecond)
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusOK || signedBy() != "one" {
		t.Fatalf("with a new key in the file: %d %s, signed by %v", a.StatusCode, a.body, signedBy())
	}
	if log := b.log(); !strings.Contains(log, "the signing key of the client has changed") {
		t.Error("the log does not tell of the new key")
	}
	// Another configuration: what was published before still is.
	b.config = []byte(strings.Replace(string(b.config), `"handler":"bff"`, `"handler":"bff","http_timeout":9000000000`, 1))
	b.load()
	if got := kids(t, b.fetch("/bff/jwks")); got != "two one" {
		t.Errorf("published after a reload: %s", got)
	}
	// A server that takes only the new one: refused once, and no session is lost.
	b.as.Configure(func(o *astest.Options) { o.AssertionAlgs = []string{"RS256"} })
	unlucky := b.browser()
	if a := unlucky.get(unlucky.authorize(unlucky.startLogin("/")), arrive...); a.Header.Get("X-BFF-Error") != codeTokenUnavailable {
		t.Errorf("a login with the old key: %d %s", a.StatusCode, a.body)
	}
	b.browser().login()
	if signedBy() != "two" {
		t.Errorf("signed by %v", signedBy())
	}
	if a := c.do(http.MethodPost, "/bff/logout", "", script...); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	// Both tokens are revoked, one after the other, with an assertion for each: the
	// server asks for the keys while the gateway is there.
	revoked := func() (n int) {
		for _, r := range b.as.Requests(astest.Revoke) {
			if !r.Done.IsZero() {
				n++
			}
		}
		return n
	}
	for range 500 {
		if revoked() == 2 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, r := range append(b.as.Requests(astest.Token), b.as.Requests(astest.Revoke)...) {
		if _, claims := r.AssertionParts(); claims["aud"] != b.as.Issuer() || r.ClientAuth != "private_key_jwt" ||
			r.Status != http.StatusOK && r.AuthError != "alg is ES256" {
			t.Errorf("%s: %d %s %s", r.Endpoint, r.Status, r.ClientAuth, r.AuthError)
		}
	}
	if n := revoked(); n != 2 {
		t.Errorf("%d tokens were revoked, want both", n)
	}
	for _, r := range b.as.Requests(astest.Token) {
		if strings.Contains(b.log(), r.Assertion) {
			t.Error("an assertion is in the log")
		}
	}
}

func kids(t *testing.T, set []byte) string {
	t.Helper()
	var doc struct{ Keys []struct{ Kid string } }
	if err := json.Unmarshal(set, &doc); err != nil {
		t.Fatalf("%v: %s", err, set)
	}
	var list []string
	for _, k := range doc.Keys {
		list = append(list, k.Kid)
	}
	return strings.Join(list, " ")
}

// CA-01 to CA-03 for client_secret_jwt: the secret comes from a file, and leaves
// as the key of a signature alone.
func TestClientSecretJWT(t *testing.T) {
	const secret = "canary-secret-of-more-than-thirty-two-bytes"
	file := writeFile(t, filepath.Join(t.TempDir(), "secret"), []byte(secret+"\n"))
	b := newBench(t, benchOptions{
		as:  astest.Options{AuthMethod: "client_secret_jwt", ClientSecret: secret},
		bff: "client_secret {file." + file + "}\nclient_auth client_secret_jwt", noSecret: true,
	})
	c := b.browser().login()
	if a := c.do(http.MethodPost, "/bff/refresh", "", script...); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for _, r := range b.as.Requests(astest.Token) {
		if strings.Contains(r.Body, secret) || len(r.Header["Authorization"]) > 0 {
			t.Errorf("the secret was sent: %s", r.Body)
		}
	}
	if strings.Contains(b.log(), "canary") {
		t.Error("the secret is in the log")
	}
	c.get("/bff/jwks").wantError(t, http.StatusNotFound, codeNotFound)
}

// CA-08, MT-01, MD-09: mutual TLS all the way. The access token is bound to the
// certificate, and the resource server takes it from the upstream that has a
// transport with the same one, and from no other.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	authority := astest.NewAuthority()
	write := func(name string, content []byte) string { return writeFile(t, filepath.Join(dir, name), content) }
	certificate, key := astest.SelfSigned("app").PEM()
	certFile, keyFile, ca := write("cert.pem", certificate), write("key.pem", key), write("ca.pem", authority.PEM())
	var b *bench
	as := astest.New(astest.Options{
		AuthMethod: "self_signed_tls_client_auth", MTLSAliases: true, BindTokens: true,
		ClientKeys: func() []byte { return b.fetch("/bff/jwks") },
	}).StartTLS(t, authority)
	api := httptest.NewUnstartedServer(as.ResourceServer())
	api.TLS = authority.ServerConfig(tls.RequestClientCert)
	api.StartTLS()
	t.Cleanup(api.Close)
	address := api.Listener.Addr().String()
	b = newBench(t, benchOptions{
		server: as, noSecret: true,
		bff: "trust_ca " + ca + "\nclient_auth self_signed_tls_client_auth {\ncertificate " + certFile + "\nprivate_key " + keyFile + "\n}",
		site: `
	handle /api/* {
		bff_proxy https://` + address + ` {
			transport http {
				tls_trust_pool file ` + ca + `
				tls_client_auth ` + certFile + ` ` + keyFile + `
			}
		}
	}
	handle /bare/* {
		bff_proxy https://` + address + ` {
			transport http {
				tls_trust_pool file ` + ca + `
			}
		}
	}
	handle {
		respond open
	}`,
	})
	c := b.browser().login()
	if got := c.burst(3); got[200] != 3 {
		t.Errorf("with the certificate: %v", got)
	}
	if n := len(b.as.RefreshRequests()); n != 0 {
		t.Errorf("%d refreshes: the token was refused", n)
	}
	if a := c.get("/bare/x", script...); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("without it: %d", a.StatusCode)
	}
	for _, r := range b.as.Requests("") {
		authenticated := r.Endpoint == astest.Token || r.Endpoint == astest.Revoke
		if (r.Certificate != nil) != authenticated || r.AuthError != "" {
			t.Errorf("%s: certificate %v, %s", r.Endpoint, r.Certificate != nil, r.AuthError)
		}
	}
}
