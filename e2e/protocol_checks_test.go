// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// startUpstream starts the resource server of a site, and returns its address and
// what bff_proxy needs for it.
func (s *protocolSite) startUpstream(t *testing.T, c protocolCase, authority *astest.Authority) (upstream, proxy string) {
	t.Helper()
	rs := &resourceServer{tokens: map[string]bool{}, refused: map[string]bool{}}
	s.resourceServer = rs
	rs.trust(s.server.Issuer, audience)
	server := httptest.NewUnstartedServer(rs)
	if c.dpop {
		s.proofs = newDPoPServer(rs)
		server.Config.Handler = s.proofs
	}
	t.Cleanup(server.Close)
	rs.address = server.Listener.Addr().String()
	if c.opaque {
		rs.judge = s.server.introspect
	}
	if c.bound == nil {
		server.Start()
		return rs.address, c.proxy
	}
	judge := rs.judge
	if judge == nil {
		judge = rs.validate
	}
	rs.judge = func(r *http.Request, token string) (*accessTokenClaims, error) {
		claims, err := judge(r, token)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
		if base64.RawURLEncoding.EncodeToString(sum[:]) != claims.Confirmation.Certificate {
			return nil, fmt.Errorf("the token is bound to another certificate, %q", claims.Confirmation.Certificate)
		}
		return claims, nil
	}
	server.TLS = authority.ServerConfig(tls.RequireAnyClientCert)
	server.StartTLS()
	return "https://" + rs.address, "transport http {\ntls_client_auth DIR/" + c.certificate + ".pem DIR/" + c.certificate + "-key.pem\ntls_trust_pool file DIR/ca.pem\n}\n"
}

// introspect is what a resource server does with a token that is no JWT.
func (s *protocolServer) introspect(r *http.Request, token string) (*accessTokenClaims, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, s.Issuer+"/token/introspection",
		strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("api", clientSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var body struct {
		accessTokenClaims
		Active bool `json:"active"`
	}
	if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
		return nil, err
	}
	if !body.Active {
		return nil, errors.New("not active")
	}
	return &body.accessTokenClaims, nil
}

// format checks that every access token is of the kind that the client is to have.
func (s *protocolSite) format(t *testing.T, c protocolCase, j journal) {
	t.Helper()
	n := 0
	for _, v := range j.where(func(v visit) bool { return v.Route == "token" && v.Status == 200 }) {
		if c.proxy != "" && v.Audience == "" {
			continue // the default token, for UserInfo
		}
		n++
		want := "jwt"
		if c.opaque {
			want = "opaque"
		}
		bound := ""
		if c.bound != nil {
			bound = c.bound.Thumbprint()
		}
		if v.Format != want || v.Bound != bound || (v.Key != "") != c.dpop || want == "jwt" && v.Audience != audience {
			t.Errorf("an access token: %s", journal{v})
		}
	}
	if n < 3 {
		t.Errorf("only %d access tokens: %s", n, j)
	}
}

// pushed checks that the request came from the gateway, and nothing but its
// reference by the browser. RFC 9126.
func (s *protocolSite) pushed(t *testing.T, j journal, signed bool) {
	t.Helper()
	pushes := j.route("pushed_authorization_request")
	if len(pushes) != 1 || pushes[0].Status != http.StatusCreated || signed != (pushes[0].Request != nil) {
		t.Fatalf("pushed: %s", pushes)
	}
	if signed && (pushes[0].Request.Type != "oauth-authz-req+jwt" || slices.Contains(pushes[0].Sent, "code_challenge")) {
		t.Errorf("pushed beside the request object: %s", pushes)
	}
	for _, v := range j.route("authorization") {
		if slices.Sort(v.Sent); !slices.Equal(v.Sent, []string{"client_id", "request_uri"}) {
			t.Errorf("the browser carried %q", v.Sent)
		}
	}
}

// answered checks what the response had. RFC 9207.
func (s *protocolSite) answered(t *testing.T, j journal, want ...string) {
	t.Helper()
	for _, v := range j.route("response") {
		if slices.Sort(v.Sent); !slices.Equal(v.Sent, want) {
			t.Errorf("the response has %q", v.Sent)
		}
	}
}

// asserted checks that the client authenticated by a JWT, every time. RFC 7523.
func (s *protocolSite) asserted(t *testing.T, j journal, alg string) {
	t.Helper()
	n := 0
	for _, v := range j.where(func(v visit) bool {
		return slices.Contains([]string{"token", "pushed_authorization_request", "introspection", "revocation"}, v.Route)
	}) {
		if v.Assertion == nil || v.Assertion.Algorithm != alg {
			t.Errorf("%s was authenticated by %+v", v.Route, v.Assertion)
		}
		n++
	}
	if n < 3 {
		t.Errorf("%d assertions", n)
	}
}

