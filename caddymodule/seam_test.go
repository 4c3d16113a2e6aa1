// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-bff/caddy-bff/upstream"
)

// The seam is where the gateway is joined to Caddy: a grant in the request's
// context on one side of reverse_proxy, the transport that honours it on the
// other. These tests run a real Caddy with a handler that makes up grants, so
// that they say what Caddy does and nothing about sessions.

func init() {
	caddy.RegisterModule(seamGrant{})
	httpcaddyfile.RegisterHandlerDirective("seam_grant", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(seamGrant), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("seam_grant", httpcaddyfile.Before, "method")
}

// seamHeader names the source of a request; a request without it gets no grant.
const seamHeader = "Seam-Source"

var seamSources sync.Map // name to *seamSource

type seamGrant struct{}

func (seamGrant) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bff_seam_grant", New: func() caddy.Module { return new(seamGrant) }}
}

func (seamGrant) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name := r.Header.Get(seamHeader)
	r.Header.Del(seamHeader)
	source, ok := seamSources.Load(name)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	g := &upstream.Grant{
		Source:         source.(*seamSource),
		ReservedCookie: func(name string) bool { return name == "__Host-Http-bff" },
	}
	if r.ProtoMajor == 1 {
		g.ResponseHeader = w.Header()
	}
	ctx := upstream.WithGrant(r.Context(), g)
	caddyhttp.SetVar(ctx, "seam_grant", g)
	return next.ServeHTTP(w, r.WithContext(ctx))
}

// seamSource is a session whose tokens are its name and a generation.
type seamSource struct {
	name      string
	refreshes atomic.Int64
	accepted  atomic.Int64
	fail      atomic.Bool
}

// canary is in every token: no log may show it.
const canary = "canary-of-a-token"

func newSeamSource(t *testing.T) *seamSource {
	t.Helper()
	s := &seamSource{name: strings.NewReplacer("/", ".", " ", "_").Replace(t.Name())}
	seamSources.Store(s.name, s)
	t.Cleanup(func() { seamSources.Delete(s.name) })
	return s
}

func (s *seamSource) token(generation int64) string {
	return fmt.Sprintf("%s.%s.%d", canary, s.name, generation)
}

func (s *seamSource) bearer(generation int64) string { return "Bearer " + s.token(generation) }

func (s *seamSource) Token(context.Context) (string, error) {
	return s.token(s.refreshes.Load()), nil
}

func (s *seamSource) Refresh(_ context.Context, refused string) (string, error) {
	if s.fail.Load() {
		return "", errors.New("authorization server is out")
	}
	if refused == s.token(s.refreshes.Load()) {
		s.refreshes.Add(1)
	}
	return s.token(s.refreshes.Load()), nil
}

func (s *seamSource) Accepted(string) { s.accepted.Add(1) }

// seenRequest is what a resource server got.
type seenRequest struct {
	Method, Path string
	Proto        int
	Header       http.Header
	Trailer      http.Header
	Body         []byte
	Err          error // of reading the body
}

// resourceServer is an upstream that notes what it gets. It answers 401 to every
// token of generation 0 when strict.
type resourceServer struct {
	*httptest.Server
	strict bool

	mu   sync.Mutex
	seen []seenRequest
}

func (rs *resourceServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	rs.mu.Lock()
	rs.seen = append(rs.seen, seenRequest{r.Method, r.URL.RequestURI(), r.ProtoMajor, r.Header.Clone(), r.Trailer.Clone(), body, err})
	rs.mu.Unlock()
	if rs.strict && strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
		refuse(w)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), len(body))
}

