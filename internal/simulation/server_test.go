// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// signingKey signs for all runs of the process; making one takes time.
var signingKey = sync.OnceValue(func() *astest.Key { return astest.NewKey("EdDSA", "key-1") })

// server is the model authorization server, and the resource server, which
// asks it about access tokens.
type server struct {
	w *world

	mu      sync.Mutex
	made    int
	codes   map[string]*authorization
	refresh map[string]*refreshToken
	access  map[string]*accessToken
	mode    serverMode
}

// serverMode is what the server answers instead of doing its work.
type serverMode string

const (
	modeWell          serverMode = ""
	modeDown          serverMode = "down"   // connections are refused
	modeSilent        serverMode = "silent" // nothing is heard of it
	modeUnavailable   serverMode = "503"
	modeTooMany       serverMode = "429"
	modeInvalidClient serverMode = "invalid_client"
	modeHTML          serverMode = "html"
)

// family is all that came of one login.
type family struct {
	id      int
	user    string
	sess    *sess // nil until the login is over
	revoked time.Time
	tokens  []*refreshToken
	access  []*accessToken
}

type authorization struct {
	fam              *family
	nonce, challenge string
	used             bool
}

type refreshToken struct {
	value  string
	fam    *family
	parent *refreshToken
	usedAt time.Time // first use; zero: unused
	child  *refreshToken
	// revoked by itself; see family.revoked.
	revoked bool
}

type accessToken struct {
	value   string
	fam     *family
	expiry  time.Time
	revoked time.Time
}

func newServer(w *world) *server {
	return &server{w: w, codes: map[string]*authorization{}, refresh: map[string]*refreshToken{}, access: map[string]*accessToken{}}
}

// now is the server's own clock. It shows in what tokens say, not in expires_in.
func (s *server) now() time.Time { return time.Now().Add(s.w.plan.skew) }

func (s *server) setMode(m serverMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = m
}

func (s *server) currentMode() serverMode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode
}

// authorize signs a user in and gives what the browser brings back.
func (s *server) authorize(target, user string) url.Values {
	u, err := url.Parse(target)
	if err != nil {
		panic(err)
	}
	q := u.Query()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	code := fmt.Sprintf("code-%d", s.made)
	s.codes[code] = &authorization{fam: &family{id: s.made, user: user}, nonce: q.Get("nonce"), challenge: q.Get("code_challenge")}
	return url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {issuer}}
}

// reply is an answer before it is on its way.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func answer(status int, v any) *reply {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &reply{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: body}
}

func oauthError(status int, code string) *reply { return answer(status, map[string]any{"error": code}) }

// unwell gives what a server that is not well answers, or nil.
func (s *server) unwell(m serverMode) *reply {
	switch m {
	case modeUnavailable:
		return &reply{status: http.StatusServiceUnavailable, header: http.Header{}}
	case modeTooMany:
		r := oauthError(http.StatusTooManyRequests, "temporarily_unavailable")
		r.header.Set("Retry-After", "7")
		return r
	case modeInvalidClient:
		return oauthError(http.StatusUnauthorized, "invalid_client")
	case modeHTML:
		return &reply{status: http.StatusOK, header: http.Header{"Content-Type": {"text/html"}}, body: []byte("<!doctype html><title>Maintenance</title>")}
	}
	return nil
}

