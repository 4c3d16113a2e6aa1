// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is the authorization server. It is an [http.Handler] and safe for
// concurrent use.
type Server struct {
	mu      sync.Mutex
	opts    Options
	base    string // scheme and host
	down    bool
	keys    []*Key // published, the first signs
	retired []*Key // no longer published; the resource server still knows them
	scripts map[string][]*Answer
	history []*Request
	grants  grants
	// pushed are the authorization requests that wait for a browser, by request_uri.
	pushed map[string]*pushedRequest
	// assertions are the jti of client assertions that were accepted.
	assertions map[string]bool
	// proofs and userInfoProofs check DPoP proofs.
	proofs, userInfoProofs proofChecker

	listening *httptest.Server
	address   string
	tls       *tls.Config // nil: plain http
	mutual    string      // host of mtls_endpoint_aliases; "": none
}

// New returns a server whose issuer is https://as.test (or Options.Host, plus Path),
// reachable through [Server.Transport].
func New(o Options) *Server {
	s := &Server{
		opts:    o.withDefaults(),
		scripts: map[string][]*Answer{}, assertions: map[string]bool{}, pushed: map[string]*pushedRequest{},
	}
	s.base = "https://" + s.opts.Host
	s.grants.init()
	s.keys = []*Key{NewKey(s.opts.Algorithm, "key-1")}
	return s
}

// Start makes the server listen on a loopback port until the test ends, and its
// issuer http://127.0.0.1:port (plus Options.Path). Call it before the issuer
// is used anywhere.
func (s *Server) Start(t testing.TB) *Server {
	t.Helper()
	s.start(t, "http://")
	return s
}

// StartTLS is Start with https, and a certificate of a. The server asks every
// client for a certificate, and takes any: what it is worth is for the endpoints
// to say. It does so at a second port as well, that of Options.MTLSAliases.
func (s *Server) StartTLS(t testing.TB, a *Authority) *Server {
	t.Helper()
	s.tls = a.ServerConfig(tls.RequestClientCert)
	if s.opts.NoCertificateRequest {
		s.tls.ClientAuth = tls.NoClientCert
	}
	s.start(t, "https://")
	if s.opts.MTLSAliases {
		aliases := httptest.NewUnstartedServer(s)
		aliases.TLS = s.tls.Clone()
		aliases.StartTLS()
		t.Cleanup(func() { aliases.CloseClientConnections(); go aliases.Close() })
		s.mutual = aliases.Listener.Addr().String()
	}
	return s
}

func (s *Server) start(t testing.TB, scheme string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("starting the authorization server: %v", err)
	}
	s.mu.Lock()
	s.address = listener.Addr().String()
	s.base = scheme + s.address
	s.mu.Unlock()
	s.serve(listener)
	t.Cleanup(s.Close)
}

// serve starts answering on listener.
func (s *Server) serve(listener net.Listener) {
	ts := httptest.NewUnstartedServer(s)
	_ = ts.Listener.Close()
	ts.Listener = listener
	if s.tls != nil {
		ts.TLS = s.tls.Clone()
		ts.StartTLS()
	} else {
		ts.Start()
	}
	s.mu.Lock()
	s.listening = ts
	s.mu.Unlock()
}

// Close stops listening and cuts every connection. [Server.Start] calls it at
// the end of the test.
func (s *Server) Close() {
	s.mu.Lock()
	ts := s.listening
	s.listening = nil
	s.mu.Unlock()
	if ts != nil {
		ts.CloseClientConnections()
		// Close waits for handlers; a scripted answer may hold one for ever.
		go ts.Close()
	}
}

// SetDown takes the server away, or brings it back: connections are refused and
// open ones cut. In memory, a request fails before its body has been read.
// Nothing is forgotten.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	changed := s.down != down
	s.down = down
	address := s.address
	s.mu.Unlock()
	if !changed || address == "" {
		return
	}
	if down {
		s.mu.Lock()
		ts := s.listening
		s.listening = nil
		s.mu.Unlock()
		if ts != nil {
			_ = ts.Listener.Close()
			ts.CloseClientConnections()
			go ts.Close()
		}
		return
	}
	for range 100 {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			s.serve(listener)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	panic("astest: the port " + address + " was taken while the server was down")
}

