// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"sync/atomic"
	"syscall"
	"testing"
)

// balancer stands before the instances of a fleet and gives requests to them in
// turn. One that refuses the connection gets none: the request goes to the next,
// as it does when the connection breaks before a byte of the answer is there.
type balancer struct {
	origin string

	addresses       []string
	base            *http.Transport
	next            atomic.Int64
	refused, resets atomic.Int64
}

func newBalancer(t *testing.T, instances []*instance) *balancer {
	t.Helper()
	b := &balancer{base: &http.Transport{MaxIdleConnsPerHost: 100}}
	for _, in := range instances {
		b.addresses = append(b.addresses, in.address)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.Host = "http", r.In.Host },
		Transport: b,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	t.Cleanup(server.Close)
	t.Cleanup(b.base.CloseIdleConnections)
	b.origin = server.URL
	return b
}

// RoundTrip sends a request without a body to the instance whose turn it is.
func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	turn := int(b.next.Add(1))
	reset := false
	for i := 0; ; i++ {
		reused, begun := false, false
		out := r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			GotConn:              func(c httptrace.GotConnInfo) { reused = c.Reused },
			GotFirstResponseByte: func() { begun = true },
		}))
		out.URL.Host = b.addresses[(turn+i)%len(b.addresses)]
		res, err := b.base.RoundTrip(out)
		switch {
		case err == nil || i == len(b.addresses):
			return res, err
		case errors.Is(err, syscall.ECONNREFUSED):
			b.refused.Add(1)
		case !reset && !reused && !begun && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)):
			reset = true
			b.resets.Add(1)
		default:
			return nil, err
		}
	}
}

func (b *balancer) String() string {
	return fmt.Sprintf("the load balancer gave requests to the next instance: %d as one did not listen, %d after the reset of a new connection", b.refused.Load(), b.resets.Load())
}
