// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
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
