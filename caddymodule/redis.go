// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/redisstore"
)

func init() { caddy.RegisterModule(RedisStore{}) }

const (
	clientCacheAuto = "auto"
	clientCacheOff  = "off"

	maxRedisDB     = 1<<16 - 1
	maxRedisWait   = 10 * time.Second
	maxWaitedForBy = 100 // replicas
)

// RedisStore keeps sessions in Redis, or in a server that speaks its protocol,
// such as Valkey. Several gateway instances can share it, and must then have the
// same `keys`: one that has others takes no logins, and says so in its log. Every
// instance keeps copies of the sessions that it uses, which the server invalidates
// the moment another instance changes one.
//
// A server that is down when Caddy starts is no error: the store connects as
// soon as it can. How durable sessions are is the server's business: set
// `appendonly yes`, and `maxmemory-policy noeviction`, since any other policy
// lets it drop sessions.
type RedisStore struct {
	// Address of the server: `host`, `host:port` (default port: 6379),
	// `redis://[[username]:password@]host[:port][/db]`, `rediss://` for the same
	// over TLS, or `unix:///path[?db=n]`. Of a cluster one or more nodes; with
	// `sentinel` those of the sentinels. Several addresses without `sentinel` are
	// nodes of a cluster. Placeholders are replaced once, at load. Required.
	Address []string `json:"address,omitempty"`
	// Username is the ACL user. Default: the server's default user.
	Username string `json:"username,omitempty"`
	// Password is {env.X} or {file.path}, and read again for every new
	// connection. Default: none.
	Password string `json:"password,omitempty"`
	// DB is the number of the database. A cluster has only 0. Default: 0.
	DB int `json:"db,omitempty"`
	// TLS talks TLS 1.2 or newer, also to an address that does not say rediss,
	// and to sentinels. Default: only to rediss addresses, with the system's
	// roots.
	TLS *RedisTLS `json:"tls,omitempty"`
	// Sentinel finds the server by asking sentinels. Default: not.
	Sentinel *RedisSentinel `json:"sentinel,omitempty"`
	// Cluster says that the server must be a cluster. Default: as found.
	Cluster bool `json:"cluster,omitempty"`
	// KeyPrefix begins the name of every key. Default: `bff:`.
	KeyPrefix string `json:"key_prefix,omitempty"`
	// ClientCache is `auto`, local copies where the server supports them (RESP3,
	// CLIENT TRACKING), or `off`, a read from the server with every request.
	// Default: auto.
	ClientCache string `json:"client_cache,omitempty"`
	// Wait has replicas acknowledge every write. Default: not; then a failover
	// may lose the last writes.
	Wait *RedisWait `json:"wait,omitempty"`

	options redisstore.Options
	sum     [sha256.Size]byte // of what was read from files
}

// RedisTLS is how to talk TLS. The server's certificate is always verified.
type RedisTLS struct {
	// CA are PEM files with the roots to trust, instead of the system's.
	CA []string `json:"ca,omitempty"`
	// Cert and Key are PEM files of a client certificate, read again for every
	// new connection. Default: none.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
	// ServerName is the name that the server's certificate has to be for.
	// Default: the host of the address; set it where sentinels or a cluster tell
	// of addresses that no certificate names.
	ServerName string `json:"server_name,omitempty"`
}

// RedisSentinel says how to find the primary.
type RedisSentinel struct {
	// Master is the name under which the sentinels know it. Required.
	Master string `json:"master,omitempty"`
	// Username and Password sign in to the sentinels themselves. Default: none.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// RedisWait is how a write counts.
type RedisWait struct {
	// Replicas that must have it, 1 or more.
	Replicas int64 `json:"replicas,omitempty"`
	// Timeout bounds the wait. A write that is not acknowledged within it fails,
	// although it may last. Default: 500ms; at most 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (RedisStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "bff.stores.redis", New: func() caddy.Module { return new(RedisStore) }}
}

// Provision checks the configuration and reads the files that it names. It
// connects to nothing.
func (s *RedisStore) Provision(ctx caddy.Context) error {
	setDefault(&s.ClientCache, clientCacheAuto)
	repl := caddy.NewReplacer()
	values := []*string{&s.Username, &s.KeyPrefix}
	for i := range s.Address {
		values = append(values, &s.Address[i])
	}
	if s.Sentinel != nil {
		values = append(values, &s.Sentinel.Master, &s.Sentinel.Username)
	}
	if s.TLS != nil {
		values = append(values, &s.TLS.Cert, &s.TLS.Key, &s.TLS.ServerName)
		for i := range s.TLS.CA {
			values = append(values, &s.TLS.CA[i])
		}
	}
	for _, v := range values {
		out, err := repl.ReplaceOrErr(*v, true, true)
		if err != nil {
			return err
		}
		*v = out
	}
	if err := s.check(); err != nil {
		return err
	}
	return s.provision(ctx.Slogger())
}

// provision makes the options of the store.
func (s *RedisStore) provision(logger *slog.Logger) error {
	o := redisstore.Options{
		Username: s.Username, DB: s.DB, Cluster: s.Cluster, KeyPrefix: s.KeyPrefix, NoClientCache: s.ClientCache == clientCacheOff,
	}
	literal := false
	for i, text := range s.Address {
		a, err := parseRedisAddress(i, text)
		if err != nil {
			return err
		}
		literal = literal || a.Password != ""
		o.Addresses = append(o.Addresses, a)
	}
	if s.Password != "" {
		secret, err := newConfigSecret("password", s.Password)
		if err != nil {
			return err
		}
		literal = literal || secret.literal()
		o.Password = secret.value
	}
	if s.Sentinel != nil {
		o.Sentinel = &redisstore.Sentinel{Master: s.Sentinel.Master, Username: s.Sentinel.Username}
		if s.Sentinel.Password != "" {
			secret, err := newConfigSecret("sentinel password", s.Sentinel.Password)
			if err != nil {
				return err
			}
			literal = literal || secret.literal()
			o.Sentinel.Password = secret.value
		}
	}
	if literal {
		logger.Warn("a password of the session store stands in the configuration; use password with {env.X} or {file.path}")
	}
	if s.Wait != nil {
		o.WaitReplicas, o.WaitTimeout = int(s.Wait.Replicas), time.Duration(s.Wait.Timeout)
	}
	if s.TLS != nil {
		config, err := s.TLS.config()
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		if len(s.TLS.CA) > 0 {
			if _, s.sum, err = readRoots(s.TLS.CA); err != nil {
				return fmt.Errorf("tls ca: %w", err)
			}
		}
		o.TLS = config
	}
	if err := o.Check(); err != nil {
		return fmt.Errorf("store redis: %w", err)
	}
	s.options = o
	return nil
}

// config reads the roots, and finds out whether there is a client certificate.
func (t *RedisTLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if len(t.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		for _, name := range t.CA {
			pem, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			if !c.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s: no certificate in it", name)
			}
		}
	}
	if t.Cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, nil
}

