// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// ResourceServer is a resource server that trusts the authorization server it
// was made by. It answers a request with a live access token with JSON about
// that request, and any other with 401 and a Bearer challenge (RFC 6750 section
// 3). It is safe for concurrent use.
type ResourceServer struct {
	as *Server

	mu       sync.Mutex
	audience string
	refuse   int
	demand   func(token string) string
	proofs   proofChecker
	requests []ResourceRequest
}

// ResourceRequest is a request that arrived at the resource server.
type ResourceRequest struct {
	Time      time.Time
	Method    string
	URL       string // request target
	Header    http.Header
	Token     string // access token presented; "" for none
	Scheme    string // by which
	Subject   string // whom it stands for, when it was accepted
	BodyBytes int64
	Status    int
}

// ResourceAnswer is the JSON body of a 200 answer.
type ResourceAnswer struct {
	Subject   string      `json:"sub"`
	Method    string      `json:"method"`
	URL       string      `json:"url"`
	Headers   http.Header `json:"headers"` // as seen, without Authorization
	BodyBytes int64       `json:"body_bytes"`
}

// ResourceServer returns a new resource server.
func (s *Server) ResourceServer() *ResourceServer { return &ResourceServer{as: s} }

// ForAudience makes the resource server refuse access tokens of another audience,
// as RFC 9068 section 4 has it.
func (rs *ResourceServer) ForAudience(audience string) *ResourceServer {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.audience = audience
	return rs
}

// Refuse makes the resource server answer the next n requests 401 invalid_token
// whatever they carry; -1: all of them, 0: none any more.
func (rs *ResourceServer) Refuse(n int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.refuse = n
}

// Demand makes the resource server ask for more than a live access token has: it
// answers with the challenge that demand gives, 403 where that names
// insufficient_scope and else 401. "" is content; nil always is. demand must not call
// methods of the resource server.
func (rs *ResourceServer) Demand(demand func(accessToken string) (challenge string)) *ResourceServer {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.demand = demand
	return rs
}

// Requests returns what has arrived, oldest first.
func (rs *ResourceServer) Requests() []ResourceRequest {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return append([]ResourceRequest(nil), rs.requests...)
}

// ServeHTTP implements [http.Handler].
func (rs *ResourceServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	rec := ResourceRequest{
		Time: time.Now(), Method: r.Method, URL: r.URL.RequestURI(),
		Header: r.Header.Clone(), BodyBytes: n, Status: http.StatusUnauthorized,
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && (strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "DPoP")) {
		rec.Token, rec.Scheme = token, scheme
	}
	subject, valid := rs.as.introspect(rec.Token)
	audience := rs.as.Audience(rec.Token)
	bound := rs.as.binds(rec.Token)
	challenge := ""
	code := rs.boundUse(r, &rec)
	rs.mu.Lock()
	if bound != "" && (r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || thumbprint(r.TLS.PeerCertificates[0]) != bound) {
		valid = false // RFC 8705 section 3
	}
	if rs.audience != "" && !slices.Contains(audience, rs.audience) {
		valid = false
	}
	if rs.refuse != 0 && rec.Token != "" {
		valid = false
		if rs.refuse > 0 {
			rs.refuse--
		}
	}
	if code != "" {
		valid = false
	}
	if valid && rs.demand != nil {
		challenge = rs.demand(rec.Token)
	}
	switch {
	case strings.Contains(challenge, "insufficient_scope"):
		rec.Status = http.StatusForbidden
	case valid && challenge == "":
		rec.Status, rec.Subject = http.StatusOK, subject
	}
	rs.requests = append(rs.requests, rec)
	rs.mu.Unlock()
	rs.tell(w.Header())

	switch {
	case rec.Token == "":
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	case code != "":
		w.Header().Set("WWW-Authenticate", `dpop algs="ES256", error="`+code+`"`) // schemes have no case
		w.WriteHeader(http.StatusUnauthorized)
	case !valid && strings.EqualFold(rec.Scheme, "DPoP"):
		w.Header().Set("WWW-Authenticate", `DPoP error="invalid_token", algs="ES256"`)
		w.WriteHeader(http.StatusUnauthorized)
	case !valid:
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token", error_description="expired or revoked"`)
		w.WriteHeader(http.StatusUnauthorized)
	case challenge != "":
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(rec.Status)
	default:
		headers := rec.Header.Clone()
		headers.Del("Authorization")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(mustJSON(ResourceAnswer{Subject: subject, Method: rec.Method, URL: rec.URL, Headers: headers, BodyBytes: n}))
	}
}

// introspect says whether an access token is live, and whom it stands for. A JWT
// that a key of the server signed counts even when no grant knows it, so that
// tests can make tokens of their own.
func (s *Server) introspect(token string) (subject string, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live(token)
}

// live is introspect with the lock held.
func (s *Server) live(token string) (subject string, live bool) {
	if t := s.grants.access[token]; t != nil {
		if t.revoked || t.grant.revoked || !time.Now().Before(t.expiry) {
			return "", false
		}
		subject = t.grant.subject
	} else if strings.Count(token, ".") != 2 {
		return "", false
	}
	if strings.Count(token, ".") == 2 {
		claims, ok := s.verify(token)
		exp, _ := claims["exp"].(float64)
		if !ok || !time.Now().Before(time.Unix(int64(exp), 0)) {
			return "", false
		}
		subject, _ = claims["sub"].(string)
	}
	return subject, true
}

// binds returns the thumbprint of the certificate that an access token is bound to.
func (s *Server) binds(token string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.grants.access[token]; t != nil {
		return t.certificate
	}
	return ""
}

// Accepts says whether the resource server would take an access token now.
func (rs *ResourceServer) Accepts(accessToken string) bool {
	_, live := rs.as.introspect(accessToken)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return live && rs.refuse == 0 && (rs.audience == "" || slices.Contains(rs.as.Audience(accessToken), rs.audience))
}

// Subject returns whom a live access token stands for; "" for any other.
func (s *Server) Subject(accessToken string) string {
	subject, _ := s.introspect(accessToken)
	return subject
}

// DemandNonce makes the resource server demand a new DPoP nonce (RFC 9449 section
// 9), which it gives with every answer; rotate: another one after each proof. It
// returns the nonce.
func (rs *ResourceServer) DemandNonce(rotate bool) string { return rs.proofs.setNonce(rotate) }

// ClockAhead sets the clock of answers and proofs so far ahead of the real one.
func (rs *ResourceServer) ClockAhead(d time.Duration) {
	rs.proofs.mu.Lock()
	defer rs.proofs.mu.Unlock()
	rs.proofs.ahead = d
}

// boundUse checks how the access token of a request is presented.
func (rs *ResourceServer) boundUse(r *http.Request, rec *ResourceRequest) string {
	if rec.Token == "" {
		return ""
	}
	rs.as.mu.Lock()
	t := rs.as.grants.access[rec.Token]
	rs.as.mu.Unlock()
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return boundUse(&rs.proofs, t, rec.Scheme, r.Header, r.Method, scheme+"://"+r.Host+path, rec.Token)
}

// tell adds to an answer what proofs have to heed.
func (rs *ResourceServer) tell(h http.Header) {
	rs.proofs.mu.Lock()
	defer rs.proofs.mu.Unlock()
	if rs.proofs.nonce != "" {
		h.Set("DPoP-Nonce", rs.proofs.nonce)
	}
	if rs.proofs.ahead != 0 {
		h.Set("Date", time.Now().Add(rs.proofs.ahead).UTC().Format(http.TimeFormat))
	}
}
