// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const userAgent = "caddy-bff"

var (
	errTooLarge = errors.New("body too large")
	errReplay   = errors.New("request is not sent again")
)

// NewTransport returns a transport for calls to an authorization server: HTTP/1.1
// over TLS 1.2 or later, with roots as the trusted certificate authorities (nil:
// those of the system), and connections that are given up after 2 s of idleness.
// That is earlier than servers give them up (5 s is common), because a request
// on a connection that the server is just closing has an unknown outcome, and
// for a refresh token that is the worst one.
func NewTransport(roots *x509.CertPool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        2 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              protocols,
	}
}

// newHTTPClient copies base without what could send credentials astray. Its
// Timeout stays: the caller may want a tighter bound than ours.
func newHTTPClient(base *http.Client) *http.Client {
	c := &http.Client{}
	if base != nil {
		*c = *base
	}
	if c.Transport == nil {
		c.Transport = NewTransport(nil)
	}
	c.Jar = nil
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// checkEndpoint accepts an absolute https URL, or an http one on loopback.
// User information in it would become an Authorization header.
func checkEndpoint(u *url.URL) error {
	switch {
	case u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return errors.New("is not an absolute URL")
	case u.User != nil:
		return errors.New("has user information")
	case u.Fragment != "":
		return errors.New("has a fragment")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("is not https (http is for loopback only)")
}

// loopback says whether host is this machine, without asking a resolver.
func loopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// answer is a response of the authorization server, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
	sent   time.Time // just before the request was sent, wall clock
	// received is when the head of the answer was there.
	received time.Time
}

// get fetches a document of at most limit bytes; anything but 200 is an error,
// and wraps [ErrUnusable] unless the server says that it is not well.
func (c *Client) get(ctx context.Context, endpoint string, limit int64) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return nil, &Error{Class: ClassConfiguration, cause: err}
	}
	a, err := c.send(c.http, r, limit)
	if a != nil {
		c.authorizationServers.answered(origin(r.URL), a.header, a.sent, a.received)
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Class == ClassAmbiguous {
		e.Class = ClassOutage // a GET changes nothing, so nothing is in doubt
	}
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		e := &Error{Status: a.status, RetryAfter: retryAfter(a.header, a.sent), Class: ClassOutage}
		if !unwell(a.status) {
			e.cause = fmt.Errorf("%w: no document", ErrUnusable)
		}
		return nil, e
	}
	return a.body, nil
}

// post sends a form with the client's credentials, exactly once, and returns
// whatever is answered.
func (c *Client) post(ctx context.Context, endpoint string, form url.Values, limit int64) (*answer, error) {
	return c.postFor(ctx, endpoint, form, limit, acceptJSON)
}

// postProved is post with a DPoP proof of a key, unless that is nil. Where the server
// demands a nonce it has acted on nothing (RFC 9449 section 8): then the request is
// sent once more, with that nonce, and a new client assertion. again, unless nil, makes
// the form anew for that, where it has something else that is good for once.
func (c *Client) postProved(ctx context.Context, endpoint string, form url.Values, limit int64, key *DPoPKey, again func() (url.Values, error)) (*answer, error) {
	a, err := c.postOnce(ctx, endpoint, form, limit, acceptJSON, key)
	if err != nil || key == nil || a.status/100 != 4 || dpopNonce(a.header) == "" || answerError(a).Code != "use_dpop_nonce" {
		return a, err
	}
	if again != nil {
		if form, err = again(); err != nil {
			return nil, err
		}
	}
	return c.postOnce(ctx, endpoint, form, limit, acceptJSON, key)
}

// acceptJSON is what is asked for where nothing else is.
const acceptJSON = "application/json"

// postFor is post for an answer of the media types accept.
func (c *Client) postFor(ctx context.Context, endpoint string, form url.Values, limit int64, accept string) (*answer, error) {
	return c.postOnce(ctx, endpoint, form, limit, accept, nil)
}

