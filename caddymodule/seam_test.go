// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"context"
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
