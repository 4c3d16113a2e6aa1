// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// originRequest is a request as it comes from Caddy's server.
func originRequest(host string, secure, trusted bool, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Host = host
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	vars := map[string]any{caddyhttp.TrustedProxyVarKey: trusted}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
}

// A206, A424, B2, B203, OP-01, CK-01: the origin is the one that the browser
// used, and nothing that a client makes up changes it.
func TestRequestOrigin(t *testing.T) {
	t.Parallel()
	const xfp, xfh = "X-Forwarded-Proto", "X-Forwarded-Host"
	for name, tt := range map[string]struct {
		r          *http.Request
		configured string
		want       string
		err        error
	}{
		"https":                     {r: originRequest("app.example.com", true, false), want: "https://app.example.com"},
		"case and default port":     {r: originRequest("App.Example.COM:443", true, false), want: "https://app.example.com"},
		"port":                      {r: originRequest("app.example.com:8443", true, false), want: "https://app.example.com:8443"},
		"http port on https":        {r: originRequest("app.example.com:80", true, false), want: "https://app.example.com:80"},
		"IPv6":                      {r: originRequest("[::1]:443", true, false), want: "https://[::1]"},
		"plain":                     {r: originRequest("app.example.com", false, false), err: errPlainHTTP},
		"plain, localhost":          {r: originRequest("localhost:8080", false, false), want: "http://localhost:8080"},
		"plain, below localhost":    {r: originRequest("app.localhost", false, false), want: "http://app.localhost"},
		"plain, 127.0.0.1":          {r: originRequest("127.0.0.1:80", false, false), want: "http://127.0.0.1"},
		"plain, 127.8.8.8":          {r: originRequest("127.8.8.8", false, false), want: "http://127.8.8.8"},
		"plain, ::1":                {r: originRequest("[::1]:8080", false, false), want: "http://[::1]:8080"},
		"plain, notlocalhost":       {r: originRequest("notlocalhost", false, false), err: errPlainHTTP},
		"plain, localhost.evil.com": {r: originRequest("localhost.evil.com", false, false), err: errPlainHTTP},
		"plain, private address":    {r: originRequest("10.0.0.1", false, false), err: errPlainHTTP},
		"proto from anybody":        {r: originRequest("app.example.com", false, false, xfp, "https"), err: errPlainHTTP},
		"proto from a proxy":        {r: originRequest("app.example.com", false, true, xfp, "https"), want: "https://app.example.com"},
		"proto from proxies":        {r: originRequest("app.example.com", false, true, xfp, "https, HTTPS"), want: "https://app.example.com"},
		"proto in doubt":            {r: originRequest("app.example.com", false, true, xfp, "https, http"), err: errPlainHTTP},
		"proto twice in doubt":      {r: originRequest("app.example.com", false, true, xfp, "https", xfp, "http"), err: errPlainHTTP},
		"proto empty":               {r: originRequest("app.example.com", false, true, xfp, ""), err: errPlainHTTP},
		"host never from headers":   {r: originRequest("app.example.com", true, true, xfh, "evil.com", "Forwarded", "host=evil.com", "X-Host", "evil.com"), want: "https://app.example.com"},
		"configured":                {r: originRequest("10.1.2.3", false, false, xfh, "evil.com"), configured: "https://app.example.com", want: "https://app.example.com"},
		"trailing dot is another":   {r: originRequest("app.example.com.", true, false), want: "https://app.example.com."},
		"userinfo":                  {r: originRequest("app.example.com@evil.com", true, false), err: errHost},
		"space":                     {r: originRequest("app example.com", true, false), err: errHost},
		"no host":                   {r: originRequest("", true, false), err: errHost},
		"port that is none":         {r: originRequest("app.example.com:https", true, false), err: errHost},
		"port with zeros":           {r: originRequest("app.example.com:0443", true, false), err: errHost},
		"IPv6 zone":                 {r: originRequest("[fe80::1%25eth0]", true, false), err: errHost},
		"path":                      {r: originRequest("app.example.com/x", true, false), err: errHost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := requestOrigin(tt.r, tt.configured)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestParseOrigin(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://App.example.com":   "https://app.example.com",
		"https://a.example.com:443": "https://a.example.com",
		"http://localhost:3000":     "http://localhost:3000",
	} {
		if got, err := parseOrigin(in); err != nil || got != want {
			t.Errorf("parseOrigin(%q) = %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "app.example.com", "https://", "https://a/", "https://a/b", "https://a?b", "https://*.example.com", "https://u@a",
		"http://app.example.com", "ftp://a", "null", "*", "https://.example.com", "https://a..b",
	} {
		if got, err := parseOrigin(in); err == nil {
			t.Errorf("parseOrigin(%q) = %q, want an error", in, got)
		}
	}
}