// refuse answers as RFC 6750 section 3.1 says.
func refuse(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="r", error="invalid_token"`)
	w.Header().Set("X-First-Answer", "yes")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, "first answer")
}

func (rs *resourceServer) requests() []seenRequest {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.Clone(rs.seen)
}

// address is where reverse_proxy finds the server.
func (rs *resourceServer) address() string { return rs.Listener.Addr().String() }

// newResourceServer starts an upstream. kind is http, https or h2c.
func newResourceServer(t *testing.T, kind string, h http.Handler) *resourceServer {
	t.Helper()
	rs := new(resourceServer)
	if h == nil {
		h = rs
	}
	rs.Server = httptest.NewUnstartedServer(h)
	switch kind {
	case "https":
		rs.EnableHTTP2 = true
		rs.StartTLS()
	case "h2c":
		rs.Config.Protocols = new(http.Protocols)
		rs.Config.Protocols.SetUnencryptedHTTP2(true)
		rs.Start()
	default:
		rs.Start()
	}
	t.Cleanup(rs.Close)
	return rs
}

// gateway is a running Caddy.
type gateway struct {
	address string
	logFile string
	config  []byte
}

func (g *gateway) url(path string) string { return "http://" + g.address + path }

// log returns what Caddy has logged so far.
func (g *gateway) log(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(g.logFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// startGateway runs Caddy with one site whose body is given. There is one Caddy
// in a process: tests that use it must not run in parallel with each other.
func startGateway(t *testing.T, site string) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{address: freeAddress(t), logFile: filepath.Join(dir, "log")}
	g.config = adapt(t, fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 5s
	storage file_system %s
	log {
		output file %s
		level DEBUG
	}
	servers {
		protocols h1 h2c
	}
}
http://%s {
	bind 127.0.0.1
	seam_grant
%s
}
`, dir, g.logFile, g.address, site))
	if err := caddy.Load(g.config, true); err != nil {
		t.Fatalf("starting Caddy: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		log, err := os.ReadFile(g.logFile)
		if err != nil {
			t.Error(err)
		}
		if bytes.Contains(log, []byte(canary)) {
			t.Errorf("a token is in the log: %s", lineWith(string(log), canary))
		}
	})
	return g
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func adapt(t *testing.T, config string) []byte {
	t.Helper()
	b, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, config)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Fatalf("adapting: %v", w)
		}
	}
	return b
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client is a plain HTTP/1 client, h2c where asked for.
func client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: 5 * time.Second}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 60 * time.Second}
}

