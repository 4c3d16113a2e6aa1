// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/memstore"
)

const (
	origin   = "https://app.test"
	callback = origin + "/bff/callback"
)

// bench is one gateway instance's sessions, without Caddy, and the
// authorization server that they come from.
type bench struct {
	t       testing.TB
	as      *astest.Server
	store   *faultyStore
	backend *session.Backend
	client  *oauth.Client
	m       *session.Manager
	site    *session.Site
	log     *lockedBuffer
	tally   *tally
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type ringFunc func() ([]session.RingKey, error)

func (f ringFunc) LoadRing(context.Context) ([]session.RingKey, error) { return f() }

var ring = session.NewKeyRing(ringFunc(func() ([]session.RingKey, error) {
	return []session.RingKey{{Secret: bytes.Repeat([]byte{1}, 32)}}, nil
}), discard())

func newBench(t testing.TB, options astest.Options, edit ...func(*session.Config)) *bench {
	t.Helper()
	store := memstore.New(memstore.Options{})
	t.Cleanup(func() { store.Close() }) //nolint:errcheck // memory
	return newInstance(t, astest.New(options), &faultyStore{Store: store, exclusive: true}, edit...)
}

// newInstance makes an instance on a store and a server that are there already.
func newInstance(t testing.TB, as *astest.Server, store *faultyStore, edit ...func(*session.Config)) *bench {
	t.Helper()
	b := newInstanceOn(t, as, store, edit...)
	b.store = store
	return b
}

// newInstanceOn is newInstance on any store, which the instance closes.
func newInstanceOn(t testing.TB, as *astest.Server, store session.Store, edit ...func(*session.Config)) *bench {
	t.Helper()
	b := &bench{t: t, as: as, log: &lockedBuffer{}, tally: &tally{counts: make(map[string]int)}}
	logger := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.backend = session.NewBackend(func(context.Context) (session.Store, error) { return store, nil }, logger)
	b.backend.Observe(b.tally)
	client, err := oauth.New(oauth.Config{
		Issuer: as.Issuer(), ClientID: "app", AuthMethod: "client_secret_basic",
		ClientSecret: func() (oauth.Secret, error) { return "secret", nil }, HTTP: as.HTTPClient(), Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.client = client
	b.m = b.manager(edit...)
	b.site = b.m.Site(origin)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := b.backend.Drain(ctx); err != nil {
			t.Errorf("refreshes are still in flight: %v", err)
		}
		b.backend.Release()
	})
	return b
}

// manager makes a further manager on the same backend, as a reload does.
func (b *bench) manager(edit ...func(*session.Config)) *session.Manager {
	b.t.Helper()
	cfg := session.Config{
		Backend: b.backend, Ring: ring, Client: b.client, Issuer: b.as.Issuer(), ClientID: "app",
		Logger:   slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observer: b.tally,
	}
	for _, e := range edit {
		e(&cfg)
	}
	m, err := session.NewManager(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// browser is a cookie jar.
type browser map[string]*http.Cookie

func (br browser) take(cookies []*http.Cookie) {
	for _, c := range cookies {
		if c.MaxAge < 0 {
			delete(br, c.Name)
		} else {
			br[c.Name] = c
		}
	}
}

func (br browser) request() *http.Request {
	r := httptest.NewRequest("GET", origin+"/", nil)
	for _, c := range br {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	return r
}

func (br browser) logins() (n int) {
	for name := range br {
		if name != "__Host-Http-bff" {
			n++
		}
	}
	return n
}

// begin starts a login and gives the callback that the authorization server
// sends the browser back with.
func (b *bench) begin(br browser, edit ...func(*session.LoginRequest)) url.Values {
	b.t.Helper()
	req := session.LoginRequest{RedirectURI: callback, ReturnTo: "/home", Cookies: br.request().Cookies()}
	for _, e := range edit {
		e(&req)
	}
	start, err := b.m.StartLogin(b.t.Context(), b.site, req)
	if err != nil {
		b.t.Fatal(err)
	}
	br.take(start.Cookies)
	back, err := b.as.Login(start.AuthorizationURL)
	if err != nil {
		b.t.Fatal(err)
	}
	return back.Query()
}

func (b *bench) finish(br browser, params url.Values) (*session.LoginResult, error) {
	res, err := b.m.FinishLogin(b.t.Context(), b.site, session.Callback{RedirectURI: callback, Params: params, Request: br.request()})
	var failed *session.LoginError
	switch {
	case err == nil:
		br.take(res.Cookies)
	case errors.As(err, &failed):
		br.take(failed.Cookies)
	default:
		b.t.Errorf("not a LoginError: %v", err)
	}
	return res, err
}

func (b *bench) login(br browser) *session.Session {
	b.t.Helper()
	res, err := b.finish(br, b.begin(br))
	if err != nil {
		b.t.Fatal(err)
	}
	return res.Session
}

func (b *bench) open(br browser) (*session.Session, error) {
	return b.m.Open(b.t.Context(), b.site, br.request())
}

// token does what a request does: open the session, get the token.
func (b *bench) token(br browser) (string, error) {
	s, err := b.open(br)
	if err != nil {
		return "", err
	}
	return s.Token(b.t.Context())
}

func (b *bench) mustToken(br browser) string {
	b.t.Helper()
	tok, err := b.token(br)
	if err != nil {
		b.t.Fatal(err)
	}
	return tok
}

func (b *bench) ended(br browser, want session.Reason) {
	b.t.Helper()
	_, err := b.token(br)
	if got, ok := errors.AsType[*session.EndedError](err); !ok || got.Reason != want {
		b.t.Errorf("got %v, want an end by %s", err, want)
	}
}

func (b *bench) refreshes(want int) {
	b.t.Helper()
	if got := len(b.as.RefreshRequests()); got != want {
		b.t.Errorf("%d refresh requests, want %d", got, want)
	}
	if n := b.as.ReuseDetections(); n != 0 {
		b.t.Errorf("a refresh token was used twice, %d times", n)
	}
}

// faultyStore fails when it is told to.
type faultyStore struct {
	session.Store
	exclusive bool

	mu      sync.Mutex
	fail    error
	loads   error                                 // of Load alone
	replace func(old, next *session.Record) error // called before Replace
	create  func(rec *session.Record)             // called before Create
	remove  func() error                          // called before Delete
	writes  int
}

func (f *faultyStore) setFailLoads(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads = err
}

func (f *faultyStore) onCreate(hook func(rec *session.Record)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.create = hook
}

func (f *faultyStore) onDelete(hook func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove = hook
}

func (f *faultyStore) Exclusive() bool { return f.exclusive }

func (f *faultyStore) Close() error { return nil } // shared by instances

func (f *faultyStore) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *faultyStore) failing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

func (f *faultyStore) onReplace(hook func(old, next *session.Record) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replace = hook
}

func (f *faultyStore) Load(ctx context.Context, key session.Key) (*session.Record, error) {
	f.mu.Lock()
	err := cmp.Or(f.fail, f.loads)
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.Load(ctx, key)
}

func (f *faultyStore) Find(ctx context.Context, index session.IndexKey) ([]session.Key, error) {
	if err := f.failing(); err != nil {
		return nil, err
	}
	return f.Store.Find(ctx, index)
}

func (f *faultyStore) Delete(ctx context.Context, key session.Key) error {
	f.mu.Lock()
	err, hook := f.fail, f.remove
	f.mu.Unlock()
	if err == nil && hook != nil {
		err = hook()
	}
	if err != nil {
		return err
	}
	return f.Store.Delete(ctx, key)
}

func (f *faultyStore) Create(ctx context.Context, rec *session.Record) error {
	f.mu.Lock()
	err, hook := f.fail, f.create
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if hook != nil {
		hook(rec)
	}
	return f.Store.Create(ctx, rec)
}

func (f *faultyStore) Replace(ctx context.Context, old, next *session.Record) error {
	f.mu.Lock()
	err, hook := f.fail, f.replace
	f.writes++
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if hook != nil {
		if err := hook(old, next); err != nil {
			return err
		}
	}
	return f.Store.Replace(ctx, old, next)
}