// Issuer returns the issuer identifier.
func (s *Server) Issuer() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issuer()
}

func (s *Server) issuer() string { return s.base + s.opts.Path }

// Configure changes the options; requests under way may still see the old ones.
func (s *Server) Configure(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.opts.Path
	change(&s.opts)
	s.opts.Path = path
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	endpoint, act := s.route(r.URL.Path)
	a, queued := s.nextAnswer(endpoint)
	rec := s.record(endpoint, r, !a.CutUnread)
	if !queued {
		a = s.tokenAnswer(endpoint, rec)
	}
	if a.OnRequest != nil {
		a.OnRequest(s.snapshot(rec))
	}
	if a.CutUnread {
		s.cut(rec)
	}
	if a.Gate != nil {
		<-a.Gate
	}
	s.mu.Lock()
	latency := s.opts.Latency[endpoint]
	s.mu.Unlock()
	time.Sleep(latency + a.Delay)
	if a.Hang {
		<-r.Context().Done()
		s.cut(rec)
	}
	if a.Cut {
		s.cut(rec)
	}
	var res *response
	if a.canned() {
		res = a.response()
	} else {
		s.mu.Lock()
		res = act(rec)
		s.mu.Unlock()
		a.adorn(res)
	}
	s.date(res)
	pause(r.Context(), a.DelayReply)
	if a.CutReply {
		s.cut(rec)
	}
	s.answered(rec, res.status)
	res.write(r.Context(), w, a, func() { s.cut(rec) })
}

// route finds the endpoint of a path and what it does. What it does runs with
// the lock held.
func (s *Server) route(path string) (string, func(*Request) *response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix := s.opts.Path
	switch path {
	case prefix + "/.well-known/openid-configuration":
		if s.opts.WellKnown == "oidc" || s.opts.WellKnown == "both" {
			return Metadata, s.metadata
		}
		return Metadata, notFound
	case "/.well-known/oauth-authorization-server" + prefix:
		if s.opts.WellKnown == "oauth" || s.opts.WellKnown == "both" {
			return Metadata, s.metadata
		}
		return Metadata, notFound
	}
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return "unknown", notFound
	}
	switch rest {
	case "/authorize":
		return Authorize, s.authorize
	case "/par":
		if s.opts.PAR || s.opts.RequirePAR {
			return PAR, withNonce(&s.proofs, s.pushedRequest)
		}
	case "/token":
		return Token, withNonce(&s.proofs, s.token)
	case "/jwks":
		return JWKS, s.jwks
	case "/revoke":
		return Revoke, s.revoke
	case "/logout":
		return EndSession, s.endSession
	case "/introspect":
		return Introspect, s.introspection
	case "/userinfo":
		return UserInfo, withNonce(&s.userInfoProofs, s.userInfo)
	}
	return "unknown", notFound
}

func notFound(*Request) *response { return &response{status: http.StatusNotFound} }

func (s *Server) metadata(*Request) *response {
	var algs []string
	for _, k := range s.keys {
		algs = append(algs, k.Algorithm)
	}
	mutual := ""
	if s.mutual != "" {
		mutual = "https://" + s.mutual + s.opts.Path
	}
	return jsonResponse(http.StatusOK, s.opts.metadata(s.issuer(), mutual, algs))
}

// date says what time it is, where that is not the real one.
func (s *Server) date(res *response) {
	s.mu.Lock()
	ahead := s.opts.ClockAhead
	s.mu.Unlock()
	if ahead == 0 {
		return
	}
	if res.header == nil {
		res.header = http.Header{}
	}
	res.header.Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
}

// cut aborts the connection of a request.
func (s *Server) cut(rec *Request) {
	s.mu.Lock()
	rec.Cut = true
	rec.Done = time.Now()
	s.mu.Unlock()
	panic(http.ErrAbortHandler)
}
