// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
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
