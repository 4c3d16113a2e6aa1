// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// fleet is some gateway processes that share a real Redis, each through a proxy
// of its own, and an authorization server that does as it is told.
type fleet struct {
	t         *testing.T
	o         fleetOptions
	as        *astest.Server
	rs        *astest.ResourceServer
	api       string            // address of the resource server
	redis     *redistest.Server // nil with another store
	instances []*instance
	dir       string
	caddy     string
	client    *http.Client
}

// instance is one gateway process, and its way to Redis.
type instance struct {
	f       *fleet
	number  int
	address string
	admin   string           // of Caddy's API; "off" without
	redis   *redistest.Proxy // nil with another store
	process *process
}

// fleetOptions are what differs from test to test.
type fleetOptions struct {
	instances int
	as        astest.Options
	rotation  string // option of the gateway; default: auto
	store     string // option of the gateway; default: a Redis of the fleet, each through its proxy
	admin     bool   // Caddy's API is on
}

func newFleet(t *testing.T, o fleetOptions) *fleet {
	t.Helper()
	redistest.Binary(t) // before anything is built
	caddy, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	if o.rotation == "" {
		o.rotation = "auto"
	}
	f := &fleet{t: t, o: o, caddy: caddy, dir: t.TempDir(), as: astest.New(o.as).Start(t)}
	if o.store == "" {
		f.redis = redistest.Start(t)
	}
	f.rs = f.as.ResourceServer()
	api := httptest.NewServer(f.rs)
	t.Cleanup(api.Close)
	f.api = api.Listener.Addr().String()
	tr := &http.Transport{MaxIdleConnsPerHost: 300}
	t.Cleanup(tr.CloseIdleConnections)
	f.client = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	f.write("keys", strings.Repeat("the keys of this fleet ", 3))
	for i := range o.instances {
		in := &instance{f: f, number: i, address: "127.0.0.1:" + strconv.Itoa(redistest.FreePort(t)), admin: "off"}
		if o.admin {
			in.admin = "127.0.0.1:" + strconv.Itoa(redistest.FreePort(t))
		}
		if f.redis != nil {
			in.redis = redistest.NewProxy(t, f.redis.Address())
		}
		f.instances = append(f.instances, in)
		f.write("Caddyfile"+strconv.Itoa(i), in.caddyfile(0))
		in.start()
	}
	return f
}

// caddyfile is the configuration of the instance. Another variation is another
// application of the same sessions.
func (in *instance) caddyfile(variation int) string {
	f := in.f
	store := f.o.store
	if in.redis != nil {
		store = "redis {\n\t\t\taddress " + in.redis.Address() + "\n\t\t}"
	}
	return fmt.Sprintf(`{
	admin %[8]s
	persist_config off
	grace_period 2s
	storage file_system %[1]s/storage%[2]d
	log {
		level DEBUG
	}
	bff {
		store %[3]s
		keys {file.%[1]s/keys}
	}
}

http://%[4]s {
	bind 127.0.0.1
	bff {
		issuer %[5]s
		client_id app
		client_secret secret
		public_origin http://localhost:8080
		http_timeout %[9]dms
		refresh {
			rotation %[6]s
		}
	}
	handle /api/* {
		bff_proxy %[7]s
	}
}
`, f.dir, in.number, store, in.address, f.as.Issuer(), f.o.rotation, f.api, in.admin, 10000+variation)
}

// origin is where the instance is asked.
func (in *instance) origin() string { return "http://" + in.address }

func (f *fleet) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// start starts the instance, again after it was killed, and waits until it serves.
func (in *instance) start() {
	in.f.t.Helper()
	cmd := exec.Command(in.f.caddy, "run", "--config", "Caddyfile"+strconv.Itoa(in.number), "--adapter", "caddyfile")
	cmd.Dir = in.f.dir
	data := filepath.Join(in.f.dir, "data"+strconv.Itoa(in.number))
	cmd.Env = append(os.Environ(), "HOME="+data, "XDG_DATA_HOME="+data, "XDG_CONFIG_HOME="+data)
	in.process = start(in.f.t, "gateway"+strconv.Itoa(in.number), cmd)
	redistest.Eventually(in.f.t, "the gateway serves", func() error {
		res, err := in.f.client.Get("http://" + in.address + "/bff/session")
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	})
}

