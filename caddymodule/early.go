// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"net/http"
)

// earlyData reports a request that came before the TLS handshake was complete
// (0-RTT). Whoever recorded it can send it again.
func earlyData(r *http.Request) bool { return r.TLS != nil && !r.TLS.HandshakeComplete }

// errEarlyData makes the browser repeat the request after the handshake, by
// itself (RFC 8470 section 5.2).
var errEarlyData = &httpError{code: codeTooEarly, err: errors.New("request in early data")}

// repeatable reports a method that does no harm when it is sent again.
func repeatable(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}
