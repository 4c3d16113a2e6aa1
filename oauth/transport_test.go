// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// wire is a server on a bare socket: it sees each request that leaves the client,
// whatever net/http thinks about it.
type wire struct {
	listener net.Listener
	requests atomic.Int32
	noticed  chan struct{} // gets a value when the client has noticed the end of a connection
	wg       sync.WaitGroup
}

// newWire serves each connection with serve, which is told how many came before.
func newWire(t *testing.T, serve func(w *wire, conn net.Conn, n int)) (*wire, *Client) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, noticed: make(chan struct{}, 10)}
	w.wg.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() {
				defer conn.Close()
				serve(w, conn, n)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); w.wg.Wait() })
	issuer := "http://" + listener.Addr().String()
	c, err := New(Config{
		Issuer: issuer, ClientID: "app", AuthMethod: AuthClientSecretBasic,
		ClientSecret: func() (Secret, error) { return "secret", nil },
		Timeout:      5 * time.Second, RefreshTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.metadata.current = &Metadata{Issuer: issuer, TokenEndpoint: issuer + "/token"}
	c.metadata.fetched = time.Now()
	t.Cleanup(c.http.CloseIdleConnections)
	return w, c
}

// read reads one request; false at the end of the connection.
func (w *wire) read(r *bufio.Reader) bool {
	request, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	w.requests.Add(1)
	_, _ = io.Copy(io.Discard, request.Body)
	return true
}

// hangUp ends a connection that is idle, and waits until the client has ended it
// too.
func (w *wire) hangUp(conn net.Conn) {
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
	w.noticed <- struct{}{}
}

const okAnswer = `{"access_token":"at","token_type":"Bearer"}`

func reply(conn net.Conn, header string) {
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(okAnswer), header, okAnswer)
}

// TestRefreshTokenIsOnTheWireAtMostOnce goes through what can happen to a
// connection: however net/http reacts, no server ever reads a second copy (A503,
// DESIGN.md 6.4).
func TestRefreshTokenIsOnTheWireAtMostOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		serve  func(w *wire, conn net.Conn, n int)
		warm   bool  // a good request first, so that the connection is a reused one
		closes bool  // the server ends the idle connection after that
		want   Class // of the second (or only) request; -1: ClassAmbiguous or ClassNotSent
		ok     bool
		seen   int32
	}{
		"closed at once": {
			serve: func(_ *wire, _ net.Conn, _ int) {}, want: -1, // a matter of who is first
		},
		"request read, then cut": {
			serve: func(w *wire, conn net.Conn, _ int) { w.read(bufio.NewReader(conn)) }, want: ClassAmbiguous, seen: 1,
		},
		"reused connection: request read, then cut": {
			serve: func(w *wire, conn net.Conn, _ int) {
				r := bufio.NewReader(conn)
				if w.read(r) {
					reply(conn, "")
					w.read(r)
				}
			}, warm: true, want: ClassAmbiguous, seen: 2,
		},
		"reused connection: reset after the request": {
			serve: func(w *wire, conn net.Conn, _ int) {
				r := bufio.NewReader(conn)
				if w.read(r) {
					reply(conn, "")
					w.read(r)
					_ = conn.(*net.TCPConn).SetLinger(0)
				}
			}, warm: true, want: ClassAmbiguous, seen: 2,
		},
		"reused connection: half an answer": {
			serve: func(w *wire, conn net.Conn, _ int) {
				r := bufio.NewReader(conn)
				if w.read(r) {
					reply(conn, "")
					w.read(r)
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n{")
				}
			}, warm: true, want: ClassAmbiguous, seen: 2,
		},
		"server closes after each answer without saying so": {
			serve: func(w *wire, conn net.Conn, _ int) {
				if w.read(bufio.NewReader(conn)) {
					reply(conn, "")
					w.hangUp(conn)
				}
			}, warm: true, closes: true, ok: true, seen: 2,
		},
		"server closes after each answer": {
			serve: func(w *wire, conn net.Conn, _ int) {
				if w.read(bufio.NewReader(conn)) {
					reply(conn, "Connection: close\r\n")
					w.hangUp(conn)
				}
			}, warm: true, closes: true, ok: true, seen: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, c := newWire(t, tc.serve)
			if tc.warm {
				if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); err != nil {
					t.Fatal(err)
				}
				if tc.closes {
					// Without waiting, this would be the race that the idle timeout of
					// NewTransport is for.
					<-w.noticed
				}
			}
			_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"})
			class := ClassOf(err)
			if tc.want == -1 && (class == ClassNotSent || class == ClassAmbiguous) {
				class = tc.want
			}
			if tc.ok != (err == nil) || (err != nil && class != tc.want) {
				t.Errorf("%v, class %v", err, ClassOf(err))
			}
			c.http.CloseIdleConnections()
			_ = w.listener.Close()
			w.wg.Wait() // every connection has been read to its end
			if got := w.requests.Load(); got != tc.seen {
				t.Errorf("%d requests on the wire, not %d", got, tc.seen)
			}
		})
	}
}

