// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-bff/caddy-bff/caddymodule"
	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// authority signs the certificates of all servers of a run.
var authority = astest.NewAuthority()

// signingKeys are those of the authorization servers, by algorithm.
var signingKeys = map[string]*astest.Key{
	"RS256": astest.NewKey("RS256", "key-1"), "PS256": astest.NewKey("PS256", "key-1"), "ES256": astest.NewKey("ES256", "key-1"),
}

// setting is what a scenario needs before anything runs.
type setting struct {
	as astest.Options
	// bff are further options of bff in the Caddyfile; {dir} is where the files are.
	bff string
	// credentials are client_secret or client_auth, in the Caddyfile. Default: the
	// secret, by client_secret_basic.
	credentials string
	// clientCertificate is shown to the authorization server and to the resource
	// server; nil: none.
	clientCertificate *astest.Certificate
	// proxy are further options of bff_proxy.
	proxy string
	// files are written into {dir}.
	files map[string][]byte
}

// gateway is a Caddy that runs, with its site at https://localhost. The authorization
// server is at https://127.0.0.1, which is another site to a browser.
type gateway struct {
	t      *testing.T
	dir    string
	origin string
	api    string // origin of the resource server
	as     *astest.Server
	rs     *astest.ResourceServer
}

const caddyfile = `{
	admin off
	persist_config off
	auto_https off
	grace_period 1s
	storage file_system {dir}
	log {
		output file {dir}/log
		level DEBUG
		format json
	}
	bff {
		store memory
		keys {file.{dir}/keys}
	}
}
https://{host} {
	bind 127.0.0.1
	tls {dir}/server.pem {dir}/server.key
	bff {
		issuer    {issuer}
		client_id app
		trust_ca  {dir}/ca.pem
		claims    sub name email nickname
		{credentials}
		{bff}
	}
	handle /api/* {
		bff_proxy {api} {
			{proxy}
			transport http {
				tls_trust_pool file {dir}/ca.pem
				{client_certificate}
			}
		}
	}
	handle {
		respond "the application"
	}
}
`

// start runs a gateway until the test ends.
func start(t *testing.T, s setting) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir()}
	if s.as.ClientKeys == nil {
		s.as.ClientKeys = g.publishedKeys
	}
	algorithm := s.as.Algorithm
	s.as.Algorithm = "" // to make an RSA key takes longer than most scenarios
	g.as = astest.New(s.as)
	g.as.SetKeys(signingKeys[algorithm])
	g.as.StartTLS(t, authority)
	g.rs = g.as.ResourceServer()
	api := httptest.NewUnstartedServer(g.rs)
	api.TLS = authority.ServerConfig(tls.RequestClientCert)
	api.StartTLS()
	t.Cleanup(api.Close)

	g.api = api.URL
	public, private := authority.Issue("gateway").PEM()
	g.write("ca.pem", authority.PEM())
	g.write("server.pem", public)
	g.write("server.key", private)
	g.write("keys", []byte(strings.Repeat("key of the conformance tests ", 2)))
	for name, content := range s.files {
		g.write(name, content)
	}
	showCertificate := ""
	if s.clientCertificate != nil {
		public, private := s.clientCertificate.PEM()
		g.write("client.pem", public)
		g.write("client.key", private)
		showCertificate = "tls_client_auth {dir}/client.pem {dir}/client.key"
	}
	if s.credentials == "" {
		s.credentials = "client_secret {file.{dir}/secret}"
		g.write("secret", []byte("secret"))
	}
	config := strings.NewReplacer("{bff}", s.bff, "{proxy}", s.proxy, "{credentials}", s.credentials, "{client_certificate}", showCertificate).Replace(caddyfile)
	config = strings.NewReplacer("{dir}", g.dir, "{issuer}", g.as.Issuer(), "{api}", api.URL).Replace(config)
	for attempt := 1; ; attempt++ {
		host := "localhost:" + freePort()
		g.origin = "https://" + host
		err := g.load(strings.ReplaceAll(config, "{host}", host))
		if err == nil {
			break
		}
		if attempt == 5 || !errors.Is(err, syscall.EADDRINUSE) { // somebody else was faster
			t.Fatalf("starting Caddy: %v", err)
		}
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	return g
}

func (g *gateway) load(config string) error {
	g.t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		g.t.Fatalf("adapting: %v\n%s", err, config)
	}
	return caddy.Load(adapted, true)
}

func (g *gateway) write(name string, content []byte) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), content, 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// publishedKeys is the JWK Set of the client, as its jwks_uri gives it. It is called
// while the authorization server answers.
func (g *gateway) publishedKeys() []byte {
	answer, err := overTLS.Get(g.origin + "/bff/jwks")
	if err != nil {
		return nil // the signature will not be accepted
	}
	defer answer.Body.Close()
	var doc json.RawMessage
	if err := json.NewDecoder(answer.Body).Decode(&doc); err != nil {
		return nil
	}
	return doc
}

// overTLS is a client that trusts the servers of a run, and keeps nothing.
var overTLS = &http.Client{Transport: &http.Transport{
	TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}, DisableKeepAlives: true, DisableCompression: true,
}}

// answered is the message under which the log says why a request was refused, with
// the code of the answer.
const answered = "answered with an error"

// reasons are the errors that the gateway has logged with a message since so many
// bytes of its log, without what differs from run to run.
func (g *gateway) reasons(since int, message string) []string {
	g.t.Helper()
	var list []string
	for line := range strings.Lines(g.log()[since:]) {
		var entry struct{ Msg, Error string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			list = append(list, strings.NewReplacer(g.as.Issuer(), "<issuer>", g.origin, "<site>").Replace(entry.Error))
		}
	}
	return list
}

func (g *gateway) log() string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, "log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

func freePort() string {
	s := httptest.NewUnstartedServer(nil)
	defer s.Listener.Close()
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	return port
}
