// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// glewlwydCase is a client of the server.
type glewlwydCase struct {
	name    string
	client  map[string]any // metadata, besides that which all have
	options string         // of bff; DIR is the directory of its files
	dpop    bool           // tokens are bound to a key, and the resource server looks

	saw func(t *testing.T, s *glewlwydSite) // checks what the server got
	end func(s *glewlwydSite, t *testing.T) // ends the session
}

func glewlwydCases(key *astest.Key) []glewlwydCase {
	const (
		secret = "client_secret {file.DIR/client_secret}\n"
		jwt    = "access_token {\nvalidate jwt\naudience " + glewlwydResource + "\n}\n"
	)
	keys := map[string]any{"keys": []any{key.JWK()}}
	return []glewlwydCase{
		{
			name:    "secret",
			client:  map[string]any{"client_secret": clientSecret, "token_endpoint_auth_method": []string{"client_secret_basic"}},
			options: secret + "par required\naccess_token {\nvalidate introspection\naudience " + glewlwydResource + "\n}\n",
			saw: func(t *testing.T, s *glewlwydSite) {
				s.pushed(t, false)
				asked := s.server.seen(s.client, "introspect", "")
				if len(asked) < 3 { // as many as there were tokens
					t.Errorf("introspected %d times", len(asked))
				}
				for _, e := range asked {
					if e.status != http.StatusOK || e.typ != "application/json" {
						t.Errorf("introspected: %d, %s", e.status, e.typ)
					}
				}
			},
			end: (*glewlwydSite).logout,
		},
		{
			name: "signed",
			client: map[string]any{
				// To the server a signed request is an assertion of the client, too.
				"client_secret": clientSecret, "token_endpoint_auth_method": []string{"client_secret_basic", "private_key_jwt"},
				"jwks": keys, "request_object_signing_alg": "ES256",
			},
			options: secret + "client_auth client_secret_basic {\nkey_file DIR/key.jwk\n}\npar required\nrequest_object required\n" + jwt,
			saw:     func(t *testing.T, s *glewlwydSite) { s.pushed(t, true) },
			end:     (*glewlwydSite).steal,
		},
		{
			// The server takes an assertion only with the URL of the endpoint as its
			// audience, so it cannot be pushed to this way, nor told to revoke.
			name: "key",
			client: map[string]any{
				"token_endpoint_auth_method": []string{"private_key_jwt"}, "jwks": keys, "token_endpoint_signing_alg": "ES256",
			},
			options: "client_auth private_key_jwt {\nkey_file DIR/key.jwk\naudience token_endpoint\n}\npar off\nresponse_mode form_post.jwt\n" + jwt,
			saw: func(t *testing.T, s *glewlwydSite) {
				for _, e := range s.server.seen(s.client, "token", "") {
					if !e.form.Has("client_assertion") || e.header.Get("Authorization") != "" {
						t.Errorf("a token request with %v", e.form)
					}
				}
			},
			end: (*glewlwydSite).logoutUnrevoked,
		},
		{
			name:    "DPoP",
			client:  map[string]any{"client_secret": clientSecret, "token_endpoint_auth_method": []string{"client_secret_basic"}},
			options: secret + "par required\ndpop on\n" + jwt,
			dpop:    true,
			saw: func(t *testing.T, s *glewlwydSite) {
				for _, e := range s.server.seen(s.client, "token", "") {
					if e.header.Get("DPoP") == "" {
						t.Errorf("a token request without a proof: %v", e.form)
					}
				}
				s.proofs.mu.Lock()
				defer s.proofs.mu.Unlock()
				if len(s.proofs.faults) != 0 || s.proofs.demands < 3 {
					t.Errorf("the resource server asked for %d nonces, and found: %q", s.proofs.demands, s.proofs.faults)
				}
			},
			end: (*glewlwydSite).logout,
		},
	}
}

// A second authorization server with nothing in common with the first: Glewlwyd,
// written in C. Refresh tokens are used once, and one that comes twice ends the
// family. One gateway has four clients. Of what this version does in its own way:
// pushed requests lose their response_mode, and logout tokens have no exp, so that
// neither can be had with it.
func TestGlewlwyd(t *testing.T) {
	t.Parallel()
	const life = 4 * time.Second
	glewlwydInstalled(t) // before anything is built
	if err := os.RemoveAll(outputDirectory(t)); err != nil {
		t.Fatal(err)
	}
	caddy, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	gateway := bench{caddy: caddy, dir: t.TempDir()}
	key := astest.NewKey("ES256", "e2e")
	gateway.write(t, "client_secret", []byte(clientSecret))
	gateway.write(t, "key.jwk", key.Files()["JWK"])
	cases := glewlwydCases(key)
	sites := make([]*glewlwydSite, len(cases))
	clients := make([]map[string]any, len(cases))
	for i, c := range cases {
		b := gateway
		b.origin = "http://localhost:" + strconv.Itoa(redistest.FreePort(t))
		b.browser = newBrowser(t, b.origin)
		b.resourceServer = startResourceServer(t)
		sites[i] = &glewlwydSite{bench: &b, client: c.name}
		if c.dpop {
			sites[i].proofs = newDPoPServer(b.resourceServer)
			server := httptest.NewServer(sites[i].proofs)
			t.Cleanup(server.Close)
			b.resourceServer.address = server.Listener.Addr().String()
		}
		clients[i] = map[string]any{
			"client_id": c.name, "name": c.name, "confidential": true, "enabled": true, "scope": []string{},
			"redirect_uri":             []string{b.origin + "/bff/callback"},
			"authorization_type":       []string{"code", "refresh_token", "delete_token", "client_credentials"},
			"post_logout_redirect_uri": b.origin + "/bff/logout/callback", "backchannel_logout_uri": b.origin + "/bff/backchannel",
		}
		maps.Copy(clients[i], c.client)
	}
	g := startGlewlwyd(t, life, clients...)
	caddyfile := "{\nadmin off\npersist_config off\ngrace_period 5s\nlog {\nlevel DEBUG\nformat json\n}\n}\n"
	for i, c := range cases {
		s := sites[i]
		s.server = g
		s.resourceServer.trust(g.issuer, glewlwydResource)
		caddyfile += fmt.Sprintf(`%s {
	bind 127.0.0.1
	bff {
		issuer    %s
		client_id %s
		scope     openid api
		resource  %s
		%s
	}
	handle /api/* {
		bff_proxy %s
	}
	handle {
		respond "the application"
	}
}
`, s.origin, g.issuer, c.name, glewlwydResource, strings.ReplaceAll(c.options, "DIR", gateway.dir), s.resourceServer.address)
	}
	gateway.write(t, "Caddyfile", []byte(caddyfile))
	gateway.origin = sites[0].origin
	gateway.startGateway(t)

	t.Run("client", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				sites[i].run(t, c, life)
			})
		}
	})
	for _, s := range sites {
		checkLogs(t, append(g.secrets(), clientSecret), s.browser.cookies(t))
	}
}
