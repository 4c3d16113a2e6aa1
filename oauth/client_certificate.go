// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ClientCertificateConfig describes a client certificate (RFC 8705).
type ClientCertificateConfig struct {
	// CertificateFile is a PEM file: the certificate, and the intermediate ones
	// behind it. PrivateKeyFile is a PEM file with its private key; it may be the
	// same file. Both are read again when they change. Required.
	CertificateFile, PrivateKeyFile string
	// Published says that the authorization server knows the certificate by
	// [ClientCertificate.PublicKeys]. A new one is then shown there for two minutes
	// before it is used, unless the old one is refused. Default: it is used at once.
	Published bool
	// Logger is told when the files change. Default: nothing is logged.
	Logger *slog.Logger
}

// ClientCertificate is a certificate that the client shows to its authorization
// server, kept in files that may change at any time. Safe for concurrent use.
type ClientCertificate struct {
	cfg      ClientCertificateConfig
	files    watched[*shownCertificate]
	rollover rollover[*shownCertificate]
}

// shownCertificate is one state of the files.
type shownCertificate struct {
	pair       *tls.Certificate
	published  publishedKey
	thumbprint string // SHA-256, in base64url: x5t#S256
}

// NewClientCertificate reads the certificate and its key. An error names the
// files and nothing that is in them.
func NewClientCertificate(cfg ClientCertificateConfig) (*ClientCertificate, error) {
	c := &ClientCertificate{cfg: cfg}
	c.files = watched[*shownCertificate]{
		what: "the client certificate", paths: []string{cfg.CertificateFile, cfg.PrivateKeyFile},
		parse: parseCertificate, changed: c.changed, log: cfg.Logger,
	}
	if err := c.files.start(); err != nil {
		return nil, fmt.Errorf("oauth: client certificate: %w", err)
	}
	first := c.files.current
	c.rollover.start(first, []publishedKey{first.published})
	c.warnExpired(first)
	return c, nil
}

func parseCertificate(contents [][]byte) (*shownCertificate, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	jwk, thumbprint, err := publicJWK(pair.Leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	var chain []string
	for _, der := range pair.Certificate {
		chain = append(chain, base64.StdEncoding.EncodeToString(der))
	}
	sum := sha256.Sum256(pair.Certificate[0])
	// A renewed certificate may have the old key, and then has its thumbprint too.
	both := sha256.Sum256([]byte(thumbprint + string(sum[:])))
	kid := base64.RawURLEncoding.EncodeToString(both[:])
	x5t := base64.RawURLEncoding.EncodeToString(sum[:])
	jwk["kid"], jwk["use"], jwk["x5c"], jwk["x5t#S256"] = kid, "sig", chain, x5t
	data, err := json.Marshal(jwk)
	return &shownCertificate{pair: &pair, published: publishedKey{kid: kid, jwk: data}, thumbprint: x5t}, err
}

func (c *ClientCertificate) changed(s *shownCertificate) {
	now := time.Now()
	from := c.rollover.change(s, s.published.kid, []publishedKey{s.published}, now)
	if !c.cfg.Published {
		c.rollover.hurry() // nobody has to get to know it first
		from = now
	}
	c.files.log.Info("the client certificate has changed", "file", c.cfg.CertificateFile, "not_after", s.pair.Leaf.NotAfter, "used_from", from)
	c.warnExpired(s)
}

// current returns what is shown now.
func (c *ClientCertificate) current() *shownCertificate {
	c.files.value()
	return c.rollover.current()
}

func (c *ClientCertificate) warnExpired(s *shownCertificate) {
	if leaf := s.pair.Leaf; time.Now().After(leaf.NotAfter) {
		c.files.log.Warn("the client certificate has expired", "file", c.cfg.CertificateFile, "not_after", leaf.NotAfter)
	}
}

// PublicKeys returns the certificate as a JWK with x5c, which is how an
// authorization server gets to know one that is self-signed (RFC 8705 section
// 2.2.2), and for an hour those that were in the files before.
func (c *ClientCertificate) PublicKeys() []json.RawMessage {
	c.files.value()
	return c.rollover.published.jwks(time.Now())
}

var errNotTLS = errors.New("the endpoint is plain http, where no certificate can be shown")

// certifiedTransport shows a client certificate to every server that asks for one.
// It is for the endpoints where the client authenticates, and for no others. A
// connection was made with the certificate of its day, so each certificate has
// connections of its own.
type certifiedTransport struct {
	client      *http.Client // over this transport
	base        *http.Transport
	certificate *ClientCertificate
	asked       atomic.Bool // some server has asked for a certificate
	unasked     sync.Once   // to say that none has

	mu      sync.Mutex
	shown   *shownCertificate
	current *http.Transport
}

// newCertifiedTransport makes a transport like that of plain.
func newCertifiedTransport(plain *http.Client, certificate *ClientCertificate) (*certifiedTransport, error) {
	base, ok := plain.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("oauth: a client certificate cannot be shown with a transport of type %T", plain.Transport)
	}
	client := *plain
	t := &certifiedTransport{client: &client, base: base, certificate: certificate}
	client.Transport = t
	return t, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *certifiedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.transport().RoundTrip(r)
}

// CloseIdleConnections does what it does for [http.Transport].
func (t *certifiedTransport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != nil {
		t.current.CloseIdleConnections()
	}
}

func (t *certifiedTransport) transport() *http.Transport {
	s := t.certificate.current()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s == t.shown {
		return t.current
	}
	old := t.current
	next := t.base.Clone()
	if next.TLSClientConfig == nil {
		next.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	next.TLSClientConfig.Certificates = nil
	// Not by Certificates, which are held back from a server that lists other
	// authorities: it may know ours by itself, and list none or too few.
	next.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		t.asked.Store(true)
		return s.pair, nil
	}
	t.shown, t.current = s, next
	if old != nil {
		old.CloseIdleConnections() // those in use end when they have been idle
	}
	return next
}
