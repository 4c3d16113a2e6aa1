// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// dpopServer stands before a resource server that takes bound tokens alone (RFC 9449
// section 7), with a proof that has a nonce of the last half second or so. It shares
// no code with the gateway.
type dpopServer struct {
	rs *resourceServer

	mu      sync.Mutex
	nonces  [2]string // the newest, and the one before it, which requests under way may have
	changed time.Time
	seen    map[string]bool // jti
	demands int             // how often another nonce was asked for
	faults  []string
}

// dpopProof is what a proof says.
type dpopProof struct {
	ID     string `json:"jti"`
	Method string `json:"htm"`
	URI    string `json:"htu"`
	Issued int64  `json:"iat"`
	Hash   string `json:"ath"`
	Nonce  string `json:"nonce"`
}

// proofKey is where the thumbprint of a request's proof is in its context.
type proofKey struct{}

func newDPoPServer(rs *resourceServer) *dpopServer {
	rs.judge = func(r *http.Request, token string) (*accessTokenClaims, error) {
		claims, err := rs.validate(r, token)
		if err != nil {
			return nil, err
		}
		if key := r.Context().Value(proofKey{}); claims.Confirmation.Key == "" || claims.Confirmation.Key != key {
			return nil, fmt.Errorf("a token for %q with a proof of %q", claims.Confirmation.Key, key)
		}
		return claims, nil
	}
	return &dpopServer{rs: rs, seen: map[string]bool{}}
}

// ServeHTTP checks the proof, and lets the resource server check the token.
func (s *dpopServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	key, nonce, err := s.check(r, token)
	switch {
	case !ok || err != nil:
		s.mu.Lock()
		s.faults = append(s.faults, fmt.Sprintf("%s %s with %.20q: %v", r.Method, r.URL.Path, r.Header.Get("Authorization"), err))
		s.mu.Unlock()
		w.Header().Set("WWW-Authenticate", `DPoP error="invalid_dpop_proof"`)
		http.Error(w, "invalid proof", http.StatusUnauthorized)
	case nonce != "":
		w.Header().Set("DPoP-Nonce", nonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		http.Error(w, "another nonce", http.StatusUnauthorized)
	default:
		r = r.WithContext(context.WithValue(r.Context(), proofKey{}, key))
		r.Header.Set("Authorization", "Bearer "+token)
		s.rs.ServeHTTP(w, r)
	}
}

// check checks everything of section 4.3, and gives the thumbprint of the key, and
// the nonce if it is to be another one.
func (s *dpopServer) check(r *http.Request, token string) (key, nonce string, err error) {
	if len(r.Header.Values("DPoP")) != 1 {
		return "", "", fmt.Errorf("%d proofs", len(r.Header.Values("DPoP")))
	}
	parts := strings.Split(r.Header.Get("DPoP"), ".")
	if len(parts) != 3 {
		return "", "", errors.New("no JWT")
	}
	var header struct {
		Type      string            `json:"typ"`
		Algorithm string            `json:"alg"`
		Key       map[string]string `json:"jwk"`
	}
	var proof dpopProof
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err := errors.Join(err, decodePart(parts[0], &header), decodePart(parts[1], &proof)); err != nil {
		return "", "", err
	}
	x, errX := base64.RawURLEncoding.DecodeString(header.Key["x"])
	y, errY := base64.RawURLEncoding.DecodeString(header.Key["y"])
	if errX != nil || errY != nil || len(header.Key) != 4 || header.Key["kty"] != "EC" || header.Key["crv"] != "P-256" {
		return "", "", fmt.Errorf("the key has %d members", len(header.Key))
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		return "", "", err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	hash := sha256.Sum256([]byte(token))
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, header.Key["x"], header.Key["y"]))
	s.mu.Lock()
	defer s.mu.Unlock()
	switch age := time.Since(time.Unix(proof.Issued, 0)); {
	case header.Type != "dpop+jwt" || header.Algorithm != "ES256" || len(sig) != 64:
		return "", "", fmt.Errorf("unusable header %+v", header)
	case !ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])):
		return "", "", errors.New("bad signature")
	case proof.Method != r.Method || proof.URI != "http://"+r.Host+r.URL.EscapedPath():
		return "", "", fmt.Errorf("the proof is for %s %s", proof.Method, proof.URI)
	case proof.Hash != base64.RawURLEncoding.EncodeToString(hash[:]):
		return "", "", errors.New("the proof is for another token")
	case age < -5*time.Second || age > 30*time.Second:
		return "", "", fmt.Errorf("the proof is %s old", age)
	case proof.ID == "" || s.seen[proof.ID]:
		return "", "", errors.New("the proof was there before")
	}
	s.seen[proof.ID] = true
	if time.Since(s.changed) > 300*time.Millisecond {
		s.nonces, s.changed = [2]string{rand.Text(), s.nonces[0]}, time.Now()
	}
	if proof.Nonce == "" || !slices.Contains(s.nonces[:], proof.Nonce) {
		s.demands++
		return "", s.nonces[0], nil
	}
	return base64.RawURLEncoding.EncodeToString(thumb[:]), "", nil
}
