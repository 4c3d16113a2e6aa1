// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// ID-05, ID-15, AT-09, JW-01: what the metadata names for each kind of answer is what
// that answer may be signed with, though the key be the issuer's.
func TestAlgorithmsOfSignedAnswers(t *testing.T) {
	t.Parallel()
	for member, ask := range map[string]func(c *Client, token Secret) error{
		"introspection_signing_alg_values_supported": func(c *Client, token Secret) error {
			_, err := c.CheckAccessToken(t.Context(), token, ValidateIntrospection)
			return err
		},
		"userinfo_signing_alg_values_supported": func(c *Client, token Secret) error {
			_, err := c.UserInfo(t.Context(), token, "alice")
			return err
		},
	} {
		for _, tc := range []struct {
			named []string
			ok    bool
		}{{[]string{"ES256"}, true}, {[]string{"PS256", "ES256"}, true}, {[]string{"PS256"}, false}, {[]string{"es256"}, false}, {[]string{"none", "HS256"}, false}} {
			as := astest.New(astest.Options{
				AccessTokenType: "opaque", SignedIntrospection: true, SignedUserInfo: true,
				MetadataDoc: func(doc map[string]any) { doc[member] = tc.named },
			})
			err := ask(newClient(t, as), Secret(as.Issue("alice", "openid", "").AccessToken))
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrUnusable) {
				t.Errorf("%s %v: %v", member, tc.named, err)
			}
		}
	}
}
