// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// newHastyServer starts an upstream that reads the header of a request and never
// the body. It refuses and waits, refuses and closes the connection, or only
// closes it.
func newHastyServer(t *testing.T, kind string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if line == "\r\n" {
				break
			}
		}
		connection := "keep-alive"
		switch kind {
		case "resets":
			return
		case "closes":
			connection = "close"
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\nConnection: %s\r\n"+
			"WWW-Authenticate: Bearer error=\"invalid_token\"\r\n\r\nhasty", connection)
		if kind == "waits" {
			<-t.Context().Done()
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// TestSeamUnreadBody has requests answered whose body nobody has read, and looks
// at what becomes of the connection. The body is made of requests: an attacker's
// page can choose it, and on a shared connection (a proxy in front of the
// gateway) it would speak for somebody else. B204, B216.
//
// There is no access log here: Caddy's would count the bytes of a body that the
// http transport still reads, which the race detector does not like.
func TestSeamUnreadBody(t *testing.T) {
	rs := newResourceServer(t, "http", nil)
	g := startGateway(t, fmt.Sprintf(`
	handle /waits {
		reverse_proxy %s {
			transport bff {
				keepalive off
			}
		}
	}
	handle /closes {
		reverse_proxy %s {
			transport bff {
				keepalive off
			}
		}
	}
	handle /resets {
		reverse_proxy %s {
			transport bff {
				keepalive off
			}
		}
	}
	handle /waiting-client {
		reverse_proxy %s {
			transport bff {
				expect_continue_timeout 10s
				keepalive off
			}
		}
	}
	handle {
		reverse_proxy %s {
			transport bff
		}
	}`, newHastyServer(t, "waits"), newHastyServer(t, "closes"), newHastyServer(t, "resets"), newHastyServer(t, "closes"), rs.address()))
	s := newSeamSource(t)
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: " + g.address + "\r\n" + seamHeader + ": " + s.name + "\r\n\r\n"

	for _, path := range []string{"/waits", "/closes", "/resets"} {
		for _, size := range []int{100 << 10, 600_000, 1 << 20, 8 << 20} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %d bytes, chunked %t", path[1:], size, chunked), func(t *testing.T) {
					conn := dial(t, g.address)
					body := strings.Repeat(smuggled, size/len(smuggled)+1)
					framing := fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
					if chunked {
						framing = "Transfer-Encoding: chunked\r\n\r\n"
						body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
					}
					go func() {
						_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n%s%s%s",
							path, g.address, seamHeader, s.name, framing, body,
							"GET /next HTTP/1.1\r\nHost: "+g.address+"\r\n"+seamHeader+": "+s.name+"\r\n\r\n")
					}()
					r := bufio.NewReader(conn)
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatal(err)
					}
					got, _ := io.ReadAll(resp.Body)
					switch {
					case resp.StatusCode == 401 && string(got) == "hasty" && path != "/resets":
					case resp.StatusCode == 502 && path != "/waits": // the write failed before the answer was read
					default:
						t.Errorf("answered %d %q", resp.StatusCode, got)
					}
					if !resp.Close {
						// The body had been read after all. Then the next request is
						// /next and nothing else.
						next, err := http.ReadResponse(r, nil)
						if err != nil {
							t.Fatalf("open connection without an answer: %v", err)
						}
						if answer, _ := io.ReadAll(next.Body); next.StatusCode != 200 || string(answer) != "GET /next 0" {
							t.Errorf("what is left of the body was taken for a request and answered with %d %q", next.StatusCode, answer)
						}
					} else if rest, _ := io.ReadAll(r); len(rest) > 0 {
						t.Errorf("more came after an answer with Connection: close: %.80q", rest)
					}
					for _, seen := range rs.requests() {
						if seen.Path == "/smuggled" {
							t.Fatal("part of a request body was taken for a request")
						}
					}
				})
			}
		}
	}

	t.Run("client that waits for 100", func(t *testing.T) {
		conn := dial(t, g.address)
		_, _ = fmt.Fprintf(conn, "POST /waiting-client HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
			g.address, seamHeader, s.name)
		start := time.Now()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 401 || !resp.Close {
			t.Errorf("answered %d, close %t; want 401 and an end of the connection", resp.StatusCode, resp.Close)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("answered after %v: something waited for the body", d)
		}
	})
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}
