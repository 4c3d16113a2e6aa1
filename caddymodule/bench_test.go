// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// bench is a gateway in a real Caddy, between an authorization server and a
// resource server. There is one Caddy in a process: tests that use it do not
// run in parallel.
type bench struct {
	t        testing.TB
	as       *astest.Server
	rs       *astest.ResourceServer
	api      string // address of the resource server
	address  string
	logFile  string
	dir      string
	config   []byte
	stopped  bool
	reloaded time.Time // the last time a configuration replaced another one, or came after it
}

// benchOptions are what differs from test to test.
type benchOptions struct {
	as     astest.Options
	bff    string // further options of bff
	site   string // routes of the site; default: see defaultSite
	global string // further global options
	host   string // of the site's address; default 127.0.0.1
	store  string // default: memory
	keys   string // the option; default: none
	admin  string // address of the admin endpoint; default: off

	noSecret bool           // bff says how the client authenticates
	server   *astest.Server // started; default: one with as, over plain http
}

// defaultSite guards /api/* and /page*, and leaves the rest open.
const defaultSite = `
	handle /api/* {
		bff_proxy {$API}
	}
	handle /page* {
		bff_protect
		respond "page of {http.auth.user.id}"
	}
	handle {
		respond "open {http.auth.user.id}|{http.auth.user.name}|{http.bff.session.id}|{http.bff.error}"
	}
`

func newBench(t testing.TB, o benchOptions) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), as: o.server}
	if b.as == nil {
		b.as = astest.New(o.as).Start(t)
	}
	b.rs = b.as.ResourceServer()
	api := httptest.NewServer(b.rs)
	t.Cleanup(api.Close)
	b.api = api.Listener.Addr().String()
	b.address = freeAddressTB(t)
	b.logFile = filepath.Join(b.dir, "log")
	b.config = b.caddyfile(o)
	b.load()
	t.Cleanup(b.stop)
	return b
}

