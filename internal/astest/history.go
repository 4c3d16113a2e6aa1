// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"bytes"
	"crypto/x509"
	"io"
	"net/http"
	"net/url"
	"time"
)

// maxBody bounds what is read of a request.
const maxBody = 1 << 20

// Request is a request as it arrived, and what became of it.
type Request struct {
	Time     time.Time // arrival
	Done     time.Time // when it was answered or cut; zero while under way
	Endpoint string
	Method   string
	URL      string // request target
	Header   http.Header
	Form     url.Values // query and form body together
	Body     string     // as received

	GrantType string
	// Token is what was presented: the refresh token, code or subject token at the
	// token endpoint, the token in question at the revocation and the introspection endpoint.
	Token string
	// ClientAuth is how the client authenticated: client_secret_basic,
	// client_secret_post, client_secret_jwt, private_key_jwt, none, or "both" when
	// it did so twice; where Options.AuthMethod demands a certificate, that method.
	ClientAuth   string
	ClientID     string
	ClientSecret string
	// Subject is whom a refresh token stands for that the server knows, whatever
	// became of it.
	Subject   string
	Assertion string // client_assertion
	// RequestError is why a request object was refused; "" when it was not.
	RequestError string
	ProofError   string // why a DPoP proof was refused; "" when it was not, or for a nonce alone
	AuthError    string // why the client was refused; "" when it was not
	// Certificate is what the client showed in the TLS handshake; nil: none.
	Certificate *x509.Certificate
	Host        string // that the request was for
	TLSVersion  uint16 // as in crypto/tls; 0: plain http

	Status int  // of the answer; 0 while under way or when cut before one
	Cut    bool // the connection was cut
}

// record notes a request; read: its body is read too.
func (s *Server) record(endpoint string, r *http.Request, read bool) *Request {
	rec := &Request{
		Time: time.Now(), Endpoint: endpoint, Method: r.Method,
		URL: r.URL.RequestURI(), Header: r.Header.Clone(), Form: url.Values{}, Host: r.Host,
	}
	if r.TLS != nil {
		rec.TLSVersion = r.TLS.Version
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		rec.Certificate = r.TLS.PeerCertificates[0]
	}
	if read {
		body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody))
		rec.Body = string(body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if err := r.ParseForm(); err == nil {
			rec.Form = r.Form
		}
	}
	rec.GrantType = rec.Form.Get("grant_type")
	switch {
	case endpoint == Token && rec.GrantType == "refresh_token":
		rec.Token = rec.Form.Get("refresh_token")
	case endpoint == Token && rec.GrantType == grantTokenExchange:
		rec.Token = rec.Form.Get("subject_token")
	case endpoint == Token:
		rec.Token = rec.Form.Get("code")
	case endpoint == Revoke, endpoint == Introspect:
		rec.Token = rec.Form.Get("token")
	}
	rec.authentication()
	s.mu.Lock()
	s.history = append(s.history, rec)
	s.mu.Unlock()
	return rec
}

// answered notes the status that a request is answered with.
func (s *Server) answered(rec *Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec.Status = status
	rec.Done = time.Now()
}

func (s *Server) snapshot(rec *Request) Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *rec
}

// Requests returns the requests that an endpoint has received, oldest first; ""
// stands for all endpoints.
func (s *Server) Requests(endpoint string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Request
	for _, rec := range s.history {
		if endpoint == "" || rec.Endpoint == endpoint {
			list = append(list, *rec)
		}
	}
	return list
}

// Count returns how many requests an endpoint has received.
func (s *Server) Count(endpoint string) int { return len(s.Requests(endpoint)) }

// RefreshRequests returns the refresh requests that the token endpoint has
// received, whatever became of them.
func (s *Server) RefreshRequests() []Request {
	var list []Request
	for _, r := range s.Requests(Token) {
		if r.GrantType == "refresh_token" {
			list = append(list, r)
		}
	}
	return list
}

// ForgetRequests empties the history, so that counting starts again.
func (s *Server) ForgetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = nil
}

// Refreshes returns how many refresh requests were granted.
func (s *Server) Refreshes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grants.refreshes
}

// ReuseDetections returns how often a refresh token came again that had been
// used up, so that its family was revoked.
func (s *Server) ReuseDetections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grants.reuses
}
