// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/subtle"
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Client is a registered confidential client: the gateway.
type Client struct {
	ID                    string
	Secret                string
	RedirectURI           string
	PostLogoutRedirectURI string
}

// authenticates reports whether the secret is the client's.
func (c Client) authenticates(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) == 1
}

// registration is a Client as the OpenID provider library wants to see it.
type registration struct{ client Client }

func (r registration) GetID() string          { return r.client.ID }
func (r registration) RedirectURIs() []string { return []string{r.client.RedirectURI} }
func (r registration) PostLogoutRedirectURIs() []string {
	return []string{r.client.PostLogoutRedirectURI}
}
func (r registration) ApplicationType() op.ApplicationType  { return op.ApplicationTypeWeb }
func (r registration) AuthMethod() oidc.AuthMethod          { return oidc.AuthMethodBasic }
func (r registration) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeJWT }
func (r registration) IDTokenLifetime() time.Duration       { return 5 * time.Minute }
func (r registration) ClockSkew() time.Duration             { return 0 }
func (r registration) DevMode() bool                        { return false }
func (r registration) IsScopeAllowed(string) bool           { return false }
func (r registration) IDTokenUserinfoClaimsAssertion() bool { return true }

func (r registration) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (r registration) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

func (r registration) LoginURL(requestID string) string {
	return loginPath + "?" + url.Values{"request": {requestID}}.Encode()
}

func (r registration) RestrictAdditionalIdTokenScopes() func([]string) []string { return sameScopes }
func (r registration) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return sameScopes
}

func sameScopes(scopes []string) []string { return scopes }

var _ op.Client = registration{}
