// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Proof is a DPoP proof (RFC 9449 section 4.2) as it arrived.
type Proof struct {
	Header, Claims map[string]any
	JKT            string // thumbprint of its key
}

// claim returns a claim that is a string.
func (p *Proof) claim(name string) string {
	v, _ := p.Claims[name].(string)
	return v
}

// The window within which a proof has to be made, before and after now.
const (
	proofAge    = 20 * time.Second
	proofFuture = 2 * time.Second
)

var (
	errNoProof  = errors.New("there is no DPoP proof")
	errUseNonce = errors.New("the DPoP proof needs the nonce")
)

// proofChecker is one server's check of proofs. Its zero value demands no nonce. It
// is safe for concurrent use.
type proofChecker struct {
	mu     sync.Mutex
	nonce  string          // demanded; "" for none
	rotate bool            // each proof that passes makes it another
	ahead  time.Duration   // of the clock
	seen   map[string]bool // jti of those that have passed
}

// setNonce demands a new nonce; rotate: after each proof another one.
func (c *proofChecker) setNonce(rotate bool) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nonce, c.rotate = "nonce-"+random(), rotate
	return c.nonce
}

// current is the nonce that is demanded.
func (c *proofChecker) current() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nonce
}

// check validates the one proof of a request, as RFC 9449 section 4.3 says, and
// each is good for once.
func (c *proofChecker) check(header http.Header, method, uri, token string) (*Proof, error) {
	fields := header["Dpop"]
	if len(fields) == 0 {
		return nil, errNoProof
	}
	if len(fields) > 1 {
		return nil, errors.New("more than one proof")
	}
	p, err := parseProof(fields[0])
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().Add(c.ahead)
	iat, _ := p.Claims["iat"].(float64)
	at := time.Unix(int64(iat), 0)
	ath := ""
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		ath = b64(sum[:])
	}
	switch {
	case p.claim("htm") != method:
		return p, fmt.Errorf("htm is %q", p.claim("htm"))
	case p.claim("htu") != uri:
		return p, fmt.Errorf("htu is %q, should be %q", p.claim("htu"), uri)
	case p.claim("ath") != ath:
		return p, errors.New("ath is of another access token")
	case at.Before(now.Add(-proofAge)), at.After(now.Add(proofFuture)):
		return p, fmt.Errorf("iat is %v, and it is %v", at, now)
	case len(p.claim("jti")) < 16 || c.seen[p.claim("jti")]:
		return p, errors.New("jti is too short, or was used before")
	case c.nonce != "" && p.claim("nonce") != c.nonce:
		return p, errUseNonce
	case p.Claims["nbf"] != nil:
		return p, errors.New("a proof has no nbf")
	}
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	c.seen[p.claim("jti")] = true
	if c.rotate {
		c.nonce = "nonce-" + random()
	}
	return p, nil
}

// parseProof reads a proof and verifies it with its own key.
func parseProof(raw string) (*Proof, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, errors.New("a proof is no compact JWS")
	}
	p := &Proof{}
	for i, to := range []*map[string]any{&p.Header, &p.Claims} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(data, to) != nil {
			return nil, errors.New("a proof is malformed")
		}
	}
	jwk, _ := p.Header["jwk"].(map[string]any)
	text := func(name string) string { v, _ := jwk[name].(string); return v }
	x, errX := base64.RawURLEncoding.DecodeString(text("x"))
	y, errY := base64.RawURLEncoding.DecodeString(text("y"))
	if p.Header["typ"] != "dpop+jwt" || p.Header["alg"] != "ES256" || text("kty") != "EC" || text("crv") != "P-256" || errX != nil || errY != nil || len(jwk) != 4 {
		return nil, fmt.Errorf("the header of a proof is %v", p.Header)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, fmt.Errorf("the key of a proof: %w", err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !signatureVerifies("ES256", public, []byte(parts[0]+"."+parts[1]), signature) {
		return nil, errors.New("a proof does not verify")
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, text("x"), text("y")))
	p.JKT = b64(sum[:])
	return p, nil
}

// Proof returns the DPoP proof of a request; nil when it has none, or one that
// cannot be read.
func (rec *Request) Proof() *Proof { return proofOf(rec.Header) }

// Proof returns the DPoP proof of a request; nil when it has none, or one that
// cannot be read.
func (r *ResourceRequest) Proof() *Proof { return proofOf(r.Header) }

func proofOf(h http.Header) *Proof {
	p, err := parseProof(h.Get("Dpop"))
	if err != nil {
		return nil
	}
	return p
}

// DemandDPoPNonce makes the endpoints where the client authenticates demand a new
// nonce, which they give with every answer; rotate: another one after each proof.
// It returns the nonce.
func (s *Server) DemandDPoPNonce(rotate bool) string { return s.proofs.setNonce(rotate) }

// DemandUserInfoNonce does the same for the UserInfo endpoint.
func (s *Server) DemandUserInfoNonce(rotate bool) string { return s.userInfoProofs.setNonce(rotate) }

// proof checks the proof of a request to an endpoint where the client
// authenticates, and returns the thumbprint of its key; "" where there is none and
// none is needed.
func (s *Server) proof(rec *Request, needed bool) (string, *response) {
	if !s.opts.DPoP {
		return "", nil
	}
	s.proofs.mu.Lock()
	s.proofs.ahead = s.opts.ClockAhead
	s.proofs.mu.Unlock()
	p, err := s.proofs.check(rec.Header, rec.Method, s.proofURI(rec), "")
	switch {
	case errors.Is(err, errNoProof) && !needed:
		return "", nil
	case errors.Is(err, errUseNonce):
		return "", oauthError(http.StatusBadRequest, "use_dpop_nonce", err.Error())
	case err != nil:
		rec.ProofError = err.Error()
		return "", oauthError(http.StatusBadRequest, "invalid_dpop_proof", err.Error())
	}
	return p.JKT, nil
}

// boundTo returns the thumbprint of the key that an authorization request binds its
// code to; "" for none.
func (s *Server) boundTo(q url.Values) string {
	if !s.opts.DPoP {
		return ""
	}
	return q.Get("dpop_jkt")
}

// proofURI is the htu that a request has to have.
func (s *Server) proofURI(rec *Request) string {
	scheme, _, _ := strings.Cut(s.base, "://")
	path, _, _ := strings.Cut(rec.URL, "?")
	return scheme + "://" + rec.Host + path
}

// withNonce adds the nonce to what an endpoint answers.
func withNonce(c *proofChecker, act func(*Request) *response) func(*Request) *response {
	return func(rec *Request) *response {
		res := act(rec)
		if nonce := c.current(); nonce != "" {
			if res.header == nil {
				res.header = http.Header{}
			}
			res.header.Set("DPoP-Nonce", nonce)
		}
		return res
	}
}

// boundUse checks how an access token is presented: one that is bound to a key by
// the scheme DPoP, with a proof of that key, any other by Bearer. It returns the
// error of the challenge; "" for none.
func boundUse(c *proofChecker, t *accessToken, scheme string, header http.Header, method, uri, token string) string {
	bound := t != nil && t.jkt != ""
	switch {
	case bound != strings.EqualFold(scheme, "DPoP"):
		return "invalid_token"
	case !bound:
		return ""
	}
	p, err := c.check(header, method, uri, token)
	switch {
	case errors.Is(err, errUseNonce):
		return "use_dpop_nonce"
	case err != nil:
		return "invalid_dpop_proof"
	case p.JKT != t.jkt:
		return "invalid_token"
	}
	return ""
}
