// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// resourceServer is an API that takes RFC 9068 access tokens of one issuer. It
// shares no code with the gateway: what it accepts, others accept.
type resourceServer struct {
	address string

	// judge says whose token it is, where this is no server that takes JWTs alone.
	judge func(r *http.Request, token string) (*accessTokenClaims, error)

	mu        sync.Mutex
	issuer    string
	audience  string
	keys      map[string]*rsa.PublicKey
	tokens    map[string]bool // every access token that was accepted
	refused   map[string]bool // tokens that it acts as if they were revoked
	acr       string          // how users have to have signed in, if it matters
	reasons   []string        // why requests were answered 401
	forbidden []string        // headers that should never have come here
}

type accessTokenClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience any    `json:"aud"`
	ID       string `json:"jti"`
	Expiry   int64  `json:"exp"`
	ACR      string `json:"acr"` // RFC 9470 section 6

	Confirmation struct {
		Certificate string `json:"x5t#S256"` // RFC 8705 section 3.1
		Key         string `json:"jkt"`      // RFC 9449 section 6.1
	} `json:"cnf"`
}

func startResourceServer(t *testing.T) *resourceServer {
	t.Helper()
	rs := &resourceServer{tokens: map[string]bool{}, refused: map[string]bool{}}
	server := httptest.NewServer(rs)
	t.Cleanup(server.Close)
	rs.address = server.Listener.Addr().String()
	return rs
}

// trust makes the server accept the tokens of an issuer.
func (rs *resourceServer) trust(issuer, audience string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.issuer, rs.audience, rs.keys = issuer, audience, nil
}

// refuse makes the server refuse every token that it has accepted so far.
func (rs *resourceServer) refuse() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for token := range rs.tokens {
		rs.refused[token] = true
	}
}

// demand makes the server ask for an authentication of that class (RFC 9470).
func (rs *resourceServer) demand(acr string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.acr = acr
}

// generations is how many different access tokens were accepted.
func (rs *resourceServer) generations() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.tokens)
}

// seen tells why requests were answered 401, and which headers came that should
// not have.
func (rs *resourceServer) seen() (reasons, forbidden []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.Clone(rs.reasons), slices.Clone(rs.forbidden)
}

// ServeHTTP answers with the subject of the token and what was sent.
func (rs *resourceServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, name := range []string{"Cookie", "X-Csrf"} {
		if v := r.Header.Get(name); v != "" {
			rs.forbidden = append(rs.forbidden, name+": "+v)
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	judge := rs.judge
	if judge == nil {
		judge = rs.validate
	}
	claims, err := judge(r, token)
	if !ok || err != nil {
		rs.reasons = append(rs.reasons, fmt.Sprintf("%s %s: %v", r.Method, r.URL.Path, err))
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "invalid token", http.StatusUnauthorized)
		return
	}
	rs.tokens[token] = true
	if rs.acr != "" && claims.ACR != rs.acr {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_user_authentication", acr_values=%q`, rs.acr))
		http.Error(w, "sign in in another way", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"sub": claims.Subject, "body": string(body)})
}

func (rs *resourceServer) validate(_ *http.Request, token string) (*accessTokenClaims, error) {
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	var header struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ"`
		KeyID     string `json:"kid"`
	}
	claims := new(accessTokenClaims)
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err := errors.Join(err, decodePart(head, &header), decodePart(payload, claims)); err != nil {
		return nil, err
	}
	if rs.keys == nil {
		if rs.keys, err = fetchKeys(rs.issuer); err != nil {
			return nil, err
		}
	}
	digest := sha256.Sum256([]byte(head + "." + payload))
	key := rs.keys[header.KeyID]
	switch {
	case header.Algorithm != "RS256" || header.Type != "at+jwt" || key == nil:
		return nil, fmt.Errorf("unusable header %+v", header)
	case rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], sig) != nil:
		return nil, errors.New("bad signature")
	case claims.Issuer != rs.issuer || claims.Audience != rs.audience:
		return nil, fmt.Errorf("issuer %q, audience %q", claims.Issuer, claims.Audience)
	case !time.Now().Before(time.Unix(claims.Expiry, 0)):
		return nil, fmt.Errorf("expired at %d", claims.Expiry)
	case rs.refused[token]:
		return nil, errors.New("revoked")
	}
	return claims, nil
}

func decodePart(part string, into any) error {
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

func fetchKeys(issuer string) (map[string]*rsa.PublicKey, error) {
	res, err := http.Get(issuer + "/jwks")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var set struct {
		Keys []struct {
			ID       string `json:"kid"`
			Modulus  string `json:"n"`
			Exponent string `json:"e"`
		} `json:"keys"`
	}
	if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PublicKey{}
	for _, k := range set.Keys {
		n, errN := base64.RawURLEncoding.DecodeString(k.Modulus)
		e, errE := base64.RawURLEncoding.DecodeString(k.Exponent)
		if err := errors.Join(errN, errE); err != nil {
			return nil, err
		}
		keys[k.ID] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	return keys, nil
}
