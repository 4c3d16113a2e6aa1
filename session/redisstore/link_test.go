// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redisstore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

// works does one of each kind of call.
func works(t *testing.T, s *redisstore.Store) {
	t.Helper()
	for call, do := range calls(t, s) {
		if err := do(); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// refuses waits until a call says why the store is not connected.
func refuses(t *testing.T, s *redisstore.Store, want string) {
	t.Helper()
	redistest.Eventually(t, "the reason is "+want, func() error {
		_, err := s.Join(t.Context(), "n", []string{"v"})
		if !errors.Is(err, session.ErrStoreUnavailable) {
			t.Fatalf("%v, want ErrStoreUnavailable", err)
		}
		if !strings.Contains(err.Error(), want) {
			return err
		}
		return nil
	})
}

func password(p string) func() (session.Secret, error) {
	return func() (session.Secret, error) { return session.Secret(p), nil }
}

// An ACL user with no more rights than the package asks for, in a database of
// its own, named in options and in a URL; and one with a wrong password.
func TestUserAndDatabase(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--user", "gateway", "on", ">secret", "~bff:*", "-@all",
		"+getrange", "+exists", "+get", "+strlen", "+set", "+del", "+eval", "+evalsha", "+time",
		"+zadd", "+zcard", "+zrange", "+zrem", "+zremrangebyscore", "+zrevrange", "+zscore", "+expire",
		"+ping", "+select", "+client", "+cluster", "+hello", "--requirepass", "another").WithAuth("another")
	o := at(t, server.Address())
	o.Username, o.Password, o.DB = "gateway", password("secret"), 3
	s := open(t, o)
	works(t, s)
	rec := createAll(t, s, 1)[0]
	port := strconv.Itoa(server.Port())
	same := open(t, at(t, "redis://gateway:secret@127.0.0.1:"+port+"/3"))
	if _, err := same.Load(t.Context(), rec.Key); err != nil {
		t.Errorf("by URL: %v", err)
	}
	other := open(t, at(t, "redis://gateway:secret@127.0.0.1:"+port+"/4"))
	if _, err := other.Load(t.Context(), rec.Key); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("in another database: %v", err)
	}
	var log logRecorder
	o.Password, o.Logger = password("not the one"), log.logger()
	wrong := open(t, o)
	unavailableSoon(t, "with a wrong password", func() error { _, err := wrong.Load(t.Context(), rec.Key); return err })
	if err := wrong.Close(); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(log.lines, "")
	if !strings.Contains(said, "WRONGPASS") || strings.Contains(said, "not the one") {
		t.Errorf("logged %q", said)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	// The path of a socket is short; that of a test's directory may not be.
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	redistest.Start(t, "--unixsocket", socket)
	works(t, open(t, at(t, "unix://"+socket+"?db=2")))
}

// Sentinels that have a password of their own, and servers that have another.
func TestSentinelPasswords(t *testing.T) {
	t.Parallel()
	g := redistest.StartGroup(t, 1)
	primary, err := g.Primary()
	if err != nil {
		t.Fatal(err)
	}
	for _, sentinel := range g.Sentinels {
		sentinel.Must("ACL", "SETUSER", "default", "resetpass", ">watch")
	}
	o := at(t, g.Addresses()...)
	o.Sentinel = &redisstore.Sentinel{Master: redistest.MasterName, Password: password("watch")}
	works(t, open(t, o))
	primary.Must("CONFIG", "SET", "requirepass", "keep")
	primary.WithAuth("keep")
	o.Password = password("keep")
	works(t, open(t, alone(o)))
	o.Sentinel = &redisstore.Sentinel{Master: redistest.MasterName, Password: password("not the one")}
	s := open(t, alone(o))
	unavailableSoon(t, "with a wrong password for the sentinels", func() error { _, err := s.Join(t.Context(), "n", []string{"v"}); return err })
}

// What the options say and the server is not.
func TestWrongTopology(t *testing.T) {
	t.Parallel()
	server, another := redistest.Start(t), redistest.Start(t)
	for name, c := range map[string]struct {
		o    redisstore.Options
		want string
	}{
		"a cluster that is none":               {redisstore.Options{Addresses: at(t, server.Address()).Addresses, Cluster: true}, "not a cluster"},
		"several addresses, and not a cluster": {at(t, server.Address(), another.Address()), "name the master"},
		"sentinels that are none": {redisstore.Options{
			Addresses: at(t, server.Address()).Addresses, Sentinel: &redisstore.Sentinel{Master: "m"},
		}, "SENTINEL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuses(t, open(t, c.o), c.want)
		})
	}
}

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.issue("ca", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
	return a
}

