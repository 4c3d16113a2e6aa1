// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// echoSocket is an upstream that echoes WebSocket messages and wants a token of
// generation 1.
func echoSocket(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
		refuse(w)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// TestSeamStreams covers what must flow while it is under way: WebSockets,
// server-sent events, gRPC-like calls in both directions. PX-09, PX-10, B205.
func TestSeamStreams(t *testing.T) {
	socket := newResourceServer(t, "http", http.HandlerFunc(echoSocket))
	more := make(chan struct{})
	events := newResourceServer(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			refuse(w)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "data: 2\n\n")
	}))
	// A call as gRPC makes them: both sides stream over HTTP/2, the result is in
	// the trailer section.
	calls := newResourceServer(t, "h2c", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.WriteHeader(http.StatusOK)
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintln(w, "got", lines.Text())
			_ = rc.Flush()
		}
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	}))
	tunnel := newResourceServer(t, "http", nil)
	g := startGateway(t, fmt.Sprintf(`
	handle /socket {
		reverse_proxy %s {
			transport bff
		}
	}
	handle /events {
		reverse_proxy %s {
			transport bff
		}
	}
	handle /call {
		reverse_proxy h2c://%s {
			transport bff
		}
	}
	handle {
		reverse_proxy %s {
			transport bff
		}
	}`, socket.address(), events.address(), calls.address(), tunnel.address()))

	t.Run("WebSocket", func(t *testing.T) {
		s := newSeamSource(t)
		c, _, err := websocket.Dial(t.Context(), "ws://"+g.address+"/socket", &websocket.DialOptions{
			HTTPHeader: http.Header{seamHeader: {s.name}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		for _, message := range []string{"one", strings.Repeat("two", 10000)} {
			if err := c.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
				t.Fatal(err)
			}
			c.SetReadLimit(1 << 20)
			_, got, err := c.Read(t.Context())
			if err != nil || string(got) != message {
				t.Fatalf("echoed %.20q, %v", got, err)
			}
		}
		if s.refreshes.Load() != 1 || s.accepted.Load() != 1 {
			t.Errorf("handshake: %d refreshes, %d accepted, want one of each", s.refreshes.Load(), s.accepted.Load())
		}
	})

	t.Run("server-sent events", func(t *testing.T) {
		s := newSeamSource(t)
		req, _ := http.NewRequestWithContext(t.Context(), "GET", g.url("/events"), nil)
		req.Header.Set(seamHeader, s.name)
		resp, err := client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		if line, err := lines.ReadString('\n'); err != nil || line != "data: 1\n" {
			t.Fatalf("first event is %q, %v", line, err)
		}
		close(more) // only now does the second event exist
		rest, err := io.ReadAll(lines)
		if err != nil || string(rest) != "\ndata: 2\n\n" {
			t.Errorf("rest is %q, %v", rest, err)
		}
	})

	t.Run("both directions with trailers", func(t *testing.T) {
		s := newSeamSource(t)
		r, w := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", g.url("/call"), r)
		req.Header.Set(seamHeader, s.name)
		req.Header.Set("Te", "trailers")
		resp, err := client(t, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for _, word := range []string{"a", "b", "c"} {
			fmt.Fprintln(w, word)
			if line, err := lines.ReadString('\n'); err != nil || line != "got "+word+"\n" {
				t.Fatalf("got %q, %v", line, err)
			}
		}
		_ = w.Close()
		if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
			t.Errorf("rest is %q, %v", rest, err)
		}
		if resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "fine" {
			t.Errorf("trailer section is %v", resp.Trailer)
		}
	})

	t.Run("h2c tunnel attack", func(t *testing.T) {
		s := newSeamSource(t)
		_, _ = call(t, client(t, false), s, "GET", g.url("/x"), nil,
			"Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
		seen := tunnel.requests()
		wantTokens(t, s, seen, 0)
		for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
			if seen[0].Header[name] != nil {
				t.Errorf("%s went upstream: %q", name, seen[0].Header[name])
			}
		}
	})

	t.Run("TRACE", func(t *testing.T) {
		before := len(tunnel.requests())
		resp, _ := call(t, client(t, false), newSeamSource(t), "TRACE", g.url("/x"), nil) // PX-14
		if resp.StatusCode != 405 || len(tunnel.requests()) != before {
			t.Errorf("answered %d, upstream asked: %t", resp.StatusCode, len(tunnel.requests()) != before)
		}
	})
}

// TestSeamExtendedConnect runs a WebSocket over HTTP/2 (RFC 8441). Go's server
// offers it only where the environment of the process says so when it starts,
// so the test starts one more process.
func TestSeamExtendedConnect(t *testing.T) {
	const knob = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), knob) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSeamExtendedConnect$", "-test.v")
		cmd.Env = append(os.Environ(), "GODEBUG="+knob)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestSeamExtendedConnect") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	socket := newResourceServer(t, "http", http.HandlerFunc(echoSocket))
	g := startGateway(t, fmt.Sprintf(`
	reverse_proxy %s {
		transport bff
	}`, socket.address()))
	s := newSeamSource(t)

	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/socket"},
		{":authority", g.address}, {"sec-websocket-version", "13"}, {strings.ToLower(seamHeader), s.name},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	// A masked text frame "hello" with a mask of zeros, and its echo.
	frame, echo := "\x81\x85\x00\x00\x00\x00hello", "\x81\x05hello"
	var got []byte
	for len(got) < len(echo) {
		frameRead, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch fr := frameRead.(type) {
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if status := fr.PseudoValue("status"); status != "200" {
				t.Fatalf("handshake was answered with %s", status)
			}
			if err := f.WriteData(1, false, []byte(frame)); err != nil {
				t.Fatal(err)
			}
		case *http2.DataFrame:
			got = append(got, fr.Data()...)
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatalf("got %v", fr)
		}
	}
	if string(got) != echo {
		t.Errorf("got %q, want %q", got, echo)
	}
	if err := f.WriteData(1, true, nil); err != nil {
		t.Fatal(err)
	}
	for ended := false; !ended; {
		frameRead, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		_, reset := frameRead.(*http2.RSTStreamFrame)
		ended = reset || frameRead.Header().StreamID == 1 && frameRead.Header().Flags.Has(http2.FlagDataEndStream)
	}
	if s.refreshes.Load() != 1 {
		t.Errorf("%d refreshes, want 1", s.refreshes.Load())
	}
}