// serve acts on a request that arrived.
func (s *server) serve(c *call, path string, form url.Values, m serverMode) *reply {
	switch path {
	case "/.well-known/openid-configuration":
		return answer(http.StatusOK, map[string]any{
			"issuer": issuer, "authorization_endpoint": issuer + "/authorize", "token_endpoint": issuer + "/token",
			"jwks_uri": issuer + "/jwks", "revocation_endpoint": issuer + "/revoke",
			"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
			"authorization_response_iss_parameter_supported": true, "id_token_signing_alg_values_supported": []string{"EdDSA"},
		})
	case "/jwks":
		return answer(http.StatusOK, map[string]any{"keys": []any{signingKey().JWK()}})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.history.mu.Lock()
	defer s.w.history.mu.Unlock()
	c.arrived = time.Now()
	if r := s.unwell(m); r != nil {
		c.result = callUnwell
		return r
	}
	switch {
	case path == "/revoke":
		c.result = callRevoked
		if c.token != nil {
			c.token.revoked = true
			if s.w.plan.revokesGrant {
				s.revoke(c.token.fam)
			}
		} else if a := s.access[form.Get("token")]; a != nil && a.revoked.IsZero() {
			a.revoked = time.Now() // it alone, as most servers do
		}
		return &reply{status: http.StatusOK, header: http.Header{}}
	case c.code:
		return s.exchange(c, form)
	}
	return s.refreshGrant(c)
}

func (s *server) revoke(f *family) {
	if f.revoked.IsZero() {
		f.revoked = time.Now()
	}
}

// works says that a refresh token would bring tokens, other than by a grace.
func (s *server) works(t *refreshToken) bool {
	stays := s.w.plan.policy == policyNone || s.w.plan.policy == policySame
	return t.fam.revoked.IsZero() && !t.revoked && (stays || t.usedAt.IsZero())
}

func (s *server) exchange(c *call, form url.Values) *reply {
	a := s.codes[form.Get("code")]
	if a == nil || a.used {
		c.result = callRefused
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	a.used = true
	c.result = callGranted
	c.child = s.newRefreshToken(a.fam, nil)
	return s.tokens(a.fam, c.child.value, a.nonce)
}

// refreshGrant answers a refresh token, according to the policy.
func (s *server) refreshGrant(c *call) *reply {
	refused := func() *reply {
		c.result = callRefused
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	t := c.token
	if t == nil || t.revoked || !t.fam.revoked.IsZero() {
		return refused()
	}
	now, first := time.Now(), t.usedAt.IsZero()
	if first {
		t.usedAt = now
	}
	child := t.child
	switch p := s.w.plan; {
	case p.policy == policyNone, p.policy == policySame:
		child = t
	case first:
		child = s.newRefreshToken(t.fam, t)
	case p.policy == policyStrict, p.policy == policyGrace && now.Sub(t.usedAt) > p.window:
		s.revoke(t.fam)
		return refused()
	case p.policy == policyGrace:
		child = s.newRefreshToken(t.fam, t)
	case p.policy == policyChild && child.usedAt.IsZero():
	default:
		return refused()
	}
	c.result, c.child = callGranted, child
	told := child.value
	if s.w.plan.policy == policyNone {
		told = ""
	}
	return s.tokens(t.fam, told, "")
}

func (s *server) newRefreshToken(f *family, parent *refreshToken) *refreshToken {
	s.made++
	t := &refreshToken{value: fmt.Sprintf("refresh-%d", s.made), fam: f, parent: parent}
	if parent != nil {
		parent.child = t
	}
	f.tokens = append(f.tokens, t)
	s.refresh[t.value] = t
	return t
}

func (s *server) tokens(f *family, refresh, nonce string) *reply {
	s.made++
	at := &accessToken{value: fmt.Sprintf("access-%d", s.made), fam: f, expiry: time.Now().Add(s.w.plan.life)}
	now := s.now()
	if s.w.plan.jwt {
		at.value = signingKey().Sign(signingKey().Header("at+jwt"), map[string]any{
			"iss": issuer, "sub": f.user, "aud": "https://api.test", "client_id": "app", "jti": at.value,
			"iat": now.Unix(), "exp": now.Add(s.w.plan.life).Unix(),
		})
	}
	f.access = append(f.access, at)
	s.access[at.value] = at
	body := map[string]any{"access_token": at.value, "token_type": "Bearer", "expires_in": int(s.w.plan.life / time.Second)}
	if refresh != "" {
		body["refresh_token"] = refresh
	}
	if nonce != "" || s.w.plan.idTokens {
		claims := map[string]any{
			"iss": issuer, "sub": f.user, "aud": "app", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
			"sid": fmt.Sprintf("sid-%d", f.id),
		}
		if nonce != "" {
			claims["nonce"] = nonce
		}
		body["id_token"] = signingKey().Sign(signingKey().Header("JWT"), claims)
	}
	return answer(http.StatusOK, body)
}

// relayed is the resource server: it takes an access token, or refuses it.
func (s *server) relayed(token string) (accepted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.access[token]
	return a != nil && a.fam.revoked.IsZero() && a.revoked.IsZero() && time.Now().Before(a.expiry)
}

// revokeAccess makes the access tokens of a family invalid, as a change of the
// user's rights does; its refresh tokens go on working.
func (s *server) revokeAccess(f *family) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range f.access {
		if a.revoked.IsZero() {
			a.revoked = time.Now()
		}
	}
}