// issue writes name.pem and name.key.
func (a *authority) issue(name string, c *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.Subject = pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if c.IsCA {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if c.IsCA {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
		a.key = key
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// HARDENING E111: over TLS, with a client certificate; and a server whose
// certificate is of another authority, or for another name, is not talked to.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	ours.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.example.com"}})
	ours.issue("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	port := strconv.Itoa(redistest.FreePort(t))
	redistest.Start(t, "--tls-port", port, "--tls-auth-clients", "yes", "--tls-ca-cert-file", ours.file("ca.pem"),
		"--tls-cert-file", ours.file("server.pem"), "--tls-key-file", ours.file("server.key"))
	pair, err := tls.LoadX509KeyPair(ours.file("client.pem"), ours.file("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"by address":           {&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{pair}}, ""},
		"by name":              {&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{pair}, ServerName: "redis.example.com"}, ""},
		"another authority's":  {&tls.Config{RootCAs: theirs.pool(), Certificates: []tls.Certificate{pair}}, "unknown authority"},
		"for another name":     {&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{pair}, ServerName: "other.example.com"}, "other.example.com"},
		"without a client's":   {&tls.Config{RootCAs: ours.pool()}, "not connected"}, /* says the server, when it is heard at all */
		"with an old version":  {&tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS11}, "no supported versions"},
		"by the system's only": {nil, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := alone(at(t, "rediss://127.0.0.1:"+port))
			o.TLS = c.config
			s := open(t, o)
			if c.want == "" {
				works(t, s)
				return
			}
			refuses(t, s, c.want)
		})
	}
}

// A server that is busy for a moment does not cost the local copies, and one that
// has none to give is asked again.
func TestTrackingComesBack(t *testing.T) {
	t.Parallel()
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--busy-reply-threshold", "50")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = server.Do("EVAL", "while true do end", "0")
		}()
		redistest.Eventually(t, "the server is busy", func() error {
			if reply, err := server.Do("GET", "x"); err != nil || !strings.HasPrefix(reply, "-BUSY") {
				return fmt.Errorf("it answers %q, %v", reply, err)
			}
			return nil
		})
		var log logRecorder
		o := alone(at(t, server.Address()))
		o.Logger = log.logger()
		s := open(t, o)
		refuses(t, s, "BUSY")
		server.Must("SCRIPT", "KILL")
		<-ended
		redistest.Eventually(t, "it is connected", func() error {
			_, err := s.Join(t.Context(), "n", []string{"v"})
			return err
		})
		if !s.Tracking() {
			t.Errorf("no local copies: %q", log.lines)
		}
	})
	t.Run("not allowed at first", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-client|tracking")
		s := open(t, alone(at(t, server.Address())))
		works(t, s)
		if s.Tracking() {
			t.Fatal("it has local copies")
		}
		if s.Track() {
			t.Fatal("there was nothing more to do")
		}
		server.Must("ACL", "SETUSER", "default", "+client|tracking")
		stop, failed := make(chan struct{}), make(chan error, 1)
		go func() { // whoever works on the old connection meanwhile notices nothing
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				if _, err := s.Find(t.Context(), storetest.NewIndexKey()); err != nil {
					failed <- err
					return
				}
			}
		}()
		if !s.Track() || !s.Tracking() {
			t.Error("no local copies")
		}
		close(stop)
		if err := <-failed; err != nil {
			t.Error(err)
		}
		works(t, s)
	})
}