// mutual checks that every request came with the certificate. RFC 8705.
func (s *protocolSite) mutual(t *testing.T, j journal, c *astest.Certificate) {
	t.Helper()
	for _, v := range j.where(func(v visit) bool { return v.Route != "authorization" && v.Route != "response" }) {
		if v.Certificate != c.Thumbprint() {
			t.Errorf("%s came with the certificate %q", v.Route, v.Certificate)
		}
	}
}

// proved checks that one key is behind all tokens of a session, each got with a
// proof that has a nonce of the server. RFC 9449.
func (s *protocolSite) proved(t *testing.T, j journal) {
	t.Helper()
	pushes := j.route("pushed_authorization_request").where(func(v visit) bool { return v.Error == "" })
	tokens := j.where(func(v visit) bool { return v.Route == "token" && v.Status == http.StatusOK })
	if len(pushes) != 1 || len(tokens) < 4 || pushes[0].Params.KeyBinding == "" {
		t.Fatalf("pushed and got tokens: %s", j)
	}
	for _, v := range append(tokens, pushes...) {
		if v.Proof == nil || v.Proof.Nonce == "" || v.Proof.Method != http.MethodPost || !strings.HasPrefix(v.Proof.URI, s.server.Issuer+"/") {
			t.Errorf("a proof: %s", journal{v})
		}
		if v.Route == "token" && v.Key != pushes[0].Params.KeyBinding {
			t.Errorf("an access token for another key than that of the login: %s", journal{v})
		}
	}
	ids := map[string]bool{}
	for _, v := range j.where(func(v visit) bool { return v.Proof != nil }) {
		if ids[v.Proof.ID] {
			t.Errorf("a proof was sent twice: %s", journal{v})
		}
		ids[v.Proof.ID] = true
	}
	if demands := j.where(func(v visit) bool { return strings.HasPrefix(v.Error, "use_dpop_nonce") }); len(demands) == 0 {
		t.Error("the authorization server never had to ask for a nonce")
	}
	s.proofs.mu.Lock()
	defer s.proofs.mu.Unlock()
	if len(s.proofs.faults) != 0 || s.proofs.demands < 3 {
		t.Errorf("the resource server asked for %d nonces, and found: %q", s.proofs.demands, s.proofs.faults)
	}
}

// introspected checks that each token was looked at so, and its answer came as typ.
// Without a type none was. RFC 7662, RFC 9701.
func (s *protocolSite) introspected(t *testing.T, j journal, typ string) {
	t.Helper()
	asked := j.route("introspection")
	if typ == "" && len(asked) != 0 || typ != "" && len(asked) < 2 {
		t.Errorf("introspected %d times: %s", len(asked), asked)
	}
	for _, v := range asked {
		if v.Type != typ || v.Hint != "access_token" || v.Status != http.StatusOK {
			t.Errorf("introspected: %s", journal{v})
		}
	}
}

// informed checks that claims came from UserInfo, by what only that has.
func (s *protocolSite) informed(t *testing.T, j journal, typ string) {
	t.Helper()
	asked := j.route("userinfo")
	if len(asked) < 2 { // at login, and at POST refresh
		t.Errorf("UserInfo was asked %d times", len(asked))
	}
	for _, v := range asked {
		if v.Type != typ || v.Status != http.StatusOK {
			t.Errorf("UserInfo: %s", journal{v})
		}
	}
	if is := s.session(t); is.User["email"] != "alice@example.test" {
		t.Errorf("the claims: %v", is.User)
	}
}

