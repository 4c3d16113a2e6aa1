// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// outage serves HTTP at one address and can go away for a while: connections are then refused, as those to a machine that
// is up while its service is not. What has begun is finished first.
type outage struct {
	address string
	handler http.Handler

	mu     sync.Mutex
	server *http.Server // nil during an outage
	end    time.Time    // of the outage
	timer  *time.Timer
	closed bool
}

// newOutage begins to serve on listener.
func newOutage(listener net.Listener, handler http.Handler) *outage {
	o := &outage{address: listener.Addr().String(), handler: handler}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serve(listener)
	return o
}

// serve serves on listener. The caller holds the lock.
func (o *outage) serve(listener net.Listener) {
	server := &http.Server{Handler: o.handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	o.server = server
	go server.Serve(listener) // ends with http.ErrServerClosed, by stop
}

// begin starts an outage of d. Where one is under way nothing changes: its end is returned, and false.
func (o *outage) begin(d time.Duration, ended func()) (until time.Time, fresh bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.server == nil || o.closed {
		return o.end, false
	}
	stop(o.server)
	o.server, o.end = nil, time.Now().Add(d)
	o.timer = time.AfterFunc(d, func() { o.finish(ended) })
	return o.end, true
}

// finish ends the outage. Should another program have taken the port meanwhile, it is tried again until it is free.
func (o *outage) finish(ended func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	listener, err := net.Listen("tcp", o.address)
	if err != nil {
		o.timer = time.AfterFunc(100*time.Millisecond, func() { o.finish(ended) })
		return
	}
	o.end = time.Time{}
	o.serve(listener)
	ended()
}

// until returns the end of the outage, or the zero time.
func (o *outage) until() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}

// close stops for good.
func (o *outage) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	if o.server == nil {
		return nil
	}
	return stop(o.server)
}

// stop refuses new connections at once and gives what is under way a second.
func stop(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	}
	return err
}
