// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
)

// interim stands between the interim answers of a resource server (1xx, RFC 9110
// section 15.2) and who hands them on to the browser: a hook in the trace of the
// request's context, as reverse_proxy has one. The hook sees them with the
// hygiene of final answers, and none once the round trip is over: until it
// returns to reverse_proxy nobody else keeps it off the header of the answer to
// the browser, which is one map for both.
//
// An interim is the context of the request on the wire. In place of the trace
// that it found it shows a copy with another hook. (WithClientTrace of httptrace
// would join two hooks, by reflection, and the first cannot keep anything from
// the second.)
type interim struct {
	context.Context
	grant *Grant
	found *httptrace.ClientTrace // in Context
	shown httptrace.ClientTrace

	mu      sync.Mutex
	open    bool // an attempt is under way
	attempt int
	// What the first attempt has handed on: a browser that was told to go on, or
	// what to load, need not be told again before the replay's answer.
	continued, hinted bool
}

// newInterim returns nil for a request whose interim answers nobody wants. (The
// base transport bounds them then, which it does not where there is a hook.)
func newInterim(ctx context.Context, g *Grant) *interim {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil || trace.Got1xxResponse == nil {
		return nil
	}
	i := &interim{Context: ctx, grant: g, found: trace, shown: *trace}
	i.shown.Got1xxResponse = i.got
	return i
}

// Value implements context.Context.
func (i *interim) Value(key any) any {
	value := i.Context.Value(key)
	if trace, ok := value.(*httptrace.ClientTrace); ok && trace == i.found {
		return &i.shown
	}
	return value
}

// roundTrip sends req, which has i for a context unless i is nil, over base.
func (i *interim) roundTrip(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	if i != nil {
		i.begin()
		defer i.end()
	}
	return base.RoundTrip(req)
}

func (i *interim) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.open = true
	i.attempt++
}

// end waits for a hook that is at work, as reverse_proxy would.
func (i *interim) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.open = false
}

// got is the hook. header is its own to change.
func (i *interim) got(code int, header textproto.MIMEHeader) error {
	i.grant.sanitizeInterim(http.Header(header))
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.open || !i.wanted(code) {
		return nil
	}
	return i.found.Got1xxResponse(code, header)
}

// wanted reports whether the browser should hear of an interim answer, and notes
// it.
func (i *interim) wanted(code int) bool {
	var told *bool
	switch code {
	case http.StatusSwitchingProtocols:
		// HTTP/2 has no such thing (RFC 9113 section 8.6), but the base transport
		// reads it as an interim answer. To an HTTP/1 browser it would be final.
		return false
	case http.StatusContinue:
		told = &i.continued
	case http.StatusEarlyHints:
		told = &i.hinted
	default:
		return true // a sign of life, or of an upload's progress: true each time
	}
	if i.attempt > 1 {
		return !*told
	}
	*told = true
	return true
}

// sanitizeInterim does to the header of an interim answer what is done to that
// of a final one. Caches have no use for it, so nothing is added.
func (g *Grant) sanitizeInterim(h http.Header) {
	g.sanitizeResponse(h)
	if lines, ok := h["Cache-Control"]; ok && !g.CacheUpstream {
		h["Cache-Control"] = privateCacheControl(lines)
	}
}
