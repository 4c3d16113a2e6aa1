// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
)

// Transport returns a round tripper that hands requests to the server without
// sockets; it works inside a testing/synctest bubble. Requests for another host
// than the issuer's fail as a name that cannot be resolved.
func (s *Server) Transport() http.RoundTripper { return &memoryTransport{server: s} }

// HTTPClient returns a client over [Server.Transport].
func (s *Server) HTTPClient() *http.Client { return &http.Client{Transport: s.Transport()} }

// InMemory returns a round tripper that hands every request to h without sockets,
// as [Server.Transport] does: for a [ResourceServer] in a synctest bubble.
func InMemory(h http.Handler) http.RoundTripper { return handlerTransport{h} }

type handlerTransport struct{ handler http.Handler }

// RoundTrip implements [http.RoundTripper]. The request body is read whole.
func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	data, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return serveInMemory(r.Context(), t.handler, r, data)
}

// readBody reads a request's body whole and closes it.
func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request body: %w", err)
	}
	return data, nil
}

type memoryTransport struct{ server *Server }

// RoundTrip implements [http.RoundTripper]. The request body is read whole,
// except when the server is down.
func (t *memoryTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.server.mu.Lock()
	down, base := t.server.down, t.server.base
	t.server.mu.Unlock()
	if r.URL.Scheme+"://"+r.URL.Host != base {
		return nil, &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}
	}
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	data, err := readBody(r)
	if err != nil {
		return nil, err
	}
	return serveInMemory(ctx, t.server, r, data)
}

// serveInMemory runs handler for a copy of r and returns its response as soon as
// its head is there.
func serveInMemory(ctx context.Context, handler http.Handler, r *http.Request, data []byte) (*http.Response, error) {
	serverContext, cancel := context.WithCancel(context.WithoutCancel(ctx))
	in := r.Clone(serverContext)
	in.RequestURI = r.URL.RequestURI()
	in.URL = &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	in.Host = r.URL.Host
	if r.Host != "" {
		in.Host = r.Host
	}
	in.Body = io.NopCloser(bytes.NewReader(data))
	in.RemoteAddr = "192.0.2.1:1234"

	reader, writer := io.Pipe()
	w := &memoryWriter{header: http.Header{}, body: writer, head: make(chan struct{})}
	aborted := make(chan struct{})
	go func() {
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler { //nolint:errorlint // a panic value is compared as net/http does
					panic(p)
				}
				close(aborted)
				_ = writer.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = writer.Close()
		}()
		handler.ServeHTTP(w, in)
	}()
	stop := context.AfterFunc(ctx, func() {
		cancel()
		_ = writer.CloseWithError(ctx.Err()) // what the reader gets
	})
	select {
	case <-w.head:
	case <-aborted:
		stop()
		select {
		case <-w.head: // the head had gone out before the abort
		default:
			return nil, io.ErrUnexpectedEOF
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	res := &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &memoryBody{PipeReader: reader, stop: stop, cancel: cancel}, ContentLength: -1, Request: r,
	}
	return res, nil
}

// memoryBody is a response body that fails when the request's context ends. To
// close it is to leave.
type memoryBody struct {
	*io.PipeReader
	stop   func() bool
	cancel func()
}

func (b *memoryBody) Close() error {
	b.stop()
	b.cancel()
	return b.PipeReader.Close()
}

// memoryWriter is the handler's side of an exchange.
type memoryWriter struct {
	header http.Header
	sent   http.Header
	status int
	body   *io.PipeWriter
	head   chan struct{}
	once   sync.Once
}

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status = status
		w.sent = w.header.Clone()
		close(w.head)
	})
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements [http.Flusher]: nothing is ever held back but the head.
func (w *memoryWriter) Flush() { w.WriteHeader(http.StatusOK) }