func TestNothingWasSent(t *testing.T) { // ClassNotSent
	t.Parallel()
	w, c := newWire(t, func(*wire, net.Conn, int) {})
	_ = w.listener.Close()
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); ClassOf(err) != ClassNotSent {
		t.Errorf("connection refused: %v, class %v", err, ClassOf(err))
	}

	ts := httptest.NewUnstartedServer(http.NotFoundHandler()) // its certificate is not trusted
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.StartTLS()
	defer ts.Close()
	c.metadata.current = &Metadata{TokenEndpoint: ts.URL}
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); ClassOf(err) != ClassNotSent {
		t.Errorf("certificate not trusted (MD-03): %v, class %v", err, ClassOf(err))
	}
}

func TestTrustedRoots(t *testing.T) {
	t.Parallel()
	ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, okAnswer) }))
	defer ts.Close()
	roots := x509.NewCertPool()
	roots.AddCert(ts.Certificate())
	c, err := New(Config{Issuer: ts.URL, ClientID: "app", AuthMethod: AuthNone, HTTP: &http.Client{Transport: NewTransport(roots)}})
	if err != nil {
		t.Fatal(err)
	}
	c.metadata.current, c.metadata.fetched = &Metadata{TokenEndpoint: ts.URL}, time.Now()
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); err != nil {
		t.Error(err)
	}
	c.http.CloseIdleConnections()
}

// TestHTTP2IsNotRepeated: net/http repeats a request over HTTP/2 when the server
// answers with a protocol error or says that it did not process it. We don't.
func TestHTTP2IsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, code := range []http2.ErrCode{http2.ErrCodeRefusedStream, http2.ErrCodeProtocol} {
		issuer, roots, requests := newHTTP2Wire(t, code)
		transport := NewTransport(roots)
		transport.Protocols.SetHTTP2(true)
		c, err := New(Config{Issuer: issuer, ClientID: "app", AuthMethod: AuthNone, HTTP: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		c.metadata.current, c.metadata.fetched = &Metadata{TokenEndpoint: issuer}, time.Now()
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"}); ClassOf(err) != ClassAmbiguous {
			t.Errorf("%v: %v, class %v", code, err, ClassOf(err))
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("%v: %d requests on the wire", code, n)
		}
		c.http.CloseIdleConnections()
	}
}

// newHTTP2Wire is a server on a bare TLS socket that resets the first stream with
// code and answers all others. It counts the streams.
func newHTTP2Wire(t *testing.T, code http2.ErrCode) (issuer string, roots *x509.CertPool, requests *atomic.Int32) {
	t.Helper()
	ts := httptest.NewTLSServer(nil) // for its certificate
	certificate := ts.TLS.Certificates[0]
	roots = x509.NewCertPool()
	roots.AddCert(ts.Certificate())
	ts.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	requests = &atomic.Int32{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				preface := make([]byte, len(http2.ClientPreface))
				if _, err := io.ReadFull(conn, preface); err != nil {
					return
				}
				framer := http2.NewFramer(conn, conn)
				_ = framer.WriteSettings()
				for {
					frame, err := framer.ReadFrame()
					if err != nil {
						return
					}
					data, ok := frame.(*http2.DataFrame)
					if !ok || !data.StreamEnded() {
						continue
					}
					if requests.Add(1) == 1 {
						_ = framer.WriteRSTStream(data.StreamID, code)
						continue
					}
					// ":status: 200" from the static table of RFC 7541.
					_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: data.StreamID, BlockFragment: []byte{0x88}, EndHeaders: true})
					_ = framer.WriteData(data.StreamID, true, []byte(okAnswer))
				}
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); wg.Wait() })
	return "https://" + listener.Addr().String(), roots, requests
}

// TestReplayGuard asks for the body again as net/http would.
func TestReplayGuard(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		var replay error
		c := &Client{cfg: Config{AuthMethod: AuthNone, ClientID: "app"}}
		c.http = newHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			body := r.Body.(*watchedBody)
			body.watch.http2.Store(http2)
			body.watch.sent.Store(true)
			_, replay = r.GetBody()
			return nil, errors.New("connection died")
		})})
		_, err := c.post(context.Background(), "https://as.test/token", url.Values{}, 1)
		if (replay != nil) != http2 {
			t.Errorf("HTTP/2 %v: replay %v", http2, replay)
		}
		want := ClassNotSent // net/http has said that nothing was written
		if http2 {
			want = ClassAmbiguous
		}
		if ClassOf(err) != want {
			t.Errorf("HTTP/2 %v: class %v", http2, ClassOf(err))
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestGivenClientIsCopied(t *testing.T) {
	t.Parallel()
	base := &http.Client{Timeout: time.Minute}
	c := newHTTPClient(base)
	if c == base || base.CheckRedirect != nil || c.CheckRedirect == nil || c.Jar != nil || c.Timeout != time.Minute || c.Transport == nil {
		t.Errorf("%+v", c)
	}
}
