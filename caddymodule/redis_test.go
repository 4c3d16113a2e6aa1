// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
	"github.com/caddy-bff/caddy-bff/session"
	"github.com/caddy-bff/caddy-bff/session/storetest"
)

func provisionRedis(t *testing.T, s *RedisStore) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
}

func openRedis(t *testing.T, s *RedisStore) session.Store {
	t.Helper()
	store, err := s.OpenStore(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// What is wrong in JSON is an error that names the option, and no password; a
// server is not asked for it.
func TestRedisStoreConfigErrors(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{}`:                                                                         "needs an address",
		`{"address":[""]}`:                                                           "address",
		`{"address":["redis:0"]}`:                                                    "port",
		`{"address":["redis:6379/2"]}`:                                               "port",
		`{"address":["rediss://r?x=1"]}`:                                             "query",
		`{"address":["redis://u:geheim@r/a"]}`:                                       "number 1 has a database",
		`{"address":["redis://u:geheim@r\n/"]}`:                                      "number 1 is not a URL",
		`{"address":["unix://run/redis"]}`:                                           "absolute path",
		`{"address":["{env.NOT_SET_ANYWHERE}"]}`:                                     "NOT_SET_ANYWHERE",
		`{"address":["r"],"db":-1}`:                                                  "db is -1",
		`{"address":["r"],"db":1,"cluster":true}`:                                    "only database 0",
		`{"address":["r","s"],"db":1}`:                                               "only database 0",
		`{"address":["redis://r/1","redis://s/2"]}`:                                  "differ",
		`{"address":["rediss://r","redis://s"]}`:                                     "differ",
		`{"address":["redis://r/1"],"db":2}`:                                         "different databases",
		`{"address":["r"],"cluster":true,"sentinel":{"master":"m"}}`:                 "exclude",
		`{"address":["r"],"sentinel":{}}`:                                            "name of the master",
		`{"address":["r"],"client_cache":"on"}`:                                      "auto, off",
		`{"address":["r"],"key_prefix":"{a}"}`:                                       "{a}",
		`{"address":["r"],"key_prefix":"a}"}`:                                        "brace",
		`{"address":["r"],"wait":{}}`:                                                "wait is for 0",
		`{"address":["r"],"wait":{"replicas":1,"timeout":11000000000}}`:              "at most 10s",
		`{"address":["r"],"tls":{"cert":"a.pem"}}`:                                   "both cert and key",
		`{"address":["r"],"tls":{"cert":"/not/there","key":"/not/there"}}`:           "/not/there",
		`{"address":["r"],"tls":{"ca":["` + notPEM + `"]}}`:                          "no certificate",
		`{"address":["r"],"tls":{"insecure_skip_verify":true}}`:                      "insecure_skip_verify",
		`{"address":["unix:///r"],"tls":{}}`:                                         "over a socket",
		`{"address":["r"],"password":"{env.NOT_SET_ANYWHERE}"}`:                      "password is empty",
		`{"address":["r"],"sentinel":{"master":"m","password":"{file./not/there}"}}`: "sentinel password is empty",
	} {
		module := strings.Replace(config, "{", `{"store":"redis",`, 1)
		module = strings.Replace(module, `"redis",}`, `"redis"}`, 1)
		err := validate(t, fmt.Sprintf(`{"apps":{"bff":{"store":%s}}}`, module))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
	}
	if err := validate(t, `{"apps":{"bff":{"store":{"store":"redis","address":["127.0.0.1:1"]}}}}`); err != nil {
		t.Errorf("a server that is down is an error of the configuration: %v", err)
	}
}

// The pool prints keys when something is wrong with it.
func TestRedisStorePoolKey(t *testing.T) {
	t.Setenv("BFF_TEST_REDIS_HOST", "redis.example.com")
	make := func(change func(*RedisStore)) string {
		s := &RedisStore{Address: []string{"redis://gateway:geheim@{env.BFF_TEST_REDIS_HOST}"}, Password: "geheimer"}
		change(s)
		provisionRedis(t, s)
		return s.PoolKey()
	}
	base := make(func(*RedisStore) {})
	if again := make(func(s *RedisStore) { s.ClientCache = "auto" }); again != base {
		t.Error("equal configurations have different keys")
	}
	if strings.Contains(base, "geheim") {
		t.Errorf("the key %q has a password in it", base)
	}
	for name, change := range map[string]func(*RedisStore){
		"address":  func(s *RedisStore) { s.Address = []string{"other"} },
		"password": func(s *RedisStore) { s.Password = "x" },
		"db":       func(s *RedisStore) { s.DB = 3 },
		"prefix":   func(s *RedisStore) { s.KeyPrefix = "x:" },
		"wait":     func(s *RedisStore) { s.Wait = &RedisWait{Replicas: 1} },
		"sentinel": func(s *RedisStore) { s.Sentinel = &RedisSentinel{Master: "m"} },
		"cache":    func(s *RedisStore) { s.ClientCache = "off" },
		"tls":      func(s *RedisStore) { s.TLS = &RedisTLS{} },
	} {
		if make(change) == base {
			t.Errorf("a change of %s does not change the key", name)
		}
	}
}

// A password that changed at the server and in its file is used by the next
// connection, without a reload; and one in a file is in no configuration.
func TestRedisStorePasswordFollowsItsFile(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "the first").WithAuth("the first")
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("the first")
	module := &RedisStore{Address: []string{server.Address()}, Password: "{file." + file + "}"}
	provisionRedis(t, module)
	store := openRedis(t, module)
	rec := storetest.NewRecord()
	if err := store.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	server.Must("CONFIG", "SET", "requirepass", "the second")
	server.WithAuth("the second")
	write("the second")
	server.Must("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	redistest.Eventually(t, "the store signs in with the new password", func() error {
		_, err := store.(session.Caching).Fresh(t.Context(), rec.Key)
		return err
	})
}

// CONTRACT section 1: the server may be down when Caddy starts.
func TestRedisStoreOpensWithoutServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	server.Kill()
	module := &RedisStore{Address: []string{server.Address()}, KeyPrefix: "shop:"}
	provisionRedis(t, module)
	store := openRedis(t, module)
	rec := storetest.NewRecord()
	start := time.Now()
	err := store.Create(t.Context(), rec)
	if !errors.Is(err, session.ErrStoreUnavailable) || time.Since(start) > time.Second {
		t.Fatalf("without a server: %v after %s", err, time.Since(start))
	}
	server.Run()
	start = time.Now()
	redistest.Eventually(t, "the store is connected", func() error { return store.Create(t.Context(), rec) })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if keys := server.Must("KEYS", "*"); keys != "shop:s:{"+rec.Key.String()+"}" {
		t.Errorf("the server has %q", keys)
	}
}