// check says what the values of options have to be. The Caddyfile adapter calls
// it, knowing the line, and Provision does. What holds a placeholder is checked
// when that is replaced.
func (s *RedisStore) check() error {
	if len(s.Address) == 0 {
		return wrong("", "store redis needs an address")
	}
	for i, a := range s.Address {
		if strings.Contains(a, "{") {
			continue
		}
		if _, err := parseRedisAddress(i, a); err != nil {
			return err
		}
	}
	if s.ClientCache != "" {
		if err := oneOf("client_cache", s.ClientCache, clientCacheAuto, clientCacheOff); err != nil {
			return err
		}
	}
	if s.Password != "" {
		if err := checkSecretText("password", s.Password); err != nil {
			return err
		}
	}
	switch {
	case s.DB < 0 || s.DB > maxRedisDB:
		return wrong("db", "db is %d, should be a number from 0 to %d", s.DB, maxRedisDB)
	case s.DB != 0 && s.Cluster:
		return wrong("db", "db is %d: a cluster has only database 0", s.DB)
	case s.Cluster && s.Sentinel != nil:
		return wrong("cluster", "cluster and sentinel exclude each other")
	case strings.ContainsAny(s.KeyPrefix, "{}") && !strings.Contains(s.KeyPrefix, "{env."):
		return wrong("key_prefix", "key_prefix has a brace in it, which decides where in a cluster a key is")
	case s.Sentinel != nil && s.Sentinel.Master == "":
		return wrong("sentinel", "sentinel needs the name of the master")
	case s.TLS != nil && (s.TLS.Cert == "") != (s.TLS.Key == ""):
		return wrong("tls", "tls needs both cert and key, or neither")
	}
	if w := s.Wait; w != nil {
		if w.Replicas < 1 || w.Replicas > maxWaitedForBy {
			return wrong("wait", "wait is for %d replicas, should be from 1 to %d", w.Replicas, maxWaitedForBy)
		}
		if t := time.Duration(w.Timeout); t < 0 || t > maxRedisWait {
			return wrong("wait", "wait has a timeout of %s, should be at most %s", t, maxRedisWait)
		}
	}
	return nil
}

// parseRedisAddress reads one of the addresses, counted from 0. An error repeats
// it only where no password can be in it.
func parseRedisAddress(i int, text string) (redisstore.Address, error) {
	a, err := redisstore.ParseAddress(text)
	if err != nil {
		name := fmt.Sprintf("number %d", i+1)
		if !strings.Contains(text, "@") {
			name = strconv.Quote(text)
		}
		return a, wrong("address", "address %s %w", name, err)
	}
	return a, nil
}

// PoolKey implements [StoreModule]: a digest, since passwords may be in it.
func (s *RedisStore) PoolKey() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and booleans
	}
	sum := sha256.Sum256(append(b, s.sum[:]...))
	return hex.EncodeToString(sum[:])
}

// OpenStore implements [StoreModule].
func (s *RedisStore) OpenStore(_ context.Context, logger *slog.Logger) (session.Store, error) {
	o := s.options
	o.Logger = logger
	store, err := redisstore.Open(o)
	if err != nil {
		return nil, err // and not a nil *redisstore.Store in an interface
	}
	return store, nil
}

// Interface guards.
var (
	_ StoreModule           = (*RedisStore)(nil)
	_ caddy.Provisioner     = (*RedisStore)(nil)
	_ caddyfile.Unmarshaler = (*RedisStore)(nil)
)
