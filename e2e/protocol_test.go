// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// protocolCase is one combination of what a client may be registered for.
type protocolCase struct {
	name string

	client  map[string]any // metadata, besides that which all clients have
	options string         // of bff; DIR is the directory of its files
	proxy   string         // of bff_proxy
	mode    string         // response_mode

	opaque bool                // the resource server introspects its tokens
	bound  *astest.Certificate // tokens are bound to it, and the resource server looks

	certificate string // name of its files
	dpop        bool   // tokens are bound to a key, and the resource server looks

	logoutAtServer bool

	// saw checks what the server saw, until the logout.
	saw func(t *testing.T, s *protocolSite, j journal)
	// use is done before the logout.
	use func(t *testing.T, s *protocolSite)
}

// protocolCases are the combinations. What the server would refuse otherwise is in
// the metadata of the client; the rest is checked in the journal.
func protocolCases(issued, selfSigned *astest.Certificate) []protocolCase {
	const (
		secret    = "client_secret {file.DIR/client_secret}\n"
		jwt       = "resource " + audience + "\naccess_token {\nvalidate jwt\naudience " + audience + "\n}\n"
		tlsOption = "certificate DIR/%[1]s.pem\nprivate_key DIR/%[1]s-key.pem\n"
	)
	privateKey := func(alg, more string) string {
		return "client_auth private_key_jwt {\n" + "alg " + alg + "\n" + "key_file DIR/" + strings.ToLower(alg) + ".pem\n" + more + "}\n"
	}
	return []protocolCase{
		{
			name:    "pushed",
			client:  map[string]any{"require_pushed_authorization_requests": true},
			options: secret + "par required\n" + jwt,
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.pushed(t, j, false)
				s.introspected(t, j, "")
			},
		},
		{
			name: "signed, form_post",
			client: map[string]any{
				"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256",
				"require_signed_request_object": true, "request_object_signing_alg": "ES256", "id_token_signed_response_alg": "ES256",
			},
			options: privateKey("ES256", "") + "par off\nrequest_object required\n" + jwt,
			mode:    "form_post",
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.asserted(t, j, "ES256")
				for _, v := range j.route("authorization") {
					if v.Request == nil || v.Request.Algorithm != "ES256" || v.Request.Type != "oauth-authz-req+jwt" || slices.Contains(v.Sent, "code_challenge") {
						t.Errorf("the request came as %s", journal{v})
					}
				}
				s.answered(t, j, "code", "iss", "state")
			},
			logoutAtServer: true,
		},
		{
			name: "message signing",
			client: map[string]any{
				"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "PS256",
				"require_signed_request_object": true, "request_object_signing_alg": "PS256", "require_pushed_authorization_requests": true,
				"authorization_signed_response_alg": "PS256", "id_token_signed_response_alg": "PS256", "introspection_signed_response_alg": "PS256",
			},
			options: privateKey("PS256", "") + "par required\nrequest_object required\n" +
				"resource urn:e2e:opaque\naccess_token {\nvalidate introspection\n}\n",
			mode:   "jwt",
			opaque: true,
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.asserted(t, j, "PS256")
				s.pushed(t, j, true)
				s.introspected(t, j, "application/token-introspection+jwt")
			},
		},
		{
			name: "form_post.jwt",
			client: map[string]any{
				"token_endpoint_auth_method": "client_secret_post", "authorization_signed_response_alg": "EdDSA", "id_token_signed_response_alg": "EdDSA",
			},
			options: secret + "client_auth client_secret_post\n" + jwt,
			mode:    "form_post.jwt",
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.pushed(t, j, false)
				for _, v := range j.route("token") {
					if !slices.Contains(v.Sent, "client_secret") {
						t.Errorf("the client authenticated with %q", v.Sent)
					}
				}
			},
			logoutAtServer: true,
		},
		{
			name: "mutual TLS",
			client: map[string]any{
				"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=e2e",
				"tls_client_certificate_bound_access_tokens": true, "require_pushed_authorization_requests": true,
			},
			options: "client_auth tls_client_auth {\n" + fmt.Sprintf(tlsOption, "issued") + "}\ntrust_ca DIR/ca.pem\n" +
				"resource urn:e2e:opaque\naccess_token {\nvalidate introspection\naudience urn:e2e:opaque\n}\n",
			opaque:      true,
			bound:       issued,
			certificate: "issued",
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.pushed(t, j, false)
				s.mutual(t, j, issued)
				s.introspected(t, j, "application/json")
			},
		},
		{
			name: "self-signed, signed",
			client: map[string]any{
				"token_endpoint_auth_method": "self_signed_tls_client_auth", "tls_client_certificate_bound_access_tokens": true,
				"require_signed_request_object": true, "request_object_signing_alg": "ES256", "authorization_signed_response_alg": "ES256",
			},
			options: "client_auth self_signed_tls_client_auth {\n" + fmt.Sprintf(tlsOption, "self-signed") + "key_file DIR/es256.pem\n}\ntrust_ca DIR/ca.pem\n" +
				"request_object required\n" + jwt,
			mode:        "query.jwt",
			bound:       selfSigned,
			certificate: "self-signed",
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.pushed(t, j, true)
				s.mutual(t, j, selfSigned)
			},
			logoutAtServer: true,
		},
		{
			name: "DPoP, with nonces",
			client: map[string]any{
				"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256",
				"dpop_bound_access_tokens": true, "require_pushed_authorization_requests": true,
			},
			options: privateKey("ES256", "") + "dpop on\n" + jwt,
			proxy:   "dpop\n",
			dpop:    true,
			use: func(t *testing.T, s *protocolSite) {
				s.callUntil(t, 4)
				s.proved(t, s.seen(t))
				s.asserted(t, s.seen(t), "ES256")
			},
		},
		{
			name:    "introspection, UserInfo",
			client:  map[string]any{"token_endpoint_auth_method": "client_secret_jwt", "token_endpoint_auth_signing_alg": "HS256"},
			options: secret + "client_auth client_secret_jwt\nuserinfo on\nclaims *\nscope openid profile email offline_access\naccess_token {\nvalidate introspection\n}\n",
			opaque:  true,
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.asserted(t, j, "HS256")
				s.introspected(t, j, "application/json")
				s.informed(t, j, "application/json")
			},
		},
		{
			name:    "UserInfo as a JWT, a token for the upstream",
			client:  map[string]any{"userinfo_signed_response_alg": "ES256"},
			options: secret + "userinfo on\nclaims *\nscope openid profile email offline_access\nauthorization_param resource " + audience + "\n",
			proxy:   "resource " + audience + "\n",
			saw: func(t *testing.T, s *protocolSite, j journal) {
				s.informed(t, j, "application/jwt")
				s.introspected(t, j, "")
			},
			logoutAtServer: true,
		},
		{
			name:   "step-up, acr, max_age, claims",
			proxy:  "step_up\n",
			client: map[string]any{"require_pushed_authorization_requests": true, "default_max_age": 3600},
			options: secret + jwt + "claims *\nauthorization_param max_age 3600\nauthorization_param acr_values silver\n" +
				"authorization_param claims `{\"id_token\":{\"email\":null}}`\nlogin_param acr_values max_age claims\n",
			use: stepUp,
		},
		{
			name:    "public client, a stolen refresh token",
			client:  map[string]any{"token_endpoint_auth_method": "none"},
			options: "client_auth none\n" + jwt,
			use:     steal,
		},
	}
}

