// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import "errors"

var (
	// errDPoPOff is what is wrong with a bff_proxy that demands what its `bff` does not do.
	errDPoPOff = errors.New("dpop of a bff_proxy needs a bff with dpop on")
	// errUnboundSession: the session is older than `dpop on`.
	errUnboundSession = errors.New("the access token is not bound to a key, which dpop demands; a new sign-in brings one that is")
)

// bindsTokens reports whether the tokens of new logins are bound to a key.
func (h *Handler) bindsTokens() bool { return h.DPoP == "on" }

// checkDPoP says what may stand beside dpop. Errors are of the type optionError.
func (p *Protect) checkDPoP() error {
	switch {
	case !p.DPoP:
		return nil
	case p.Token == tokenNone:
		return wrong("dpop", "dpop proves the possession of an access token, and token none sends none")
	case p.AcceptBearer:
		return wrong("dpop", "dpop is for tokens with a key of ours, and accept_bearer relays tokens of clients, of which nobody here has the key")
	}
	return nil
}
