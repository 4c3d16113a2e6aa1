// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// EndSessionRequest is a logout request (OpenID Connect RP-Initiated Logout
// section 2). Every field is optional.
type EndSessionRequest struct {
	IDTokenHint           Secret
	LogoutHint            string
	PostLogoutRedirectURI string
	State                 string // sent only with a PostLogoutRedirectURI
}

// logoutHints are the authorization servers that are known to end a session for
// client_id and logout_hint without asking the end user, and the claim of the ID
// token that they take as the hint. By host of the issuer; one that begins with a
// dot stands for all below it. From their documentation: Auth0, "Log Users Out of
// Auth0 with OIDC Endpoint"; Microsoft, "OpenID Connect on the Microsoft identity
// platform", send a sign-out request.
var logoutHints = map[string]string{
	".auth0.com":                       "sid",
	"login.microsoftonline.com":        "login_hint",
	"login.microsoftonline.us":         "login_hint",
	"login.partner.microsoftonline.cn": "login_hint",
}

// LogoutHintClaim returns the claim whose value the authorization server takes as
// [EndSessionRequest].LogoutHint in place of an ID token; "" when it is not known
// to take any.
func (c *Client) LogoutHintClaim() string {
	u, err := url.Parse(c.cfg.Issuer)
	if err != nil {
		return ""
	}
	host := strings.ToLower(u.Hostname())
	for known, claim := range logoutHints {
		if host == known || known[0] == '.' && strings.HasSuffix(host, known) {
			return claim
		}
	}
	return ""
}

// ownLogout reports that the end-session endpoint is Amazon Cognito's, which is not
// that of the specification: the page to return to is logout_uri, it has to be there,
// and nothing else is taken (Amazon Cognito Developer Guide, "Logout endpoint"). The
// issuer tells, since the endpoint may have any host.
func (c *Client) ownLogout() bool {
	u, err := url.Parse(c.cfg.Issuer)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return strings.HasPrefix(host, "cognito-idp.") && strings.HasSuffix(host, ".amazonaws.com")
}

// EndSessionOrigins returns the origins whose pages may hold the frame of a
// front-channel logout: the issuer's, and that of the end-session endpoint where it
// is another one and the metadata can be had. They are fit for a header.
func (c *Client) EndSessionOrigins(ctx context.Context) []string {
	urls := []string{c.cfg.Issuer}
	if md, err := c.Metadata(ctx); err == nil && md.EndSessionEndpoint != "" {
		urls = append(urls, md.EndSessionEndpoint)
	}
	var origins []string
	for _, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil || strings.ContainsAny(u.Host, ";,'") { // which Go takes for a host
			continue
		}
		if o := origin(u); !slices.Contains(origins, o) {
			origins = append(origins, o)
		}
	}
	return origins
}

// EndSessionURL returns the URL that ends the end user's session at the
// authorization server, or "" when the metadata names no end-session endpoint.
// Parameters that the endpoint has already are kept; client_id is always sent. Amazon
// Cognito gets what it wants instead, and gives no state back.
// Errors: those of [Client.Metadata].
func (c *Client) EndSessionURL(ctx context.Context, r EndSessionRequest) (string, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return "", err
	}
	if md.EndSessionEndpoint == "" {
		return "", nil
	}
	u, err := url.Parse(md.EndSessionEndpoint)
	if err != nil {
		return "", fmt.Errorf("%w: end_session_endpoint is not a URL", ErrMetadata)
	}
	q := u.Query()
	q.Set("client_id", c.cfg.ClientID)
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	if c.ownLogout() {
		set("logout_uri", r.PostLogoutRedirectURI)
		u.RawQuery = q.Encode()
		return u.String(), nil
	}
	set("id_token_hint", r.IDTokenHint.Reveal())
	set("logout_hint", r.LogoutHint)
	if r.PostLogoutRedirectURI != "" {
		set("post_logout_redirect_uri", r.PostLogoutRedirectURI)
		set("state", r.State)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}