// Every feature of the protocol against a server that somebody else wrote and
// certified: the server is the judge, of one client for each combination. One
// gateway has them all as its sites.
func TestProtocol(t *testing.T) {
	t.Parallel()
	node(t, "oidc-provider") // before anything is built
	if err := os.RemoveAll(outputDirectory(t)); err != nil {
		t.Fatal(err)
	}
	caddy, err := buildCaddy()
	if err != nil {
		t.Fatal(err)
	}
	authority := astest.NewAuthority()
	issued, selfSigned := authority.Issue("e2e"), astest.SelfSigned("whoever")
	gateway := &bench{caddy: caddy, dir: t.TempDir()}
	gateway.write(t, "client_secret", []byte(clientSecret))
	gateway.write(t, "ca.pem", authority.PEM())
	gateway.write(t, "es256.pem", astest.NewKey("ES256", "").Files()["PKCS#8"])
	gateway.write(t, "ps256.pem", astest.NewKey("RS256", "").Files()["PKCS#8"])
	for name, c := range map[string]*astest.Certificate{"issued": issued, "self-signed": selfSigned} {
		certificate, private := c.PEM()
		gateway.write(t, name+".pem", certificate)
		gateway.write(t, name+"-key.pem", private)
	}

	cases := protocolCases(issued, selfSigned)
	sites := make([]*protocolSite, len(cases))
	// The resource server's own client, which only introspects.
	clients := []map[string]any{{
		"client_id": "api", "client_secret": clientSecret, "redirect_uris": []string{}, "response_types": []string{}, "grant_types": []string{},
	}}
	for i, c := range cases {
		b := *gateway
		b.origin = "http://localhost:" + strconv.Itoa(redistest.FreePort(t))
		b.browser = newBrowser(t, b.origin)
		sites[i] = &protocolSite{bench: &b, client: c.name}
		metadata := map[string]any{
			"client_id": c.name, "grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
			"redirect_uris": []string{b.origin + "/bff/callback"}, "post_logout_redirect_uris": []string{b.origin + "/bff/logout/callback"},
			"backchannel_logout_uri": b.origin + "/bff/backchannel", "backchannel_logout_session_required": true,
		}
		maps.Copy(metadata, c.client)
		if strings.Contains(c.options, "client_secret {") {
			metadata["client_secret"] = clientSecret
		}
		if strings.Contains(c.options, "key_file") || strings.Contains(c.options, "self_signed") {
			metadata["jwks_uri"] = b.origin + "/bff/jwks"
		}
		clients = append(clients, metadata)
	}
	certificate, private := authority.Issue("authorization server").PEM()
	server := startProtocolServer(t, protocolServerSettings{
		AccessTokenLife: 3, Clients: clients, JWTAudience: audience,
		MutualTLS: &mutualTLS{CA: string(authority.PEM()), Certificate: string(certificate), Key: string(private)},
	})

	caddyfile := "{\nadmin off\npersist_config off\ngrace_period 5s\nlog {\nlevel DEBUG\nformat json\n}\n}\n"
	for i, c := range cases {
		s := sites[i]
		s.server, s.authorizationServer = server, &server.authorizationServer
		upstream, proxy := s.startUpstream(t, c, authority)
		mode := ""
		if c.mode != "" {
			mode = "response_mode " + c.mode + "\n"
		}
		caddyfile += fmt.Sprintf(`%s {
	bind 127.0.0.1
	bff {
		issuer %s
		client_id %q
		%s
	}
	handle /api/* {
		bff_proxy %s {
			%s
		}
	}
	handle {
		respond "the application"
	}
}
`, s.origin, server.Issuer, s.client, strings.ReplaceAll(c.options+mode, "DIR", s.dir), upstream, strings.ReplaceAll(proxy, "DIR", s.dir))
	}
	gateway.write(t, "Caddyfile", []byte(caddyfile))
	gateway.origin = sites[0].origin
	gateway.startGateway(t)

	t.Run("client", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				sites[i].run(t, c)
			})
		}
	})
	for _, s := range sites {
		s.noSecretsInLogs(t)
	}
}

// run is the life of one session: login, refreshes, logout.
func (s *protocolSite) run(t *testing.T, c protocolCase) {
	s.login(t, c.mode)
	if is := s.session(t); !is.Authenticated || is.User["sub"] != "alice" {
		t.Fatalf("after the login: %+v", is)
	}
	s.refresh(t)
	seen := s.seen(t)
	if c.saw != nil {
		c.saw(t, s, seen)
	}
	if codes := seen.where(func(v visit) bool { return v.grant("authorization_code") }); len(codes) != 1 {
		t.Errorf("%d codes were exchanged", len(codes))
	}
	s.format(t, c, seen)
	if c.use != nil {
		c.use(t, s)
	}
	switch {
	case !s.session(t).Authenticated:
	case c.logoutAtServer:
		s.logoutAtServer(t)
	default:
		s.logout(t)
	}
	if refused := s.seen(t).refused(); len(refused) != 0 && c.name != "public client, a stolen refresh token" {
		t.Errorf("the authorization server refused: %s", refused)
	}
	if _, forbidden := s.resourceServer.seen(); len(forbidden) != 0 {
		t.Errorf("the resource server was sent %d headers that are not its business, first %q", len(forbidden), forbidden[0])
	}
}
