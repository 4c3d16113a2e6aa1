// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// newRawServer starts an HTTP/1 upstream that says what it likes. said returns
// the bytes that answer a request.
func newRawServer(t *testing.T, said func(*http.Request) string) (address string) {
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
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if _, err := io.WriteString(conn, said(req)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// interims gathers the 103 that a client gets.
type interims struct {
	mu  sync.Mutex
	got []http.Header
}

func (i *interims) watch(req *http.Request) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			i.mu.Lock()
			defer i.mu.Unlock()
			if code == http.StatusEarlyHints {
				i.got = append(i.got, maps.Clone(http.Header(header)))
			}
			return nil
		},
	}))
}

// seamRequest makes a GET request on behalf of a source.
func seamRequest(t *testing.T, s *seamSource, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(seamHeader, s.name)
	return req
}

// unwanted are fields that no browser may get from an upstream here.
var unwanted = []string{
	"Set-Cookie", "X-Bff-Error", "Www-Authenticate", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Dpop-Nonce",
}

const (
	unwantedFields = "Set-Cookie: __Host-Http-bff=evil; Path=/\r\nX-BFF-Error: session_required\r\nWWW-Authenticate: Basic realm=x\r\n" +
		"Access-Control-Allow-Origin: https://evil.test\r\nAccess-Control-Allow-Credentials: true\r\nDPoP-Nonce: n\r\n"
	hinted = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n" + unwantedFields + "\r\n"
)

// TestSeamEarlyHints: 103 of an upstream arrives, without what no answer may
// carry, and once for a request that was healed. B212, B216, PX-12.
func TestSeamEarlyHints(t *testing.T) {
	plain := newRawServer(t, func(r *http.Request) string {
		if r.URL.Path == "/healed" && strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			return hinted + "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 0\r\n\r\n"
		}
		return hinted + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
	})
	modern := newResourceServer(t, "h2c", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for line := range strings.Lines(unwantedFields + "Link: </a.css>; rel=preload\r\n") {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(http.StatusEarlyHints)
		clear(w.Header())
		if r.URL.Path == "/h2/healed" && strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			refuse(w)
			return
		}
		_, _ = io.WriteString(w, "fine")
	}))
	g := startGateway(t, fmt.Sprintf(`
	handle /h2/* {
		reverse_proxy h2c://%s {
			transport bff
		}
	}
	handle {
		reverse_proxy %s {
			transport bff
		}
	}`, modern.address(), plain))
	for _, http2 := range []bool{false, true} {
		for _, path := range []string{"/x", "/healed", "/h2/x", "/h2/healed"} {
			t.Run(fmt.Sprintf("client HTTP/2 %t %s", http2, path), func(t *testing.T) {
				s, hints := newSeamSource(t), new(interims)
				resp, err := client(t, http2).Do(hints.watch(seamRequest(t, s, g.url(path))))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "fine" || resp.StatusCode != 200 {
					t.Errorf("answered %d %q, %v", resp.StatusCode, b, err)
				}
				if healed := int64(strings.Count(path, "healed")); s.refreshes.Load() != healed {
					t.Errorf("%d refreshes, want %d", s.refreshes.Load(), healed)
				}
				hints.mu.Lock()
				defer hints.mu.Unlock()
				if len(hints.got) != 1 || hints.got[0].Get("Link") != "</a.css>; rel=preload" {
					t.Fatalf("103 arrived as %v, want it once", hints.got)
				}
				for _, name := range unwanted {
					if values := hints.got[0].Values(name); values != nil {
						t.Errorf("103 has %s: %q", name, values)
					}
				}
			})
		}
	}
}

