// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"net/http"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// Rules and placeholders know the claims of the UserInfo endpoint, and nobody gets
// in without them. ID-14, ID-16.
func TestUserInfo(t *testing.T) {
	const site = `
	handle {
		bff_protect {
			require nickname "Nick of alice"
		}
		respond "{http.auth.user.nickname} {http.auth.user.email}"
	}`
	for _, signed := range []bool{false, true} {
		b := newBench(t, benchOptions{as: astest.Options{SignedUserInfo: signed}, bff: "userinfo on", site: site})
		c := b.browser().login()
		if a := c.get("/x", script...); a.body != "Nick of alice alice@example.com" {
			t.Errorf("signed %v: %d %s", signed, a.StatusCode, a.body)
		}
		b.as.Configure(func(o *astest.Options) { o.UserInfoClaims = func(claims map[string]any) { claims["sub"] = "mallory" } })
		other := b.browser()
		a := other.get(other.authorize(other.startLogin("/x")), arrive...)
		a.wantError(t, http.StatusBadGateway, codeTokenUnavailable)
		b.stop()
		b.load()
	}
	b := newBench(t, benchOptions{site: site})
	b.browser().login().get("/x", script...).wantError(t, http.StatusForbidden, codeForbidden)
	if n := b.as.Count(astest.UserInfo); n != 0 {
		t.Errorf("by default it was called %d times", n)
	}
}