// logins signs in so many people, one after the other at each instance in turn.
func (f *fleet) logins(n int) []visitor {
	f.t.Helper()
	all := make([]visitor, n)
	for i := range all {
		f.as.Configure(func(o *astest.Options) { o.User = "user " + strconv.Itoa(i) })
		all[i] = f.instances[i%len(f.instances)].login()
	}
	return all
}

// precise lets access tokens live as long as expires_in says: a JWT's exp counts
// whole seconds, and is rounded up here.
func precise(_, claims map[string]any) {
	if exp, ok := claims["exp"].(int64); ok {
		claims["exp"] = exp + 1
	}
}

// visitor is a browser's cookie.
type visitor string

// login signs somebody in at the instance.
func (in *instance) login() visitor {
	t := in.f.t
	t.Helper()
	get := func(path, cookies, site string) *http.Response {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, "http://"+in.address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html", "Cookie": cookies,
		} {
			r.Header.Set(name, value)
		}
		res, err := in.f.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	res := get("/bff/login?return_to=/", "", "none")
	if res.StatusCode != http.StatusFound || len(res.Cookies()) != 1 {
		t.Fatalf("login: status %d", res.StatusCode)
	}
	back, err := in.f.as.Login(res.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	state := res.Cookies()[0]
	res = get(back.RequestURI(), state.Name+"="+state.Value, "cross-site")
	for _, c := range res.Cookies() {
		if c.Name == "bff" {
			return visitor("bff=" + c.Value)
		}
	}
	t.Fatalf("callback: status %d", res.StatusCode)
	return ""
}

// call asks the resource server through the instance.
func (in *instance) call(ctx context.Context, v visitor) (status int, err error) {
	status, _, err = in.answer(ctx, v)
	return status, err
}

// answer is call, with the answer's body.
func (in *instance) answer(ctx context.Context, v visitor) (status int, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.address+"/api/x", nil)
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Cookie", string(v))
	r.Header.Set("X-CSRF", "1")
	res, err := in.f.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// mustCall is call, with 200 as its answer.
func (in *instance) mustCall(v visitor) {
	in.f.t.Helper()
	if status, err := in.call(in.f.t.Context(), v); status != http.StatusOK || err != nil {
		in.f.t.Fatalf("instance %d: status %d, %v", in.number, status, err)
	}
}

// extend extends the session, which changes its record.
func (in *instance) extend(v visitor) {
	in.f.t.Helper()
	r, err := http.NewRequestWithContext(in.f.t.Context(), http.MethodPost, in.origin()+"/bff/session/extend", nil)
	if err != nil {
		in.f.t.Fatal(err)
	}
	r.Header.Set("Cookie", string(v))
	r.Header.Set("X-CSRF", "1")
	res, err := in.f.client.Do(r)
	if err != nil {
		in.f.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		in.f.t.Fatalf("extending a session: status %d", res.StatusCode)
	}
}

// settled is how a session went on after something had happened.
type settled struct {
	status      int // 200 or 401
	unavailable int // answers 503 before
	took        time.Duration
}

// settles calls until the answer is 200 or 401. On the way there may be 503, and
// nothing else.
func (in *instance) settles(v visitor, within time.Duration) (s settled) {
	in.f.t.Helper()
	began := time.Now()
	for time.Since(began) < within {
		status, err := in.call(in.f.t.Context(), v)
		switch {
		case err != nil:
			in.f.t.Fatalf("instance %d: %v", in.number, err)
		case status == http.StatusOK, status == http.StatusUnauthorized:
			s.status, s.took = status, time.Since(began)
			return s
		case status != http.StatusServiceUnavailable:
			in.f.t.Fatalf("instance %d: status %d", in.number, status)
		}
		s.unavailable++
		time.Sleep(200 * time.Millisecond)
	}
	in.f.t.Fatalf("instance %d did not settle within %s: %d answers 503", in.number, within, s.unavailable)
	return s
}
