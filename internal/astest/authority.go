// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// Authority is a certificate authority that signs whatever it is asked to.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority makes an authority with a new key.
func NewAuthority() *Authority {
	a := &Authority{key: NewKey("ES256", "").Private}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority of the tests"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.certificate = makeCertificate(template, template, a.key.Public(), a.key)
	return a
}

// Pool returns a pool that trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// ServerConfig is the TLS of a loopback server that a certificate of the authority
// is for.
func (a *Authority) ServerConfig(clients tls.ClientAuthType) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.Issue("server").pair()}, ClientAuth: clients}
}

// PEM returns the authority's certificate.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// Certificate is a certificate with its private key.
type Certificate struct {
	Leaf *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Issue makes a certificate for a common name, good for loopback servers and for
// clients.
func (a *Authority) Issue(name string) *Certificate {
	key := newCertificateKey()
	return &Certificate{Key: key, Leaf: makeCertificate(leafTemplate(name), a.certificate, key.Public(), a.key)}
}

// SelfSigned makes a certificate that no authority has signed.
func SelfSigned(name string) *Certificate {
	key := newCertificateKey()
	template := leafTemplate(name)
	return &Certificate{Key: key, Leaf: makeCertificate(template, template, key.Public(), key)}
}

// Renew makes a certificate that differs from c in serial number and dates alone.
func Renew(c *Certificate) *x509.Certificate {
	template := leafTemplate(c.Leaf.Subject.CommonName)
	return makeCertificate(template, template, c.Key.Public(), c.Key)
}

// Expired is Renew, an hour too late.
func Expired(c *Certificate) *x509.Certificate {
	template := leafTemplate(c.Leaf.Subject.CommonName)
	template.NotBefore, template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	return makeCertificate(template, template, c.Key.Public(), c.Key)
}

// PEM returns the certificate and its private key.
func (c *Certificate) PEM() (certificate, key []byte) {
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Leaf.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Thumbprint returns x5t#S256 (RFC 8705 section 3.1).
func (c *Certificate) Thumbprint() string { return thumbprint(c.Leaf) }

func (c *Certificate) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Leaf.Raw}, PrivateKey: c.Key, Leaf: c.Leaf}
}

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return b64(sum[:])
}

func newCertificateKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func leafTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
}

func makeCertificate(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}
