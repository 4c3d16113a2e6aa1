// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"testing"
)

// plainServer answers each request with the same bytes.
func plainServer(t *testing.T, said string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					if _, err := io.WriteString(conn, said); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// relayed sends a request through the transport to a real server.
func relayed(t *testing.T, g *Grant, base http.RoundTripper, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(WithGrant(t.Context(), g), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&Transport{Base: base}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// names returns the names of a section in order.
func names(h http.Header) []string {
	var got []string
	for name := range h {
		got = append(got, name)
	}
	slices.Sort(got)
	return got
}

const smuggledTrailers = "Set-Cookie: __Host-Http-bff=evil; Path=/\r\nSet-Cookie: a=1\r\nX-BFF-Error: session_required\r\n" +
	"WWW-Authenticate: Basic realm=x\r\nDPoP-Nonce: n\r\nAccess-Control-Allow-Origin: *\r\nCache-Control: public\r\n" +
	"CDN-Cache-Control: public\r\nContent-Type: text/html\r\nLocation: https://evil.test\r\nContent-Length: 7\r\n"

// TestTrailersSmuggled: what may not be in the header of an answer is not in its
// trailer section, announced or not; a handler that buffers would even turn it
// into header fields. What applications say there arrives. B212, PX-12.
func TestTrailersSmuggled(t *testing.T) {
	t.Parallel()
	const rest = "2\r\nok\r\n0\r\nX-Ok: 1\r\nServer-Timing: db;dur=5\r\nDigest: sha-256=x\r\n" + smuggledTrailers + "\r\n"
	wanted := http.Header{"X-Ok": {"1"}, "Server-Timing": {"db;dur=5"}, "Digest": {"sha-256=x"}}
	for _, tt := range []struct {
		name, said string
		announced  []string
		want       http.Header
	}{
		{
			"announced", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" +
				"Trailer: X-Ok, Server-Timing, Digest, Set-Cookie, x-bff-error, WWW-Authenticate, DPoP-Nonce, Access-Control-Allow-Origin, Cache-Control\r\n\r\n" + rest,
			[]string{"Digest", "Server-Timing", "X-Ok"}, wanted,
		},
		{"unannounced", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rest, nil, wanted},
		{"announced in part", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok\r\n\r\n" + rest, []string{"X-Ok"}, wanted},
		{"bad ones alone", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n" + smuggledTrailers + "\r\n", nil, nil},
		{"none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", nil, nil},
		{
			"of a 401 that stands", "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\nTrailer: X-Ok, Set-Cookie\r\n" +
				"WWW-Authenticate: Bearer error=\"invalid_token\"\r\n\r\n" + rest,
			[]string{"Digest", "Server-Timing", "X-Ok"}, wanted, // it was read before it was handed on
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base := new(http.Transport)
			t.Cleanup(base.CloseIdleConnections)
			source := &generations{refresh: func(context.Context) error { return errors.New("out") }}
			resp := relayed(t, &Grant{Source: source, ReservedCookie: isOurs}, base, plainServer(t, tt.said))
			if got := names(resp.Trailer); !slices.Equal(got, tt.announced) {
				t.Errorf("announced %q, want %q", got, tt.announced)
			}
			if body := read(t, resp); body != "ok" {
				t.Errorf("body %q", body)
			}
			if len(resp.Trailer) != len(tt.want) || len(tt.want) > 0 && !reflect.DeepEqual(resp.Trailer, tt.want) {
				t.Errorf("trailer section %q, want %q", resp.Trailer, tt.want)
			}
		})
	}
	t.Run("not read to the end", func(t *testing.T) {
		t.Parallel()
		base := new(http.Transport)
		t.Cleanup(base.CloseIdleConnections)
		resp := relayed(t, &Grant{Source: &generations{}}, base, plainServer(t, applicationSays(rest)))
		_, _ = io.ReadFull(resp.Body, make([]byte, 1))
		_ = resp.Body.Close()
		if len(resp.Trailer) > 0 {
			t.Errorf("trailer section %q", resp.Trailer)
		}
	})
}

// applicationSays is a 401 of the application itself, which is not read ahead.
func applicationSays(rest string) string {
	return "HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n" + rest
}

// TestTrailersOverHTTP2: the same where trailers look like those of gRPC, behind
// a body of declared length too.
func TestTrailersOverHTTP2(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"", "2"} {
		base, url := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status, X-BFF-Error")
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_, _ = io.WriteString(w, "ok")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set("X-BFF-Error", "session_required")
			for _, field := range []string{"Grpc-Message", "Grpc-Status-Details-Bin", "Set-Cookie", "DPoP-Nonce", "Access-Control-Allow-Origin", "Surrogate-Control"} {
				w.Header().Set(http.TrailerPrefix+field, "x")
			}
		})
		resp := relayed(t, &Grant{Source: &generations{}}, base, url)
		if got := names(resp.Trailer); !slices.Equal(got, []string{"Grpc-Status"}) {
			t.Errorf("length %q: announced %q", length, got)
		}
		if body := read(t, resp); body != "ok" {
			t.Errorf("length %q: body %q", length, body)
		}
		want := http.Header{"Grpc-Status": {"0"}, "Grpc-Message": {"x"}, "Grpc-Status-Details-Bin": {"x"}}
		if !reflect.DeepEqual(resp.Trailer, want) {
			t.Errorf("length %q: trailer section %q, want %q", length, resp.Trailer, want)
		}
	}
}

// TestTrailersImpossible: a body that cannot have a trailer section behind it is
// handed over as it is.
func TestTrailersImpossible(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		make func() *http.Response
	}{
		{"declared length", func() *http.Response { return answer(200, "fine") }},
		{"until the connection closes", func() *http.Response {
			resp := answer(200, "fine")
			resp.ContentLength = -1
			return resp
		}},
		{"no body", func() *http.Response {
			resp := answer(200, "")
			resp.ProtoMajor, resp.Body = 2, http.NoBody
			return resp
		}},
		{"101", func() *http.Response {
			resp := answer(101, "")
			resp.TransferEncoding = []string{"chunked"}
			return resp
		}},
	} {
		made := tt.make()
		body := made.Body
		made.Trailer = http.Header{"X-Bff-Error": {"x"}, "X-Ok": {"x"}}
		tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) { return made, nil })}
		req := request(t.Context(), &Grant{}, "GET", nil)
		req.Header.Set("Upgrade", "websocket")
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.Body != body {
			t.Errorf("%s: %v, %v", tt.name, resp, err)
		}
		if got := names(resp.Trailer); !slices.Equal(got, []string{"X-Ok"}) {
			t.Errorf("%s: trailer section %q", tt.name, got)
		}
	}
}