// call sends a request on behalf of a source and reads the answer.
func call(t *testing.T, c *http.Client, s *seamSource, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if s != nil {
		req.Header.Set(seamHeader, s.name)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// wantTokens checks which generations of the source's token arrived.
func wantTokens(t *testing.T, s *seamSource, seen []seenRequest, generations ...int64) {
	t.Helper()
	if len(seen) != len(generations) {
		t.Fatalf("upstream saw %d requests, want %d", len(seen), len(generations))
	}
	for i, g := range generations {
		if got := seen[i].Header["Authorization"]; !slices.Equal(got, []string{s.bearer(g)}) {
			t.Errorf("request %d had Authorization %q, want generation %d", i, got, g)
		}
	}
}

// TestSeamRoutes covers the ways a request takes through Caddy's routes.
// PX-01, PX-02, PX-09, PX-11, B201, B203, A406.
func TestSeamRoutes(t *testing.T) {
	rs := newResourceServer(t, "http", nil)
	rs.strict = true
	g := startGateway(t, fmt.Sprintf(`
	log
	handle /other/* {
		respond "not here" 418
	}
	handle_path /stripped/* {
		reverse_proxy %[1]s {
			transport bff
		}
	}
	handle /rewritten/* {
		rewrite * /base{path}?added=1
		header +X-Added once
		reverse_proxy %[1]s {
			transport bff
			header_up X-Up {http.request.method}
			header_up -X-Gone
			header_up Authorization "Bearer from-the-operator"
		}
	}
	handle /vars/* {
		respond "{http.vars.seam_grant}"
	}
	handle {
		reverse_proxy %[1]s {
			transport bff
		}
	}`, rs.address()))

	for _, version := range []string{"h1", "h2"} {
		c := client(t, version == "h2")
		run := func(name, path, want string, header []string, check func(*testing.T, *seamSource, *http.Response, []seenRequest)) {
			t.Run(version+"/"+name, func(t *testing.T) {
				s := newSeamSource(t)
				before := len(rs.requests())
				resp, body := call(t, c, s, "POST", g.url(path), strings.NewReader("hello"), header...)
				if resp.StatusCode != 200 || body != want {
					t.Errorf("answered %d %q, want 200 %q", resp.StatusCode, body, want)
				}
				if resp.Header.Get("X-First-Answer") != "" {
					t.Error("the first answer leaked into the second")
				}
				seen := rs.requests()[before:]
				wantTokens(t, s, seen, 0, 1)
				for i, r := range seen {
					if r.Method != "POST" || string(r.Body) != "hello" {
						t.Errorf("request %d was %s %q", i, r.Method, r.Body)
					}
				}
				if s.refreshes.Load() != 1 || s.accepted.Load() != 1 {
					t.Errorf("%d refreshes, %d accepted, want one of each", s.refreshes.Load(), s.accepted.Load())
				}
				if check != nil {
					check(t, s, resp, seen)
				}
			})
		}
		run("last handle of a group", "/api/x", "POST /api/x 5", nil, nil)
		run("handle_path", "/stripped/x?q=1", "POST /x?q=1 5", nil, nil)
		run("rewrite and header_up", "/rewritten/x", "POST /base/rewritten/x?added=1 5", []string{"X-Gone", "1"},
			func(t *testing.T, _ *seamSource, resp *http.Response, seen []seenRequest) {
				if got := resp.Header["X-Added"]; !slices.Equal(got, []string{"once"}) {
					t.Errorf("X-Added is %q", got)
				}
				for _, r := range seen {
					if r.Header.Get("X-Up") != "POST" || r.Header["X-Gone"] != nil {
						t.Errorf("header_up was not applied: %v", r.Header)
					}
				}
			})
		run("credentials of the client", "/api/x", "POST /api/x 5", []string{
			"Authorization", "Bearer of-an-attacker", "DPoP", "proof", "Proxy-Authorization", "Basic eDp5",
			"Cookie", "a=1; __Host-Http-bff=secret; b=2",
		}, func(t *testing.T, _ *seamSource, _ *http.Response, seen []seenRequest) {
			for _, r := range seen {
				if r.Header["Dpop"] != nil || r.Header["Proxy-Authorization"] != nil {
					t.Errorf("credentials of the client went upstream: %v", r.Header)
				}
				if got := r.Header.Get("Cookie"); got != "a=1; b=2" {
					t.Errorf("Cookie is %q", got)
				}
			}
		})
		if version == "h1" { // HTTP/2 has no Connection field
			run("hop-by-hop attack", "/api/x", "POST /api/x 5", []string{"Connection", "Authorization, close, X-Foo", "X-Foo", "1"},
				func(t *testing.T, _ *seamSource, _ *http.Response, seen []seenRequest) {
					if seen[0].Header["X-Foo"] != nil {
						t.Error("Caddy no longer takes off what Connection names: the test proves nothing")
					}
				})
		}
	}

	t.Run("grant does not print", func(t *testing.T) {
		s := newSeamSource(t)
		_, body := call(t, client(t, false), s, "GET", g.url("/vars/x"), nil)
		if strings.Contains(body, canary) || strings.Contains(body, s.name) || body == "" {
			t.Errorf("a placeholder shows the grant: %q", body)
		}
	})
	t.Run("no grant", func(t *testing.T) {
		before := len(rs.requests())
		resp, _ := call(t, client(t, false), nil, "GET", g.url("/api/x"), nil, "Authorization", "Bearer mine")
		if resp.StatusCode != 500 {
			t.Errorf("answered %d, want 500", resp.StatusCode)
		}
		if n := len(rs.requests()); n != before {
			t.Error("the upstream was asked")
		}
		if !strings.Contains(g.log(t), "request without a grant") {
			t.Error("nothing loud in the log")
		}
	})
}

// TestSeamUpstreams covers kinds and numbers of upstreams. PX-13, B217.
func TestSeamUpstreams(t *testing.T) {
	plain, tls, h2c := newResourceServer(t, "http", nil), newResourceServer(t, "https", nil), newResourceServer(t, "h2c", nil)
	other := newResourceServer(t, "http", nil)
	for _, rs := range []*resourceServer{plain, tls, h2c, other} {
		rs.strict = true
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeCertificate(t, ca, tls.Certificate())
	dead := freeAddress(t)
	g := startGateway(t, fmt.Sprintf(`
	handle /https/* {
		reverse_proxy https://%[2]s {
			transport bff {
				tls_trust_pool file %[5]s
				tls_server_name example.com
			}
		}
	}
	handle /h2c/* {
		reverse_proxy h2c://%[3]s {
			transport bff
		}
	}
	handle /both/* {
		reverse_proxy %[1]s %[4]s {
			lb_policy round_robin
			transport bff
		}
	}
	handle /dead/* {
		reverse_proxy %[6]s %[1]s {
			lb_policy first
			lb_try_duration 10s
			lb_try_interval 10ms
			fail_duration 1m
			transport bff
		}
	}
	handle /health/* {
		reverse_proxy %[4]s {
			health_uri /healthz
			health_interval 50ms
			transport bff
		}
	}`, plain.address(), tls.address(), h2c.address(), other.address(), ca, dead))
	c := client(t, false)

	t.Run("https", func(t *testing.T) {
		s := newSeamSource(t)
		resp, body := call(t, c, s, "POST", g.url("/https/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /https/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, tls.requests(), 0, 1)
		if tls.requests()[1].Proto != 2 {
			t.Error("not over HTTP/2")
		}
	})
	t.Run("h2c", func(t *testing.T) {
		s := newSeamSource(t)
		resp, body := call(t, c, s, "POST", g.url("/h2c/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /h2c/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, h2c.requests(), 0, 1)
		if h2c.requests()[1].Proto != 2 {
			t.Error("not over HTTP/2")
		}
	})
	t.Run("lb_policy", func(t *testing.T) {
		s := newSeamSource(t)
		for range 4 {
			if resp, _ := call(t, c, s, "GET", g.url("/both/x"), nil); resp.StatusCode != 200 {
				t.Errorf("answered %d", resp.StatusCode)
			}
		}
		n := 0
		for _, r := range slices.Concat(plain.requests(), other.requests()) {
			if r.Header.Get("Authorization") == s.bearer(1) {
				n++
			}
		}
		if n != 4 || s.refreshes.Load() != 1 {
			t.Errorf("%d accepted requests and %d refreshes, want 4 and 1", n, s.refreshes.Load())
		}
	})
	t.Run("dead upstream", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(plain.requests())
		resp, body := call(t, c, s, "POST", g.url("/dead/x"), strings.NewReader("hello"))
		if resp.StatusCode != 200 || body != "POST /dead/x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, plain.requests()[before:], 0, 1)
	})
	t.Run("health checks are bare", func(t *testing.T) {
		checked := func() *seenRequest {
			for _, r := range other.requests() {
				if r.Path == "/healthz" {
					return &r
				}
			}
			return nil
		}
		deadline := time.Now().Add(10 * time.Second)
		for checked() == nil && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		r := checked()
		if r == nil {
			t.Fatal("no health check arrived")
		}
		if r.Header["Authorization"] != nil {
			t.Errorf("health check had Authorization %q", r.Header["Authorization"])
		}
		if resp, _ := call(t, c, newSeamSource(t), "GET", g.url("/health/x"), nil); resp.StatusCode != 200 {
			t.Errorf("answered %d: a healthy upstream counts as unhealthy", resp.StatusCode)
		}
	})
}

// TestSeamReload replaces the config while a request is at the upstream that is
// about to refuse its token.
func TestSeamReload(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	rs := newResourceServer(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			close(held)
			<-release
			refuse(w)
			return
		}
		_, _ = io.WriteString(w, "done")
	}))
	g := startGateway(t, fmt.Sprintf(`
	reverse_proxy %s {
		transport bff
	}`, rs.address()))
	s := newSeamSource(t)
	type answer struct {
		status int
		body   string
	}
	answers := make(chan answer, 1)
	go func() {
		resp, body := call(t, client(t, false), s, "POST", g.url("/x"), strings.NewReader("hello"))
		answers <- answer{resp.StatusCode, body}
	}()
	<-held
	// The module is cleaned up when this returns, and the request still runs.
	if err := caddy.Load(g.config, true); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := <-answers; got != (answer{200, "done"}) {
		t.Errorf("answered %v", got)
	}
	if resp, _ := call(t, client(t, false), s, "GET", g.url("/x"), nil); resp.StatusCode != 200 {
		t.Errorf("after the reload: answered %d", resp.StatusCode)
	}
}

func writeCertificate(t *testing.T, file string, cert *x509.Certificate) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
