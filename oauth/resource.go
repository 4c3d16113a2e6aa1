// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"fmt"
	"net/url"
	"slices"
)

// maxResource bounds a resource indicator, in bytes.
const maxResource = 2048

// CheckResource says what is wrong with a resource indicator, if anything is: it
// has to be an absolute URI without fragment (RFC 8707 section 2).
func CheckResource(uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil || uri == "" || len(uri) > maxResource || !visible(uri, false) || errorText(uri, len(uri)) != uri:
		return fmt.Errorf("resource %q is not a URI", uri)
	case !u.IsAbs():
		return fmt.Errorf("resource %q is not an absolute URI, such as https://orders.example.com", uri)
	case u.Opaque == "" && u.Host == "" && u.Path == "":
		return fmt.Errorf("resource %q names nothing", uri)
	case u.Fragment != "" || uri[len(uri)-1] == '#':
		return fmt.Errorf("resource %q has a fragment, which RFC 8707 does not allow", uri)
	}
	return nil
}

// Resource returns the configured resource indicators. They must not be changed.
func (c *Client) Resource() []string { return c.cfg.Resource }

// addResource adds the configured resource indicators to a request that may name
// others already.
func (c *Client) addResource(form url.Values) {
	for _, uri := range c.cfg.Resource {
		if !slices.Contains(form["resource"], uri) {
			form.Add("resource", uri)
		}
	}
}
