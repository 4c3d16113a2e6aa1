// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"fmt"
)

// ErrConfirmation says that an access token is bound to something else than what we
// have, so that no resource server would take it from us. It wraps ErrAccessToken.
var ErrConfirmation = fmt.Errorf("%w: not ours", ErrAccessToken)

// Why an access token is of no use that is bound to something (RFC 7800).
var (
	errConfirmation     = errors.New("cnf names neither a DPoP key nor a certificate")
	errBoundToKey       = errors.New("it is bound to a DPoP key (cnf jkt), and there is none here")
	errOtherKey         = errors.New("it is bound to another DPoP key (cnf jkt)")
	errBoundToCert      = errors.New("it is bound to a certificate (cnf x5t#S256), and the client has none")
	errOtherCertificate = errors.New("it is bound to another certificate (cnf x5t#S256)")
)

// checkConfirmation compares what an access token is bound to with what we have: the
// DPoP key of its session (RFC 9449 section 6), and the certificate of the client
// (RFC 8705 section 3.1), of which it returns the thumbprint where the token names
// it. A token that says nothing is bound to nothing, or tells the resource server by
// other means.
func (c *Client) checkConfirmation(cl claims, key *DPoPKey) (certificate string, err error) {
	if !cl.has("cnf") {
		return "", nil
	}
	members, _ := cl.members["cnf"].(map[string]any)
	jkt, hasKey := members["jkt"]
	sum, hasCertificate := members["x5t#S256"]
	switch {
	case !hasKey && !hasCertificate:
		return "", errConfirmation
	case hasKey && key == nil:
		return "", errBoundToKey
	case hasKey && jkt != key.thumbprint:
		return "", errOtherKey
	case !hasCertificate:
		return "", nil
	case c.cfg.Certificate == nil:
		return "", errBoundToCert
	}
	if certificate = c.certificateThumbprint(); sum != certificate {
		return "", errOtherCertificate
	}
	return certificate, nil
}

// certificateThumbprint is the x5t#S256 of the client certificate; "" without one.
func (c *Client) certificateThumbprint() string {
	if c.cfg.Certificate == nil {
		return ""
	}
	return c.cfg.Certificate.current().thumbprint
}