// postOnce is both.
func (c *Client) postOnce(ctx context.Context, endpoint string, form url.Values, limit int64, accept string, key *DPoPKey) (*answer, error) {
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {accept}}
	if c.certified != nil && !strings.HasPrefix(endpoint, "https:") {
		return nil, &Error{Class: ClassConfiguration, cause: errNotTLS}
	}
	if err := c.authenticate(ctx, header, form); err != nil {
		return nil, err
	}
	if err := c.addProof(header, key, http.MethodPost, endpoint); err != nil {
		return nil, &Error{Class: ClassConfiguration, cause: err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, nil)
	if err != nil {
		return nil, &Error{Class: ClassConfiguration, cause: err}
	}
	r.Header = header
	body := []byte(form.Encode())
	r.ContentLength = int64(len(body))
	w := &watch{}
	r.Body = &watchedBody{Reader: bytes.NewReader(body), watch: w}
	// net/http asks for the body again in two cases: it has not written a single
	// byte to a connection that turned out to be dead, which is harmless; and
	// HTTP/2 when it believes that the server did not act on the request, which
	// is not proof enough.
	r.GetBody = func() (io.ReadCloser, error) {
		if w.http2.Load() {
			return nil, errReplay
		}
		w.sent.Store(false)
		return &watchedBody{Reader: bytes.NewReader(body), watch: w}, nil
	}
	r = r.WithContext(httptrace.WithClientTrace(ctx, w.trace()))
	client := c.http
	if c.certified != nil {
		client = c.certified.client
	}
	a, err := c.send(client, r, limit)
	if e, ok := errors.AsType[*Error](err); ok && e.Status == 0 && !w.sent.Load() {
		e.Class = ClassNotSent
	}
	if a != nil {
		c.authorizationServers.answered(origin(r.URL), a.header, a.sent, a.received)
	}
	if a != nil && a.status/100 == 4 && answerError(a).Code == "invalid_client" {
		c.refused(endpoint)
	}
	return a, err
}

// send sends r and reads the answer. An error is an [*Error]: ClassAmbiguous when
// no whole answer came (the caller may know better), ClassOutage when the answer
// is too large, which makes it unusable unless the server is not well.
func (c *Client) send(client *http.Client, r *http.Request, limit int64) (*answer, error) {
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", acceptJSON)
	}
	r.Header.Set("User-Agent", userAgent)
	sent := time.Now().Round(0)
	res, err := client.Do(r)
	received := time.Now().Round(0)
	if err != nil {
		// The text of a url.Error repeats the URL; its cause says what matters.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, &Error{Class: ClassAmbiguous, cause: err}
	}
	defer res.Body.Close()
	// The limit counts what comes out of a decompressor.
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	e := &Error{Status: res.StatusCode, RetryAfter: retryAfter(res.Header, sent), Class: ClassOutage}
	switch {
	case err != nil:
		e.cause = fmt.Errorf("reading the answer: %w", err)
		if res.StatusCode/100 == 2 {
			e.Class = ClassAmbiguous // it did what was asked, and we missed the result
		}
		return nil, e
	case int64(len(body)) > limit:
		e.cause = fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		if !unwell(res.StatusCode) {
			e.cause = fmt.Errorf("%w: %w", ErrUnusable, e.cause)
		}
		return nil, e
	}
	return &answer{status: res.StatusCode, header: res.Header, body: body, sent: sent, received: received}, nil
}

// watch notes how far a request got. sent errs on the side of true: it is set as
// soon as anything has been handed to the connection.
type watch struct {
	sent  atomic.Bool
	http2 atomic.Bool
}

func (w *watch) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if t, ok := info.Conn.(*tls.Conn); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
				w.http2.Store(true)
			}
		},
		WroteHeaders: func() { w.sent.Store(true) },
	}
}

// watchedBody tells its watch when somebody starts to read it: a round tripper
// that knows no httptrace still has to read the body to send it.
type watchedBody struct {
	*bytes.Reader
	watch *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.sent.Store(true)
	return b.Reader.Read(p)
}

// WriteTo hides the embedded method, which would read behind our back.
func (b *watchedBody) WriteTo(w io.Writer) (int64, error) {
	b.watch.sent.Store(true)
	return b.Reader.WriteTo(w)
}

func (b *watchedBody) Close() error { return nil }