// TestSeamTrailers: the trailer section of an upstream arrives without what no
// header may carry, announced or not. B212, PX-12.
func TestSeamTrailers(t *testing.T) {
	const section = "2\r\nok\r\n0\r\nX-Ok: 1\r\nServer-Timing: db;dur=5\r\nCache-Control: public\r\n" + unwantedFields + "\r\n"
	plain := newRawServer(t, func(r *http.Request) string {
		announced := ""
		if r.URL.Path == "/announced" {
			announced = "Trailer: X-Ok, Server-Timing, Cache-Control, " + strings.Join(unwanted, ", ") + "\r\n"
		}
		return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n" + announced + "\r\n" + section
	})
	modern := newResourceServer(t, "h2c", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
		_ = http.NewResponseController(w).Flush() // so that no length is declared, which HTTP/1 cannot have with trailers
		for line := range strings.Lines("X-Ok: 1\r\nServer-Timing: db;dur=5\r\n" + unwantedFields) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			w.Header().Set(http.TrailerPrefix+name, value)
		}
	}))
	g := startGateway(t, fmt.Sprintf(`
	handle /h2/* {
		reverse_proxy h2c://%s {
			transport bff
		}
	}
	handle {
		reverse_proxy %s {
			transport bff
		}
	}`, modern.address(), plain))
	for _, http2 := range []bool{false, true} {
		for _, path := range []string{"/announced", "/x", "/h2/x"} {
			t.Run(fmt.Sprintf("client HTTP/2 %t %s", http2, path), func(t *testing.T) {
				resp, err := client(t, http2).Do(seamRequest(t, newSeamSource(t), g.url(path)))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var announced []string
				for name := range resp.Trailer {
					announced = append(announced, name)
				}
				slices.Sort(announced)
				if path == "/announced" && !slices.Equal(announced, []string{"Server-Timing", "X-Ok"}) || path != "/announced" && announced != nil {
					t.Errorf("announced %q", announced)
				}
				if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
					t.Errorf("body %q, %v", b, err)
				}
				want := http.Header{"X-Ok": {"1"}, "Server-Timing": {"db;dur=5"}}
				if !maps.EqualFunc(resp.Trailer, want, slices.Equal) {
					t.Errorf("trailer section %q, want %q", resp.Trailer, want)
				}
			})
		}
	}
}

// TestSeamTrailersHeldBack: a handler that holds answers back has reverse_proxy
// write the trailer section into the header that is still to be sent. B212,
// PX-12.
func TestSeamTrailersHeldBack(t *testing.T) {
	address := newRawServer(t, func(*http.Request) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\nTrailer: Set-Cookie, X-BFF-Error, WWW-Authenticate, " +
			"Access-Control-Allow-Origin, Access-Control-Allow-Credentials, DPoP-Nonce\r\n\r\n2\r\nok\r\n0\r\n" + unwantedFields + "\r\n"
	})
	g := startGateway(t, fmt.Sprintf(`
	templates
	reverse_proxy %s {
		transport bff
	}`, address))
	resp, body := call(t, client(t, false), newSeamSource(t), "GET", g.url("/x"), nil)
	if resp.StatusCode != 200 || body != "ok" {
		t.Errorf("answered %d %q", resp.StatusCode, body)
	}
	for _, name := range append(slices.Clone(unwanted), "Trailer") {
		if values := resp.Header.Values(name); values != nil {
			t.Errorf("the browser gets %s: %q", name, values)
		}
		if values := resp.Trailer.Values(name); values != nil {
			t.Errorf("the browser gets trailer %s: %q", name, values)
		}
	}
}

// TestSeamSlowBodyRefused: an upstream refuses the token while the body is still
// coming. The token is refreshed at once, so that the next request has a good
// one. PX-02, PX-08.
func TestSeamSlowBodyRefused(t *testing.T) {
	address := newHastyServer(t, "waits")
	g := startGateway(t, fmt.Sprintf(`
	reverse_proxy %s {
		transport bff
	}`, address))
	s := newSeamSource(t)
	conn := dial(t, g.address)
	_, err := fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: 100\r\n\r\nabc", g.address, seamHeader, s.name)
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); s.refreshes.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > 5*time.Second {
			t.Fatal("no refresh while the body is awaited")
		}
	}
	// The browser goes away; the request does not outlive it.
	_ = conn.Close()
}
