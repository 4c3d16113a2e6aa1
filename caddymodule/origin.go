// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

var (
	// errPlainHTTP: the browser does not use TLS, and the host is no loopback
	// one. No cookie of ours could be kept safe there.
	errPlainHTTP = errors.New("this site needs https: the browser's connection is plain http and the host is not a loopback one " +
		"(behind a proxy that ends TLS, set public_origin, or trusted_proxies of the server)")
	// errHost: the Host of the request is none that a browser sends.
	errHost = errors.New("the request's host is malformed")
)

// requestOrigin gives the origin that the browser used: configured, or the
// request's own scheme and host. The scheme is that of the connection, or
// X-Forwarded-Proto from a trusted proxy; X-Forwarded-Host never counts.
func requestOrigin(r *http.Request, configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	scheme := "http"
	if r.TLS != nil || forwardedHTTPS(r) {
		scheme = "https"
	}
	origin, err := normalOrigin(scheme, r.Host)
	if err != nil {
		return "", errHost
	}
	if scheme == "http" && !loopbackHost(r.Host) {
		return "", errPlainHTTP
	}
	return origin, nil
}

// forwardedHTTPS believes a trusted proxy alone, and only when every proxy on
// the way says the same.
func forwardedHTTPS(r *http.Request) bool {
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return false
	}
	values := r.Header.Values("X-Forwarded-Proto")
	for _, line := range values {
		for v := range strings.SplitSeq(line, ",") {
			if !strings.EqualFold(strings.TrimSpace(v), "https") {
				return false
			}
		}
	}
	return len(values) > 0
}

// parseOrigin reads an origin of the configuration.
func parseOrigin(s string) (string, error) {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || (scheme != "https" && scheme != "http") {
		return "", fmt.Errorf("%q is not an origin such as https://app.example.com", s)
	}
	origin, err := normalOrigin(scheme, host)
	if err != nil {
		return "", fmt.Errorf("%q is not an origin such as https://app.example.com: %w", s, err)
	}
	if scheme == "http" && !loopbackHost(host) {
		return "", fmt.Errorf("%q is not acceptable: plain http works on loopback only", s)
	}
	return origin, nil
}

// normalOrigin serialises an origin as browsers do (RFC 6454 section 6.2): lower
// case, no default port.
func normalOrigin(scheme, hostport string) (string, error) {
	host, port, err := splitHost(strings.ToLower(hostport))
	if err != nil {
		return "", err
	}
	if (scheme == "https" && port == "443") || (scheme == "http" && port == "80") {
		port = ""
	}
	if port != "" {
		host += ":" + port
	}
	return scheme + "://" + host, nil
}

// splitHost takes a host apart, an IPv6 address in its brackets, and accepts
// nothing but the characters of names and addresses.
func splitHost(hostport string) (host, port string, err error) {
	host = hostport
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && strings.IndexByte(hostport[i:], ']') < 0 {
		host, port = hostport[:i], hostport[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return "", "", errors.New("malformed port")
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if a, err := netip.ParseAddr(inner); !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return "", "", errors.New("malformed IPv6 address")
		}
		return host, port, nil
	}
	if host == "" || len(host) > 253 || strings.HasPrefix(host, ".") || strings.Contains(host, "..") {
		return "", "", errors.New("malformed host name")
	}
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return "", "", errors.New("malformed host name")
		}
	}
	return host, port, nil
}

// loopbackHost reports whether a host is this machine to the browser itself
// (localhost and names below it, RFC 6761 section 6.3; loopback addresses).
func loopbackHost(hostport string) bool {
	host, _, err := splitHost(strings.ToLower(hostport))
	if err != nil {
		return false
	}
	host = strings.TrimSuffix(host, ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
