// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import "strings"

// ambientHeader reports a request header whose presence proves nothing about who
// made the request: a foreign page can have it sent without a preflight (Fetch
// standard, CORS-safelisted request-headers), a browser or a proxy adds it by
// itself, or no script can set it (forbidden request-headers). In any letter case.
func ambientHeader(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range []string{"accept", "access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-", "cf-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return ambientHeaders[name]
}

var ambientHeaders = map[string]bool{
	// Safelisted.
	"range": true, "downlink": true, "dpr": true, "width": true, "viewport-width": true, "device-memory": true,
	"ect": true, "rtt": true, "save-data": true,
	// Of the browser, some with a page's help.
	"a-im": true, "alt-used": true, "authorization": true, "available-dictionary": true, "cache-control": true, "cookie": true, "cookie2": true,
	"dictionary-id": true, "dnt": true, "early-data": true, "last-event-id": true, "origin": true, "ping-from": true, "ping-to": true,
	"pragma": true, "priority": true, "purpose": true, "referer": true, "service-worker": true, "service-worker-navigation-preload": true,
	"upgrade-insecure-requests": true, "user-agent": true, "x-moz": true, "x-purpose": true,
	// Of the connection.
	"connection": true, "date": true, "expect": true, "host": true, "http2-settings": true, "keep-alive": true, "max-forwards": true,
	"set-cookie": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "via": true,
	// Which change the method for some servers, and so are forbidden to scripts.
	"x-http-method": true, "x-http-method-override": true, "x-method-override": true,
	// Of proxies.
	"forwarded": true, "from": true, "traceparent": true, "tracestate": true, "true-client-ip": true, "x-client-ip": true,
	"x-real-ip": true, "x-request-id": true,
}
