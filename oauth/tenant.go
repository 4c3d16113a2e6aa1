// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// AnyTenant in [Config].Tenants stands for all tenants that there are.
const AnyTenant = "*"

// tenantVariable is what metadata for the users of many tenants has in its issuer in
// place of the tenant that each token names (Microsoft, "Access tokens in the
// Microsoft identity platform", validate the issuer).
const tenantVariable = "{tenantid}"

// tenantIssuers knows the issuers of the tenants of one authorization server: its
// issuer with the first segment of the path replaced. The zero value knows none.
type tenantIssuers struct {
	before, after string // around the tenant
	allowed       []string
}

// newTenantIssuers checks tenants against the issuer.
func newTenantIssuers(issuer string, tenants []string) (tenantIssuers, error) {
	if len(tenants) == 0 {
		return tenantIssuers{}, nil
	}
	u, err := url.Parse(issuer)
	if err != nil {
		return tenantIssuers{}, errors.New("oauth: issuer is no URL")
	}
	before := origin(u) + "/"
	path, found := strings.CutPrefix(issuer, before)
	segment, rest, deeper := strings.Cut(path, "/")
	if !found || segment == "" || !deeper || tenantID(segment) {
		return tenantIssuers{}, errors.New("oauth: tenants: the issuer is not one for several of them, such as https://login.microsoftonline.com/organizations/v2.0 is")
	}
	for _, tenant := range tenants {
		if tenant != AnyTenant && !tenantID(tenant) {
			return tenantIssuers{}, fmt.Errorf("oauth: tenants: %q is not a tenant ID, which is a UUID in lower case", tenant)
		}
		if tenant == AnyTenant && len(tenants) > 1 {
			return tenantIssuers{}, errors.New("oauth: tenants: * means all of them, and stands alone")
		}
	}
	return tenantIssuers{before: before, after: "/" + rest, allowed: slices.Clone(tenants)}, nil
}

// some reports that there are issuers of tenants, and no other.
func (t *tenantIssuers) some() bool { return len(t.allowed) > 0 }

// template is the issuer that metadata for all of them has.
func (t *tenantIssuers) template() string { return t.before + tenantVariable + t.after }

// tenantOf returns the tenant that iss is the issuer of; "" unless it is allowed.
func (t *tenantIssuers) tenantOf(iss string) string {
	tenant, ok := strings.CutPrefix(iss, t.before)
	if !ok {
		return ""
	}
	tenant, ok = strings.CutSuffix(tenant, t.after)
	if !ok || !t.allows(tenant) {
		return ""
	}
	return tenant
}

func (t *tenantIssuers) allows(tenant string) bool {
	return tenantID(tenant) && t.some() && (t.allowed[0] == AnyTenant || slices.Contains(t.allowed, tenant))
}

// tenantID says whether s is a UUID in lower case, and so not one of the words that
// stand for several tenants.
func tenantID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

// AcceptsIssuer reports that tokens and responses may name iss as their issuer: it is
// [Config].Issuer, or that of one of [Config].Tenants where there are some.
func (c *Client) AcceptsIssuer(iss string) bool {
	if c.tenants.some() {
		return c.tenants.tenantOf(iss) != ""
	}
	return iss == c.cfg.Issuer
}

// metadataIssuer is the issuer that the metadata has to name.
func (c *Client) metadataIssuer() string {
	if c.tenants.some() {
		return c.tenants.template()
	}
	return c.cfg.Issuer
}

// checkTenant: an ID token of one of several tenants says of which one, and that is
// the one that its issuer names.
func (c *Client) checkTenant(cl claims, iss string) error {
	if !c.tenants.some() {
		return nil
	}
	if tid, err := cl.text("tid"); err != nil || tid != c.tenants.tenantOf(iss) {
		return mismatch("tid is not the tenant of iss")
	}
	return nil
}

// oldIssuers are the authorization servers that sign some access tokens with the
// keys of theirs under another issuer, that of a former version: what is around the
// tenant in place of the issuer. By host of the issuer. Microsoft, "Access token
// claims reference": tokens with ver 1.0, which is up to the registration of the
// resource server.
var oldIssuers = map[string][2]string{
	"login.microsoftonline.com": {"https://sts.windows.net/", "/"},
}

// issuesAccessToken reports that iss may be the issuer of an access token.
func (c *Client) issuesAccessToken(iss string) bool {
	if c.AcceptsIssuer(iss) {
		return true
	}
	u, err := url.Parse(c.cfg.Issuer)
	if err != nil {
		return false
	}
	around, known := oldIssuers[strings.ToLower(u.Hostname())]
	if !known {
		return false
	}
	tenant, ok := strings.CutPrefix(iss, around[0])
	if !ok {
		return false
	}
	if tenant, ok = strings.CutSuffix(tenant, around[1]); !ok {
		return false
	}
	if c.tenants.some() {
		return c.tenants.allows(tenant)
	}
	own, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return tenantID(tenant) && tenant == own
}
