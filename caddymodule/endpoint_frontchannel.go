// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-bff/caddy-bff/session"
)

// frontchannelPage is what the frame shows: nothing.
const frontchannelPage = "<!doctype html><meta charset=utf-8><title>Signed out</title>"

// serveFrontchannel is loaded in a frame of the authorization server's page when a
// user signs out there (OpenID Connect Front-Channel Logout 1.0 section 3). In the
// frame of another site the session cookie does not come along: the session is found
// by iss and sid. Whatever they are, the answer is the same. A cookie that does come
// along, on the same site, goes with its session.
func (hd *handle) serveFrontchannel(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodHead || prefetch(r) {
		return nothing(w)
	}
	params, err := hd.queryParams()
	if err != nil {
		return hd.fail(w, r, err)
	}
	iss, err := oneParam(params, "iss")
	if err != nil {
		return hd.fail(w, r, err)
	}
	sid, err := oneParam(params, "sid")
	if err != nil {
		return hd.fail(w, r, err)
	}
	ended, err := hd.bff.manager.FrontchannelLogout(r.Context(), iss, sid)
	if err != nil {
		return hd.fail(w, r, err)
	}
	if ended > 0 {
		hd.bff.logger.Info("signed out in a frame of the authorization server", "sessions", ended)
	}
	if hd.hasSessionCookie() {
		_, err := hd.open(r.Context())
		if reason, sure := noSession(err); sure && reason == session.ReasonRevoked {
			http.SetCookie(w, hd.site.ClearSession())
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), endSessionWait)
	defer cancel()
	h := w.Header()
	ownAnswer(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(frontchannelPage)))
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors "+strings.Join(hd.bff.manager.FrontchannelOrigins(ctx), " "))
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusOK)
	_, err = w.Write([]byte(frontchannelPage))
	return err
}
