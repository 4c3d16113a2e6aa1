// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// protocolServer is npm oidc-provider with all that it can do, in a process of its
// own, for many clients.
type protocolServer struct {
	authorizationServer
}

type protocolServerSettings struct {
	AccessTokenLife int              `json:"accessTokenLife"` // seconds
	Clients         []map[string]any `json:"clients"`         // metadata, RFC 7591
	JWTAudience     string           `json:"jwtAudience"`     // the resource whose access tokens are JWTs
	MutualTLS       *mutualTLS       `json:"mutualTLS"`
}

// visit is an entry of the server's journal: a request of a client, and what
// became of it, or an event.
type visit struct {
	Route  string   `json:"route"` // of the server, "response" to the browser, or the name of an event
	Status int      `json:"status"`
	Error  string   `json:"error"` // the code, and the description
	Sent   []string `json:"sent"`  // names of the parameters as they came

	// What they mean, pushed and signed ones included.
	Params struct {
		Grant        string `json:"grant_type"`
		ResponseMode string `json:"response_mode"`
		ACRValues    string `json:"acr_values"`
		MaxAge       any    `json:"max_age"`
		Claims       string `json:"claims"`
		Scope        string `json:"scope"`
		Resource     any    `json:"resource"`
		KeyBinding   string `json:"dpop_jkt"`
	} `json:"params"`

	Request     *jwtHeader `json:"request"`     // of the request object
	Assertion   *jwtHeader `json:"assertion"`   // of the client's authentication
	Certificate string     `json:"certificate"` // thumbprint of the client's
	Type        string     `json:"type"`        // of the answer
	Hint        string     `json:"hint"`        // token_type_hint
	Rotated     bool       `json:"rotated"`     // another refresh token came of it
	Active      bool       `json:"active"`      // the introspected token is
	Bound       string     `json:"bound"`       // thumbprint of the certificate that the access token is bound to
	Proof       *dpopProof `json:"proof"`       // DPoP
	Key         string     `json:"jkt"`         // thumbprint of the key that the access token is bound to
	Audience    string     `json:"audience"`    // of the access token
	Format      string     `json:"format"`      // of the access token: jwt or opaque
}

type jwtHeader struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
}

// grant tells whether the visit got tokens with a grant of that type.
func (v visit) grant(typ string) bool {
	return v.Route == "token" && v.Status == 200 && v.Params.Grant == typ
}

func startProtocolServer(t *testing.T, settings protocolServerSettings) *protocolServer {
	t.Helper()
	path := node(t, "oidc-provider")
	argument, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "protocol-server", exec.Command(path, "protocol-server.mjs", string(argument)))
	s := new(protocolServer)
	if err := json.Unmarshal([]byte(p.line(t, `"issuer"`, 30*time.Second)), &s.authorizationServer); err != nil {
		t.Fatal(err)
	}
	return s
}

// journal gives what came from a client, and what became of it.
func (s *protocolServer) journal(t *testing.T, client string) (visits journal) {
	t.Helper()
	s.get(t, "/test/journal?client="+url.QueryEscape(client), &visits)
	return visits
}

type journal []visit

// where gives the visits that are as they are asked to be.
func (j journal) where(is func(visit) bool) journal {
	return slices.Collect(func(yield func(visit) bool) {
		for _, v := range j {
			if is(v) && !yield(v) {
				return
			}
		}
	})
}

func (j journal) route(name string) journal {
	return j.where(func(v visit) bool { return v.Route == name })
}

// refreshes are the refreshes that succeeded.
func (j journal) refreshes() journal {
	return j.where(func(v visit) bool { return v.grant("refresh_token") })
}

// refused are the visits that the server found fault with. That it cannot revoke
// an access token that is a JWT is none, nor that a proof has to have its nonce.
func (j journal) refused() journal {
	return j.where(func(v visit) bool {
		code, _, _ := strings.Cut(v.Error, ":")
		return (v.Error != "" || v.Status >= 400) && code != "unsupported_token_type" && code != "use_dpop_nonce"
	})
}
