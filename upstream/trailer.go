// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"io"
	"net/http"
	"strings"
)

// trailerAllowed reports whether a resource server may send a field in the
// trailer section of an answer. Forbidden are what RFC 9110 section 6.5.1 names
// (framing, routing, authentication, response controls, content format), what
// changes the state of a browser, and what only the gateway says: recipients are
// known that merge the section into the header, and so does whoever holds
// reverse_proxy's answer back until its end. All else stays: grpc-status,
// Server-Timing, digests, ETag.
func trailerAllowed(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Www-Authenticate",
		"Age", "Cache-Control", "Date", "Expires", "Location", "Pragma", "Refresh", "Retry-After", "Vary", "Warning",
		"Content-Disposition", "Content-Encoding", "Content-Location", "Content-Range", "Content-Type",
		"Content-Security-Policy", "Content-Security-Policy-Report-Only",
		"Alt-Svc", "Clear-Site-Data", "Set-Cookie", "Set-Cookie2", "Strict-Transport-Security",
		"Dpop-Nonce", "X-Bff-Error":
		return false
	}
	return !strings.HasPrefix(name, "Access-Control-") && !targetedCacheControl(name)
}

// sanitizeTrailers returns resp with a trailer section without forbidden fields,
// and without an announcement of such. The base transport fills resp.Trailer
// when the body ends, with fields that it did not announce too: where there may
// be a section, another response is returned, and only what is allowed goes over
// to it.
func sanitizeTrailers(resp *http.Response) *http.Response {
	if !trailersPossible(resp) {
		for name := range resp.Trailer {
			if !trailerAllowed(name) {
				delete(resp.Trailer, name)
			}
		}
		return resp
	}
	r := &trailerResponse{Response: *resp}
	r.body = trailerBody{ReadCloser: resp.Body, from: resp, to: &r.Response}
	r.Body = &r.body
	r.Trailer = nil
	r.body.carry()
	return &r.Response
}

// trailersPossible reports whether a trailer section may come behind the body.
// Over HTTP/1 it needs the chunked coding (RFC 9112 section 7.1.2).
func trailersPossible(resp *http.Response) bool {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols, resp.Body == nil, resp.Body == http.NoBody:
		return false
	case resp.ProtoMajor == 1:
		return len(resp.TransferEncoding) > 0
	}
	return true
}

// trailerResponse is a response together with its body: one allocation for both.
type trailerResponse struct {
	http.Response
	body trailerBody
}

// trailerBody is the body of to. At its end the trailer section of from is
// carried over.
type trailerBody struct {
	io.ReadCloser
	from, to *http.Response
}

// Read implements io.Reader.
func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.carry()
	}
	return n, err
}

func (b *trailerBody) carry() {
	for name, values := range b.from.Trailer {
		if !trailerAllowed(name) {
			continue
		}
		if b.to.Trailer == nil {
			b.to.Trailer = make(http.Header, len(b.from.Trailer))
		}
		b.to.Trailer[name] = values
	}
}