// stepUp has the user sign in again: as a resource server demands, in another way,
// as claims demand, in a way that this user does not have, and in the same one
// because it was long ago.
func stepUp(t *testing.T, s *protocolSite) {
	first := s.session(t)
	if first.User["acr"] != "silver" || first.User["email"] != "alice@example.test" {
		t.Fatalf("claims of the first login: %v", first.User)
	}
	login := func(query string) (sessionAnswer, page) {
		t.Helper()
		end := s.navigate(t, "/bff/login?"+query+"&return_to="+url.QueryEscape("/orders?page=2"), "")
		return s.session(t), end
	}
	arrive := func(query string) sessionAnswer {
		t.Helper()
		is, end := login(query)
		s.arrive(t, end)
		return is
	}
	reaches := func(acr string, before, is sessionAnswer) {
		t.Helper()
		if is.User["acr"] != acr || is.Session.ID == before.Session.ID {
			t.Fatalf("after a login for %s: %+v", acr, is)
		}
		if err := s.call(t.Context(), http.MethodGet, nil); err != nil {
			t.Error(err)
		}
	}

	s.resourceServer.demand("gold")
	demanded, err := s.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil)
	var problem struct {
		LoginURL string `json:"login_url"`
	}
	if err != nil || demanded.status != http.StatusUnauthorized || demanded.header.Get("X-BFF-Error") != "step_up_required" ||
		json.Unmarshal(demanded.body, &problem) != nil {
		t.Fatalf("where the resource server demands gold: %s, %v", demanded, err)
	}
	s.arrive(t, s.navigate(t, problem.LoginURL+"&return_to="+url.QueryEscape("/orders?page=2"), ""))
	stepped := s.session(t)
	reaches("gold", first, stepped)
	s.resourceServer.demand("")

	if is := arrive("acr_values=gold"); is.Session.ID != stepped.Session.ID {
		t.Error("a login that asked for what there is made another session")
	}
	lower := arrive("acr_values=silver")
	reaches("silver", stepped, lower)
	gold := arrive("claims=" + url.QueryEscape(`{"id_token":{"acr":{"essential":true,"values":["gold"]}}}`))
	reaches("gold", lower, gold)
	is, end := login("acr_values=platinum")
	if end.status != http.StatusBadGateway || !strings.HasPrefix(end.url.String(), s.origin+"/bff/callback") {
		t.Errorf("a login that did not reach what it asked for ended at %s with %d", end.url, end.status)
	}
	if is.Session == nil || is.Session.ID != gold.Session.ID {
		t.Errorf("a login that did not reach what it asked for changed the session: %+v", is)
	}
	silver := arrive("acr_values=silver")
	if silver.User["acr"] != "silver" || silver.Session.ID == gold.Session.ID {
		t.Fatalf("after a login with acr_values: %+v", silver)
	}
	time.Sleep(2100 * time.Millisecond) // auth_time counts seconds
	again := arrive("max_age=1&force=true")
	if before, after := silver.User["auth_time"].(float64), again.User["auth_time"].(float64); after <= before {
		t.Errorf("auth_time after max_age=1: %v, before: %v", after, before)
	}

	pushes := s.seen(t).route("pushed_authorization_request")
	for i, want := range []struct{ acr, maxAge string }{
		{"silver", "3600"}, {"gold", "3600"}, {"silver", "3600"}, {"", "3600"}, {"platinum", "3600"}, {"silver", "3600"}, {"silver", "1"},
	} {
		if len(pushes) != 7 || pushes[i].Params.ACRValues != want.acr || fmt.Sprint(pushes[i].Params.MaxAge) != want.maxAge ||
			strings.Contains(pushes[i].Params.Claims, "gold") != (i == 3) {
			t.Fatalf("pushed: %s", pushes)
		}
	}
	if refused := s.seen(t).refused(); len(refused) != 0 {
		t.Errorf("the authorization server refused: %s", refused)
	}
}

// steal uses a refresh token that the gateway has used before. The server ends the
// grant; the gateway hears of it with its next refresh, and says so.
func steal(t *testing.T, s *protocolSite) {
	var secrets []issued
	s.server.get(t, "/test/issued?client="+url.QueryEscape(s.client), &secrets)
	i := slices.IndexFunc(secrets, func(i issued) bool { return i.Kind == "refresh_token" })
	res, err := http.PostForm(s.server.Issuer+"/token", url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {secrets[i].Value}, "client_id": {s.client},
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Fatalf("a refresh token that was used before: %s", res.Status)
	}
	if revoked := s.seen(t).route("grant.revoked"); len(revoked) != 1 {
		t.Fatalf("the server revoked %d grants", len(revoked))
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := s.browser.fetch(t.Context(), http.MethodGet, "/api/orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.status == http.StatusUnauthorized {
			if code := got.header.Get("X-BFF-Error"); code != "session_expired" {
				t.Errorf("the session ended with %q", code)
			}
			break
		}
		if got.status != http.StatusOK || time.Now().After(deadline) {
			t.Fatalf("with a grant that was revoked: %s", got)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.over(t, "refresh_token")
	refused := s.seen(t).route("token").refused()
	if len(refused) != 2 { // the thief, and the gateway
		t.Errorf("refused: %s", refused)
	}
	s.login(t, "")
	if err := s.call(t.Context(), http.MethodGet, nil); err != nil {
		t.Error(err)
	}
}