func (b *bench) caddyfile(o benchOptions) []byte {
	b.t.Helper()
	if o.site == "" {
		o.site = defaultSite
	}
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	if o.store == "" {
		o.store = "memory"
	}
	if o.admin == "" {
		o.admin = "off"
	}
	secret := "client_secret secret"
	if o.noSecret {
		secret = ""
	}
	_, port, _ := strings.Cut(b.address, ":")
	return adaptTB(b.t, strings.NewReplacer("{$API}", b.api).Replace(fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	grace_period 5s
	storage file_system %s
	log {
		output file %s
		level DEBUG
	}
	bff {
		store %s
		%s
	}
	%s
}
http://%s:%s {
	bind 127.0.0.1
	log
	bff {
		issuer        %s
		client_id     app
		%s
		%s
	}
	%s
}
`, o.admin, b.dir, b.logFile, o.store, o.keys, o.global, o.host, port, b.as.Issuer(), secret, o.bff, o.site)))
}

func (b *bench) load() {
	b.t.Helper()
	again := b.stopped || caddy.ActiveContext().Context != nil
	if err := caddy.Load(b.config, true); err != nil {
		b.t.Fatalf("starting Caddy: %v", err)
	}
	if again {
		b.reloaded = time.Now()
	}
}

// stop stops Caddy once what the start of the application does in the background
// is done: it writes into the test's directory.
func (b *bench) stop() {
	if app, err := caddy.ActiveContext().AppIfConfigured("bff"); err == nil {
		app := app.(*App)
		_ = app.ring.Load(context.Background())
		_ = app.backend.Open(context.Background()) // some tests want it to fail
	}
	if err := caddy.Stop(); err != nil {
		b.t.Errorf("stopping Caddy: %v", err)
	}
	b.stopped = true
}

func (b *bench) log() string {
	b.t.Helper()
	text, err := os.ReadFile(b.logFile)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

func (b *bench) origin() string { return "http://" + b.address }

func freeAddressTB(t testing.TB) string {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	defer s.Listener.Close()
	return s.Listener.Addr().String()
}

// browser keeps cookies, and sends what browsers send. It follows no redirect.
type browser struct {
	*bench
	jar    map[string]string
	client *http.Client
}

func (b *bench) browser() *browser {
	tr := &http.Transport{DisableCompression: true}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &browser{bench: b, jar: map[string]string{}, client: &http.Client{
		Transport: tr, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response, read to its end.
type answer struct {
	*http.Response
	body string
}

func (a *answer) location() string { return a.Header.Get("Location") }

func (a *answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("no JSON (status %d): %v: %s", a.StatusCode, err, a.body)
	}
	return v
}

// Sets of headers.
var (
	navigate  = []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}
	arrive    = []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Accept", "text/html"}
	script    = []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*", "X-CSRF", "1"}
	bareFetch = []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*"}
)

func with(set []string, more ...string) []string {
	return append(append([]string(nil), set...), more...)
}

// do sends a request. A header whose value is "-" is left out.
func (c *browser) do(method, target string, body string, header ...string) *answer {
	c.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = c.origin() + target
	}
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, target, reader)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	var cookies []string
	for name, value := range c.jar {
		cookies = append(cookies, name+"="+value)
	}
	if len(cookies) > 0 {
		r.Header.Add("Cookie", strings.Join(cookies, "; "))
	}
	if h := r.Header.Get("Host"); h != "" {
		r.Host = h
	}
	return c.send(r)
}

// send sends a request. Caddy closes the listener of a configuration that goes
// away a moment after a reload, and resets what waits there: one without a body is
// then sent again.
func send(client *http.Client, r *http.Request, reloaded time.Time) (*http.Response, error) {
	for {
		resp, err := client.Do(r)
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) || r.Body != nil || time.Since(reloaded) > 5*time.Second {
			return resp, err
		}
	}
}

func (c *browser) send(r *http.Request) *answer {
	c.t.Helper()
	resp, err := send(c.client, r, c.reloaded)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, k := range resp.Cookies() {
		if k.MaxAge < 0 {
			delete(c.jar, k.Name)
		} else {
			c.jar[k.Name] = k.Value
		}
	}
	return &answer{Response: resp, body: string(text)}
}

func (c *browser) get(target string, header ...string) *answer {
	c.t.Helper()
	return c.do(http.MethodGet, target, "", header...)
}

// startLogin goes to login and gives the authorization request.
func (c *browser) startLogin(returnTo string) *url.URL {
	c.t.Helper()
	a := c.get("/bff/login?return_to="+url.QueryEscape(returnTo), navigate...)
	if a.StatusCode != http.StatusFound || !strings.HasPrefix(a.location(), c.as.Issuer()) {
		c.t.Fatalf("login: status %d, Location %q: %s", a.StatusCode, a.location(), a.body)
	}
	u, err := url.Parse(a.location())
	if err != nil {
		c.t.Fatal(err)
	}
	return u
}

// authorize lets the authorization server answer and gives the callback.
func (c *browser) authorize(request *url.URL) string {
	c.t.Helper()
	back, err := c.as.Login(request.String())
	if err != nil {
		c.t.Fatal(err)
	}
	return back.RequestURI()
}

// login signs in.
func (c *browser) login() *browser {
	c.t.Helper()
	callback := c.authorize(c.startLogin("/after"))
	a := c.get(callback, arrive...)
	if a.StatusCode != http.StatusSeeOther || a.location() != "/after" {
		c.t.Fatalf("callback: status %d, Location %q: %s\n%s", a.StatusCode, a.location(), a.body, c.log())
	}
	return c
}

// wantError checks an answer of the gateway.
func (a *answer) wantError(t testing.TB, status int, code string) {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("X-BFF-Error") != code {
		t.Fatalf("status %d, X-BFF-Error %q; want %d %s: %s", a.StatusCode, a.Header.Get("X-BFF-Error"), status, code, a.body)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", got)
	}
	if a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Error("no nosniff")
	}
}

func adaptTB(t testing.TB, config string) []byte {
	t.Helper()
	out, err := adaptConfig(config)
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, config)
	}
	return bytes.Clone(out)
}

// waitABit is for conditions that nobody announces.
func waitABit() { time.Sleep(50 * time.Millisecond) }

// newGate is a resource server that holds each request until it may leave.
func newGate(t testing.TB, entered chan<- struct{}, leave <-chan struct{}) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-leave
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