// TestTrailerNames: RFC 9110 section 6.5.1, and what a header does not get
// through either.
func TestTrailerNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"Grpc-Status": true, "Grpc-Message": true, "Server-Timing": true, "Digest": true, "Content-Digest": true, "Repr-Digest": true,
		"Etag": true, "X-Checksum-Sha256": true, "X-Amz-Checksum-Crc32": true, "Signature": true, "Access": true, "X-Bff": true,
		"Set-Cookie": false, "set-cookie": false, "SET-COOKIE": false, "Www-Authenticate": false, "Proxy-Authenticate": false,
		"X-Bff-Error": false, "X-BFF-Error": false, "Dpop-Nonce": false, "DPoP-Nonce": false,
		"Access-Control-Allow-Origin": false, "access-control-max-age": false, "Access-Control-New": false,
		"Cache-Control": false, "Cdn-Cache-Control": false, "x-cache-control": false, "Surrogate-Control": false, "Expires": false,
		"Pragma": false, "Age": false, "Vary": false, "Date": false, "Location": false, "Refresh": false, "Retry-After": false,
		"Content-Type": false, "Content-Encoding": false, "Content-Length": false, "Content-Range": false,
		"Transfer-Encoding": false, "Trailer": false, "Connection": false, "Upgrade": false, "Te": false, "Host": false,
		"Clear-Site-Data": false, "Strict-Transport-Security": false, "Content-Security-Policy": false,
	} {
		if got := trailerAllowed(name); got != want {
			t.Errorf("%s allowed: %t, want %t", name, got, want)
		}
	}
}
