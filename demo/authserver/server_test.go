// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/demo/journal"
)

const audience = "http://api.test"

var gateway = Client{
	ID: "gateway", Secret: "s3cret/+&", RedirectURI: "http://localhost:9/bff/callback",
	PostLogoutRedirectURI: "http://localhost:9/bff/logout/callback",
}

// peer is the gateway and the browser in one, as the authorization server sees them.
type peer struct {
	*testing.T
	*Server
	journal *journal.Journal
	http    *http.Client
}

type tokens struct {
	Status       int
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	ExpiresIn    int    `json:"expires_in"`
	Error        string `json:"error"`
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	var j journal.Journal
	s, err := Start(Config{
		Audience: audience, AccessTokenLifetime: 15 * time.Second, Clients: []Client{gateway}, Journal: &j,
		Users: []User{{ID: "alice", Username: "alice", Password: "wonderland", Name: "Alice Liddell", Email: "alice@example.com"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &peer{T: t, Server: s, journal: &j, http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p *peer) do(request *http.Request) (*http.Response, string) {
	p.Helper()
	response, err := p.http.Do(request)
	if err != nil {
		p.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.Fatal(err)
	}
	return response, string(body)
}

func (p *peer) get(url string) (*http.Response, string) {
	p.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		p.Fatal(err)
	}
	return p.do(request)
}

func (p *peer) post(path string, form url.Values, authenticated bool) (*http.Response, string) {
	p.Helper()
	request, err := http.NewRequest(http.MethodPost, p.Issuer()+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if authenticated {
		request.SetBasicAuth(url.QueryEscape(gateway.ID), url.QueryEscape(gateway.Secret))
	}
	return p.do(request)
}

func (p *peer) token(form url.Values) tokens {
	p.Helper()
	response, body := p.post("/oauth/token", form, true)
	answer := tokens{Status: response.StatusCode}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		p.Fatalf("token endpoint: %v in %s", err, body)
	}
	return answer
}

// authorize goes through the login page and returns the code and its verifier.
func (p *peer) authorize() (code, verifier string) {
	p.Helper()
	verifier = rand.Text() + rand.Text()
	response, body := p.get(p.Issuer() + "/authorize?" + authorizationRequest(verifier).Encode())
	if response.StatusCode != http.StatusFound {
		p.Fatalf("authorization endpoint: %d %s", response.StatusCode, body)
	}
	_, page := p.get(p.Issuer() + response.Header.Get("Location"))
	request := regexp.MustCompile(`name="request" value="(\w+)"`).FindStringSubmatch(page)
	if request == nil {
		p.Fatalf("no form in %s", page)
	}
	response, body = p.post("/login", url.Values{"request": {request[1]}, "username": {"alice"}, "password": {"wonderland"}}, false)
	if response.StatusCode != http.StatusSeeOther {
		p.Fatalf("login: %d %s", response.StatusCode, body)
	}
	response, body = p.get(response.Header.Get("Location"))
	location, err := response.Location()
	if err != nil {
		p.Fatalf("callback: %v %s", err, body)
	}
	if location.Query().Get("state") != "the state" || !strings.HasPrefix(location.String(), gateway.RedirectURI) {
		p.Fatalf("authorization response: %s", location)
	}
	return location.Query().Get("code"), verifier
}

func authorizationRequest(verifier string) url.Values {
	challenge := sha256.Sum256([]byte(verifier))
	return url.Values{
		"response_type": {"code"}, "client_id": {gateway.ID}, "redirect_uri": {gateway.RedirectURI}, "state": {"the state"},
		"nonce": {"the nonce"}, "scope": {"openid profile email offline_access"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
}

func (p *peer) signIn() tokens {
	p.Helper()
	code, verifier := p.authorize()
	answer := p.exchange(code, verifier)
	if answer.Status != http.StatusOK {
		p.Fatalf("code exchange: %+v", answer)
	}
	return answer
}

func (p *peer) exchange(code, verifier string) tokens {
	p.Helper()
	return p.token(url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {gateway.RedirectURI}})
}

func (p *peer) refresh(token string) tokens {
	p.Helper()
	return p.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// kinds returns what the journal has, in order.
func (p *peer) kinds() (kinds []journal.Kind) {
	byID := map[int64]journal.Event{}
	for _, session := range p.sessions() {
		events, _ := p.journal.Since(0, session)
		for _, e := range events {
			byID[e.ID] = e
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		kinds = append(kinds, byID[id].Kind)
	}
	return kinds
}

func (p *peer) sessions() (labels []string) {
	p.storage.families.mu.Lock()
	defer p.storage.families.mu.Unlock()
	for id := range p.storage.families.byID {
		labels = append(labels, journal.Label(id))
	}
	return labels
}

func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTokensOfASignIn(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	if first.ExpiresIn != 15 || first.RefreshToken == "" {
		t.Fatalf("expires_in %d", first.ExpiresIn)
	}
	access, id := claims(t, first.AccessToken), claims(t, first.IDToken)
	if aud, ok := access["aud"].([]any); !ok || len(aud) != 1 || aud[0] != audience {
		t.Errorf("audience of the access token: %v", access["aud"])
	}
	if aud, ok := id["aud"].([]any); !ok || len(aud) != 1 || aud[0] != gateway.ID {
		t.Errorf("audience of the ID token: %v", id["aud"])
	}
	for _, c := range []map[string]any{access, id} {
		if c["iss"] != p.Issuer() || c["sub"] != "alice" || c["sid"] == "" || c["sid"] != access["sid"] {
			t.Errorf("claims %v", c)
		}
	}
	if id["name"] != "Alice Liddell" || id["email"] != "alice@example.com" || id["nonce"] != "the nonce" {
		t.Errorf("claims of the ID token: %v", id)
	}

	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK || second.RefreshToken == first.RefreshToken || second.AccessToken == first.AccessToken || second.ExpiresIn != 15 {
		t.Fatalf("refresh: %d, expires_in %d", second.Status, second.ExpiresIn)
	}
	refreshed := claims(t, second.IDToken)
	if refreshed["sid"] != id["sid"] || refreshed["auth_time"] != id["auth_time"] {
		t.Errorf("ID token of a refresh: %v, at sign-in: %v", refreshed, id)
	}
	if aud := claims(t, second.AccessToken)["aud"].([]any); len(aud) != 1 || aud[0] != audience {
		t.Errorf("audience after a refresh: %v", aud)
	}
	if !p.Live(access["jti"].(string)) {
		t.Error("a refresh must leave the previous access token alone")
	}
}

func TestAttackReusedRefreshTokenEndsTheSession(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	second := p.refresh(first.RefreshToken)
	if third := p.refresh(first.RefreshToken); third.Status != http.StatusBadRequest || third.Error != "invalid_grant" {
		t.Fatalf("a spent refresh token: %+v", third)
	}
	if third := p.refresh(second.RefreshToken); third.Status != http.StatusBadRequest || third.Error != "invalid_grant" {
		t.Fatalf("the rest of its family: %+v", third)
	}
	for _, token := range []string{first.AccessToken, second.AccessToken} {
		if p.Live(claims(t, token)["jti"].(string)) {
			t.Error("an access token of the family is alive")
		}
	}
	if got := p.kinds(); !slices.Equal(got, []journal.Kind{journal.SignedIn, journal.Refreshed, journal.Reused}) {
		t.Errorf("journal: %v", got)
	}
}

func TestParallelRefreshesOverHTTPHaveOneWinner(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	var won, refused atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			switch answer := p.refresh(first.RefreshToken); {
			case answer.Status == http.StatusOK:
				won.Add(1)
			case answer.Error == "invalid_grant":
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || refused.Load() != 19 {
		t.Fatalf("%d won, %d were refused", won.Load(), refused.Load())
	}
}

func TestAttackCodeIsGoodForOneExchange(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	code, verifier := p.authorize()
	if answer := p.exchange(code, "another verifier, long enough to be one of its own"); answer.Status == http.StatusOK {
		t.Fatal("a wrong code_verifier was accepted")
	}
	first := p.exchange(code, verifier)
	if first.Status != http.StatusOK {
		t.Fatalf("the right one was not: %+v", first)
	}
	if again := p.exchange(code, verifier); again.Error != "invalid_grant" {
		t.Fatalf("second exchange: %+v", again)
	}
	if p.Live(claims(t, first.AccessToken)["jti"].(string)) || p.refresh(first.RefreshToken).Status == http.StatusOK {
		t.Error("what the first exchange gave must be revoked")
	}
}

func TestAuthorizationRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	for name, test := range map[string]struct {
		change func(url.Values)
		want   string // error sent to the client; empty: the browser stays here
	}{
		"no PKCE":              {func(v url.Values) { v.Del("code_challenge") }, "invalid_request"},
		"plain PKCE":           {func(v url.Values) { v.Set("code_challenge_method", "plain") }, "invalid_request"},
		"prompt=none":          {func(v url.Values) { v.Set("prompt", "none") }, "login_required"},
		"foreign redirect_uri": {func(v url.Values) { v.Set("redirect_uri", "http://evil.test/") }, ""},
		"unknown client":       {func(v url.Values) { v.Set("client_id", "evil") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := authorizationRequest("verifier")
			test.change(v)
			response, _ := p.get(p.Issuer() + "/authorize?" + v.Encode())
			location, err := response.Location()
			if test.want == "" {
				if err == nil || response.StatusCode != http.StatusBadRequest {
					t.Fatalf("%d, Location %v", response.StatusCode, location)
				}
				return
			}
			if err != nil || location.Query().Get("error") != test.want || !strings.HasPrefix(location.String(), gateway.RedirectURI) {
				t.Fatalf("Location %v", location)
			}
		})
	}
}

func TestClientMustAuthenticate(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}, "client_id": {gateway.ID}, "client_secret": {"wrong"}}
	if response, body := p.post("/oauth/token", form, false); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "invalid_client") {
		t.Fatalf("wrong secret: %d %s", response.StatusCode, body)
	}
	form.Set("client_id", "nobody")
	if response, body := p.post("/oauth/token", form, false); response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "invalid_client") {
		t.Fatalf("unknown client: %d %s", response.StatusCode, body)
	}
	if answer := p.refresh(first.RefreshToken); answer.Status != http.StatusOK {
		t.Fatalf("the refresh token must not have been spent by that: %+v", answer)
	}
}

func TestRevocationEndpoint(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	jti := claims(t, first.AccessToken)["jti"].(string)
	if response, body := p.post("/revoke", url.Values{"token": {first.AccessToken}, "token_type_hint": {"access_token"}}, true); response.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	if p.Live(jti) {
		t.Error("the access token is alive")
	}
	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK {
		t.Fatalf("the refresh token must be alive: %+v", second)
	}
	if response, body := p.post("/revoke", url.Values{"token": {second.RefreshToken}, "token_type_hint": {"refresh_token"}}, true); response.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	if p.refresh(second.RefreshToken).Error != "invalid_grant" || p.Live(claims(t, second.AccessToken)["jti"].(string)) {
		t.Error("revoking the refresh token must end everything")
	}
}

func TestEndSessionEndsTheSessionOfTheIDToken(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	mine, other := p.signIn(), p.signIn()
	query := url.Values{"id_token_hint": {mine.IDToken}, "post_logout_redirect_uri": {gateway.PostLogoutRedirectURI}, "state": {"s"}}
	response, body := p.get(p.Issuer() + "/end_session?" + query.Encode())
	if response.Header.Get("Location") != gateway.PostLogoutRedirectURI+"?state=s" {
		t.Fatalf("%d %s %s", response.StatusCode, response.Header.Get("Location"), body)
	}
	if p.refresh(mine.RefreshToken).Error != "invalid_grant" {
		t.Error("the session is alive")
	}
	if p.refresh(other.RefreshToken).Status != http.StatusOK {
		t.Error("another session of the user was ended too")
	}
	query = url.Values{"client_id": {gateway.ID}, "logout_hint": {"alice"}, "post_logout_redirect_uri": {gateway.PostLogoutRedirectURI}}
	if response, body := p.get(p.Issuer() + "/end_session?" + query.Encode()); response.Header.Get("Location") != gateway.PostLogoutRedirectURI {
		t.Fatalf("without an ID token: %d %s", response.StatusCode, body)
	}
	query.Set("post_logout_redirect_uri", "http://evil.test/")
	if response, _ := p.get(p.Issuer() + "/end_session?" + query.Encode()); response.StatusCode != http.StatusBadRequest {
		t.Fatalf("open redirect: %d %s", response.StatusCode, response.Header.Get("Location"))
	}
}

func TestRevokeAccessTokensLeavesTheSession(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn()
	c := claims(t, first.AccessToken)
	p.RevokeAccessTokens(c["sid"].(string))
	if p.Live(c["jti"].(string)) {
		t.Error("the access token is alive")
	}
	second := p.refresh(first.RefreshToken)
	if second.Status != http.StatusOK || !p.Live(claims(t, second.AccessToken)["jti"].(string)) {
		t.Errorf("the session must go on: %+v", second)
	}
}

func TestOutageRefusesConnectionsAndEnds(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	first := p.signIn() // leaves a connection that is kept alive
	until := p.TakeDown(300 * time.Millisecond)
	if again := p.TakeDown(time.Hour); !again.Equal(until) {
		t.Errorf("a second outage moved the end from %v to %v", until, again)
	}
	if !p.DownUntil().Equal(until) {
		t.Errorf("down until %v, want %v", p.DownUntil(), until)
	}
	if _, err := p.http.Get(p.Issuer() + "/keys"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("during the outage: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for !p.DownUntil().IsZero() {
		if time.Now().After(deadline) {
			t.Fatal("the outage does not end")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if answer := p.refresh(first.RefreshToken); answer.Status != http.StatusOK {
		t.Fatalf("after the outage: %+v", answer)
	}
	if got := p.kinds(); !slices.Equal(got, []journal.Kind{journal.SignedIn, journal.OutageStarted, journal.OutageEnded, journal.Refreshed}) {
		t.Errorf("journal: %v", got)
	}
}

func TestLoginPage(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	response, _ := p.get(p.Issuer() + "/authorize?" + authorizationRequest("v").Encode())
	address := p.Issuer() + response.Header.Get("Location")
	response, page := p.get(address)
	if csp := response.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "form-action 'self' http://localhost:9") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	for _, want := range []string{`value="alice"`, `value="wonderland"`, `<label for="username">`, `<label for="password">`} {
		if !strings.Contains(page, want) {
			t.Errorf("page lacks %s", want)
		}
	}
	id := response.Request.URL.Query().Get("request")
	response, page = p.post("/login", url.Values{"request": {id}, "username": {"<b>alice"}, "password": {"wrong"}}, false)
	if response.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(page, "is wrong") || strings.Contains(page, "<b>alice") {
		t.Errorf("wrong password: %d %s", response.StatusCode, page)
	}
	response, page = p.post("/login", url.Values{"request": {"unknown"}, "username": {"alice"}, "password": {"wonderland"}}, false)
	if response.StatusCode != http.StatusBadRequest || !strings.Contains(page, "start again") {
		t.Errorf("unknown request: %d", response.StatusCode)
	}
	request, err := http.NewRequest(http.MethodPost, p.Issuer()+"/login", strings.NewReader(url.Values{"request": {id}, "username": {"alice"}, "password": {"wonderland"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Origin", "http://evil.test")
	if response, _ := p.do(request); response.StatusCode != http.StatusForbidden {
		t.Errorf("form of another site: %d", response.StatusCode)
	}
}