// pattern is an endless body that needs no memory.
type pattern struct{ at int }

// patternBlock has a period that no buffer size is a multiple of.
var patternBlock = func() (b [64*1024 + 251]byte) {
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}()

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, patternBlock[p.at:])
	p.at = (p.at + n) % 251
	return n, nil
}

// TestSeamBodies covers request bodies: replayed whole or not at all.
// PX-07, PX-08, B204, B206, B215, B216.
func TestSeamBodies(t *testing.T) {
	rs := newResourceServer(t, "http", nil)
	rs.strict = true
	var uploaded atomic.Int64
	big := newResourceServer(t, "http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		uploaded.Store(n)
		if strings.HasSuffix(r.Header.Get("Authorization"), ".0") {
			refuse(w)
		}
	}))
	var dropped atomic.Int64
	dropping := newResourceServer(t, "http", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		dropped.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	g := startGateway(t, fmt.Sprintf(`
	handle /big {
		reverse_proxy %s {
			transport bff
		}
	}
	handle /dropping {
		reverse_proxy %s {
			transport bff
		}
	}
	handle {
		reverse_proxy %s {
			transport bff {
				replay_buffer 1KiB
			}
		}
	}`, big.address(), dropping.address(), rs.address()))
	c := client(t, false)

	for _, size := range []int{0, 1, 1023, 1024, 1025, 70000} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, chunked %t", size, chunked), func(t *testing.T) {
				s := newSeamSource(t)
				before := len(rs.requests())
				sent, _ := io.ReadAll(io.LimitReader(new(pattern), int64(size)))
				var body io.Reader = strings.NewReader(string(sent))
				if chunked {
					body = io.MultiReader(body) // of unknown length
				}
				resp, _ := call(t, c, s, "POST", g.url("/x"), body)
				seen := rs.requests()[before:]
				if size <= 1024 {
					if resp.StatusCode != 200 {
						t.Errorf("answered %d, want 200", resp.StatusCode)
					}
					wantTokens(t, s, seen, 0, 1)
				} else {
					if resp.StatusCode != 401 || resp.Header.Get("X-First-Answer") != "yes" {
						t.Errorf("answered %d %v, want the first answer", resp.StatusCode, resp.Header)
					}
					wantTokens(t, s, seen, 0)
				}
				for _, r := range seen {
					if r.Err != nil || !slices.Equal(r.Body, sent) {
						t.Errorf("upstream got %d bytes (%x), %v; sent %d (%x)",
							len(r.Body), sha256.Sum256(r.Body), r.Err, len(sent), sha256.Sum256(sent))
					}
				}
			})
		}
	}

	t.Run("trailers", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(rs.requests())
		req, _ := http.NewRequestWithContext(t.Context(), "POST", g.url("/x"), io.MultiReader(strings.NewReader("hello")))
		req.Header.Set(seamHeader, s.name)
		req.Trailer = http.Header{"X-Sum": {"abc"}, "Authorization": {"Bearer of-an-attacker"}, "Cookie": {"__Host-Http-bff=x"}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		seen := rs.requests()[before:]
		wantTokens(t, s, seen, 0, 1)
		for i, r := range seen {
			if string(r.Body) != "hello" || r.Trailer.Get("X-Sum") != "abc" || len(r.Trailer) != 1 {
				t.Errorf("request %d had body %q, trailer section %v", i, r.Body, r.Trailer)
			}
		}
	})

	t.Run("Expect: 100-continue", func(t *testing.T) {
		s := newSeamSource(t)
		before := len(rs.requests())
		resp, body := call(t, c, s, "POST", g.url("/x"), strings.NewReader("hello"), "Expect", "100-continue")
		if resp.StatusCode != 200 || body != "POST /x 5" {
			t.Errorf("answered %d %q", resp.StatusCode, body)
		}
		wantTokens(t, s, rs.requests()[before:], 0, 1)
	})

	t.Run("ambiguous failure is not replayed", func(t *testing.T) {
		s := newSeamSource(t)
		resp, _ := call(t, c, s, "POST", g.url("/dropping"), strings.NewReader("hello"))
		if resp.StatusCode != 502 || dropped.Load() != 1 {
			t.Errorf("answered %d after %d requests, want 502 after 1", resp.StatusCode, dropped.Load())
		}
	})

	t.Run("refresh fails", func(t *testing.T) {
		s := newSeamSource(t)
		s.fail.Store(true)
		resp, body := call(t, c, s, "POST", g.url("/x"), strings.NewReader("hello"))
		if resp.StatusCode != 401 || body != "first answer" {
			t.Errorf("answered %d %q, want the first answer", resp.StatusCode, body)
		}
		if resp.Header["Www-Authenticate"] != nil {
			t.Errorf("challenge reached the browser: %q", resp.Header["Www-Authenticate"])
		}
	})

	t.Run("large upload", func(t *testing.T) {
		size := int64(1 << 30)
		if testing.Short() {
			size = 64 << 20
		}
		for _, chunked := range []bool{false, true} {
			s := newSeamSource(t)
			req, _ := http.NewRequestWithContext(t.Context(), "POST", g.url("/big"), io.LimitReader(new(pattern), size))
			if !chunked {
				req.ContentLength = size
			}
			req.Header.Set(seamHeader, s.name)
			peak := watchHeap(t)
			resp, err := (&http.Client{Transport: c.Transport}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != 401 || uploaded.Load() != size {
				t.Errorf("chunked %t: answered %d, upstream got %d bytes of %d", chunked, resp.StatusCode, uploaded.Load(), size)
			}
			if s.refreshes.Load() != 1 {
				t.Errorf("chunked %t: %d refreshes, want 1 for the next attempt of the browser", chunked, s.refreshes.Load())
			}
			if grown := peak(); grown > 32<<20 {
				t.Errorf("chunked %t: heap grew by %d MiB", chunked, grown>>20)
			}
		}
	})
}

// watchHeap samples the live heap until the returned function is called, which
// tells by how many bytes it grew at most.
func watchHeap(t *testing.T) func() uint64 {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, peak := m.HeapAlloc, m.HeapAlloc
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	return func() uint64 {
		stop()
		<-done
		return peak - start
	}
}
