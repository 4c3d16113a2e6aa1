// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// MD-01, MD-03, MD-06, TK-06, C308, C309, C310: an answer that is of no use is
// told from a server that is not well, at each endpoint alike. What it means for
// a session (ClassOf) does not depend on it.
func TestUnusableIsNotUnwell(t *testing.T) {
	t.Parallel()
	header := http.Header{"Location": {"https://as.test/x"}, "Retry-After": {"7"}}
	for name, tc := range map[string]struct {
		answer   astest.Answer
		unusable bool
		only     string // one endpoint; empty: all
	}{
		"HTML":                    {astest.Answer{Body: "<html>"}, true, ""},
		"empty":                   {astest.Answer{Status: 200}, true, ""},
		"array":                   {astest.Answer{Body: "[{}]"}, true, ""},
		"empty object":            {astest.Answer{Body: "{}"}, true, ""},
		"no content":              {astest.Answer{Status: 204}, true, ""},
		"redirect":                {astest.Answer{Status: 302, Header: header}, true, ""},
		"huge":                    {astest.Answer{Body: `{"x":"` + strings.Repeat("x", 2<<20) + `"}`}, true, ""},
		"404":                     {astest.Answer{Status: 404}, true, "document"},
		"403":                     {astest.Answer{Status: 403}, true, "document"},
		"issuer with a slash":     {astest.Answer{Body: `{"issuer":"https://as.test/"}`}, true, astest.Metadata},
		"no endpoints":            {astest.Answer{Body: `{"issuer":"https://as.test"}`}, true, astest.Metadata},
		"no usable key":           {astest.Answer{Body: `{"keys":[{"kty":"oct","k":"AAAA"}]}`}, true, astest.JWKS},
		"token_type mac":          {astest.Answer{Body: `{"access_token":"at","token_type":"mac"}`}, true, astest.Token},
		"no access token":         {astest.Answer{Body: `{"token_type":"Bearer"}`}, true, astest.Token},
		"500":                     {astest.Answer{Status: 500, Body: "<html>"}, false, ""},
		"503":                     {astest.Answer{Status: 503, Header: header}, false, ""},
		"429":                     {astest.Answer{Status: 429, Header: header}, false, ""},
		"408":                     {astest.Answer{Status: 408}, false, ""},
		"huge 500":                {astest.Answer{Status: 500, Body: strings.Repeat("x", 2<<20)}, false, ""},
		"cut":                     {astest.Answer{Cut: true}, false, ""},
		"cut body":                {astest.Answer{Body: `{"issuer":"https://as.test"}`, TruncateAt: 9}, false, ""},
		"temporarily_unavailable": {astest.OAuthError(400, "temporarily_unavailable"), false, astest.Token},
		"invalid_client":          {astest.OAuthError(401, "invalid_client"), false, astest.Token},
	} {
		for endpoint, ask := range map[string]func(*Client, *astest.Server) error{
			astest.Metadata: func(c *Client, _ *astest.Server) error {
				_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
				return err
			},
			astest.JWKS: func(c *Client, as *astest.Server) error {
				_, err := c.VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"})
				return err
			},
			astest.Token: func(c *Client, _ *astest.Server) error {
				_, err := c.Exchange(t.Context(), ExchangeRequest{Code: "x"})
				return err
			},
		} {
			if tc.only != "" && tc.only != endpoint && (tc.only != "document" || endpoint == astest.Token) {
				continue
			}
			as := astest.New(astest.Options{})
			tc.answer.Times = -1
			as.Script(endpoint, tc.answer)
			err := ask(newClient(t, as), as)
			if err == nil || errors.Is(err, ErrUnusable) != tc.unusable {
				t.Errorf("%s of %s: %v", name, endpoint, err)
			}
			if class := ClassOf(err); tc.unusable && (class == ClassSessionOver || class == ClassRefused) {
				t.Errorf("%s of %s: class %v ends sessions", name, endpoint, class)
			}
		}
	}
}
