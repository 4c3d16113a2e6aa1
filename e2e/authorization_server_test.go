// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// authorizationServer is npm oidc-provider in a process of its own.
type authorizationServer struct {
	Issuer string
}

type authorizationServerSettings struct {
	AccessTokenLife       int    `json:"accessTokenLife"` // seconds
	ClientID              string `json:"clientId"`
	ClientSecret          string `json:"clientSecret"`
	RedirectURI           string `json:"redirectUri"`
	PostLogoutRedirectURI string `json:"postLogoutRedirectUri"`
	BackchannelLogoutURI  string `json:"backchannelLogoutUri"`
	Audience              string `json:"audience"`

	ClientAuthMethod string     `json:"clientAuthMethod,omitempty"` // default: client_secret_basic
	JWKSURI          string     `json:"jwksUri,omitempty"`          // of the client
	MutualTLS        *mutualTLS `json:"mutualTLS,omitempty"`        // a second listener, which asks for certificates
}

// mutualTLS is the TLS of a server, in PEM.
type mutualTLS struct {
	CA          string `json:"ca"` // of clients
	Certificate string `json:"cert"`
	Key         string `json:"key"`
}

// authorizationServerStats is what the server has seen.
type authorizationServerStats struct {
	Codes       int      `json:"codes"`     // authorization codes exchanged
	Refreshes   int      `json:"refreshes"` // refreshes that succeeded
	Refused     []string `json:"refused"`   // token requests that did not
	Reused      int      `json:"reused"`    // of these: with something that was used before
	Revocations int      `json:"revocations"`
	Logouts     int      `json:"logouts"`
	Assertions  int      `json:"assertions"` // client assertions that passed every check
	Told        int      `json:"told"`       // logout tokens that the gateway took
	Untold      []string `json:"untold"`     // those that it did not
}

func startAuthorizationServer(t *testing.T, settings authorizationServerSettings) *authorizationServer {
	t.Helper()
	path := node(t, "oidc-provider")
	argument, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "authorization-server", exec.Command(path, "authorization-server.mjs", string(argument)))
	s := new(authorizationServer)
	if err := json.Unmarshal([]byte(p.line(t, `"issuer"`, 30*time.Second)), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *authorizationServer) stats(t *testing.T) (stats authorizationServerStats) {
	t.Helper()
	s.get(t, "/test/stats", &stats)
	return stats
}

// issued is a code or token that the server has handed out.
type issued struct {
	Kind  string `json:"kind"` // code, access_token, refresh_token, id_token
	Value string `json:"value"`
}

// issued gives all of them.
func (s *authorizationServer) issued(t *testing.T) (secrets []issued) {
	t.Helper()
	s.get(t, "/test/issued", &secrets)
	return secrets
}

// delayTokens makes each token request wait before it is looked at.
func (s *authorizationServer) delayTokens(t *testing.T, delay time.Duration) {
	t.Helper()
	var ms int64
	s.get(t, fmt.Sprintf("/test/token-delay?ms=%d", delay.Milliseconds()), &ms)
}

func (s *authorizationServer) get(t *testing.T, path string, into any) {
	t.Helper()
	res, err := http.Get(s.Issuer + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
