// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// keyFile writes a key file and returns its path.
func keyFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	writeFile(t, path, content)
	return path
}

func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newSigningKey(t testing.TB, cfg SigningKeyConfig) *SigningKey {
	t.Helper()
	k, err := NewSigningKey(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// header signs something and returns the header.
func (k *SigningKey) headerOf(t testing.TB) map[string]any {
	t.Helper()
	token, err := k.sign("JWT", map[string]any{"a": 1})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token.Reveal(), ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header map[string]any
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	return header
}

// kids returns the key IDs of the published keys.
func (k *SigningKey) kids(t testing.TB) (kids []string) {
	t.Helper()
	for _, raw := range k.PublicKeys() {
		var jwk map[string]any
		if err := json.Unmarshal(raw, &jwk); err != nil {
			t.Fatal(err)
		}
		kids = append(kids, jwk["kid"].(string))
	}
	return kids
}

func keySetOf(keys []json.RawMessage) []byte {
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return data
}

// RFC 7638 section 3.1 has a key and its thumbprint.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	jwk, thumbprint, err := publicJWK(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	if err != nil || thumbprint != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" || jwk["kty"] != "RSA" || jwk["e"] != "AQAB" {
		t.Errorf("%v %q %v", jwk, thumbprint, err)
	}
}

// CA-07: every kind of key in every form signs with its algorithm, and what it
// publishes verifies that and holds nothing private (CA-09).
func TestSigningKeyFormsAndAlgorithms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ alg, asked, want string }{
		{"RS256", "", "RS256"}, {"RS256", "PS256", "PS256"}, {"RS256", "RS384", "RS384"}, {"RS256", "RS512", "RS512"}, {"RS256", "PS384", "PS384"}, {"RS256", "PS512", "PS512"},
		{"ES256", "", "ES256"}, {"ES384", "", "ES384"}, {"ES512", "", "ES512"}, {"ES512", "ES512", "ES512"}, {"EdDSA", "", "EdDSA"}, {"EdDSA", "EdDSA", "EdDSA"},
	} {
		key := astest.NewKey(tt.alg, "")
		for form, content := range key.Files() {
			k, err := NewSigningKey(SigningKeyConfig{File: keyFile(t, content), Alg: tt.asked})
			if err != nil {
				t.Errorf("%s as %s: %v", tt.alg, form, err)
				continue
			}
			_, thumbprint, _ := publicJWK(key.Private.Public())
			header := k.headerOf(t)
			if header["alg"] != tt.want || header["kid"] != thumbprint || header["typ"] != "JWT" || len(header) != 3 || k.algorithm() != tt.want {
				t.Errorf("%s as %s: header %v", tt.alg, form, header)
			}
			if err := astest.CheckSignature(keySetOf(k.PublicKeys()), mustSign(t, k)); err != nil {
				t.Errorf("%s as %s: %v", tt.alg, form, err)
			}
		}
	}
}

func mustSign(t testing.TB, k *SigningKey) string {
	t.Helper()
	token, err := k.sign("JWT", map[string]any{"a": 1})
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

func TestSigningKeyID(t *testing.T) {
	t.Parallel()
	first, second := astest.NewKey("ES256", "one"), astest.NewKey("RS256", "two")
	set := astest.PrivateKeySet(first, second)
	pem := first.Files()["PKCS#8"]
	for name, tt := range map[string]struct {
		content  []byte
		id, want string
		err      string
		kids     int
	}{
		"first of a set":          {content: set, want: "one", kids: 2},
		"chosen of a set":         {content: set, id: "two", want: "two", kids: 2},
		"not in the set":          {content: set, id: "three", err: `no key has the key ID "three"`},
		"PEM, named":              {content: pem, id: "my key", want: "my key", kids: 1},
		"PEM, two keys":           {content: append(slices.Clone(pem), second.Files()["PKCS#1"]...), id: "named", want: "named", kids: 2},
		"the same key twice":      {content: append(slices.Clone(pem), pem...), err: "two keys have the key ID"},
		"ID that no header takes": {content: pem, id: "schlüssel", err: "printable ASCII"},
	} {
		k, err := NewSigningKey(SigningKeyConfig{File: keyFile(t, tt.content), KeyID: tt.id})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", name, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := k.headerOf(t)["kid"]; got != tt.want || len(k.kids(t)) != tt.kids || !slices.Contains(k.kids(t), tt.want) {
			t.Errorf("%s: kid %v, published %v", name, got, k.kids(t))
		}
		if err := astest.CheckSignature(keySetOf(k.PublicKeys()), mustSign(t, k)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A certificate beside the key in a PEM file is named in the header (RFC 7515
// section 4.1.8): some servers know the key by nothing else.
func TestSigningKeyCertificate(t *testing.T) {
	t.Parallel()
	c, other := astest.SelfSigned("client"), astest.SelfSigned("other")
	certificate, key := c.PEM()
	foreign, _ := other.PEM()
	k := newSigningKey(t, SigningKeyConfig{File: keyFile(t, append(append(foreign, key...), certificate...))})
	if got := k.headerOf(t)["x5t#S256"]; got != c.Thumbprint() {
		t.Errorf("x5t#S256 is %v, want %s", got, c.Thumbprint())
	}
	k = newSigningKey(t, SigningKeyConfig{File: keyFile(t, append(foreign, key...))})
	if got, there := k.headerOf(t)["x5t#S256"]; there {
		t.Errorf("x5t#S256 of a certificate of another key: %v", got)
	}
}

// logged collects what is logged, for tests that count.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// CA-09, CA-10: a new file is used by itself, the old public key is shown for an
// hour more, and a file that is broken for a while changes nothing and is
// complained about once.
func TestSigningKeyFileChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second, third := astest.NewKey("ES256", "one"), astest.NewKey("EdDSA", "two"), astest.NewKey("RS256", "three")
		path := keyFile(t, astest.PrivateKeySet(first))
		var log logged
		k := newSigningKey(t, SigningKeyConfig{File: path, Logger: log.logger()})
		old := mustSign(t, k)

		for round, broken := range [][]byte{astest.PrivateKeySet(second)[:50], []byte("-----BEGIN PRIVATE KEY-----\nMIGH"), {}} {
			writeFile(t, path, broken)
			for range 5 {
				time.Sleep(2 * watchInterval)
				if kid := k.headerOf(t)["kid"]; kid != "one" {
					t.Fatalf("round %d: kid %v", round, kid)
				}
			}
			if n := log.count("stays in use"); n != round+1 {
				t.Errorf("round %d: %d lines", round, n)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * watchInterval)
		if kid := k.headerOf(t)["kid"]; kid != "one" || log.count("stays in use") != 3 {
			t.Errorf("without a file: kid %v, log %s", kid, log.text.String())
		}

		// A new key is shown at once, and used when everybody knows it.
		writeFile(t, path, astest.PrivateKeySet(second))
		time.Sleep(watchInterval)
		if kids := k.kids(t); !slices.Equal(kids, []string{"two", "one"}) {
			t.Errorf("published: %v", kids)
		}
		time.Sleep(2*time.Minute - time.Second)
		if kid := k.headerOf(t)["kid"]; kid != "one" || log.count("has changed\" file") != 1 || k.algorithm() != "ES256" {
			t.Errorf("kid %v, log %s", kid, log.text.String())
		}
		time.Sleep(time.Second)
		if kid := k.headerOf(t)["kid"]; kid != "two" || log.count("has changed\" file") != 1 || k.algorithm() != "EdDSA" {
			t.Errorf("kid %v, log %s", kid, log.text.String())
		}
		if kids := k.kids(t); !slices.Equal(kids, []string{"two", "one"}) {
			t.Errorf("published: %v", kids)
		}
		if err := astest.CheckSignature(keySetOf(k.PublicKeys()), old); err != nil {
			t.Errorf("what the old key signed: %v", err)
		}
		time.Sleep(time.Hour/2 - 2*time.Minute)
		writeFile(t, path, astest.PrivateKeySet(third))
		time.Sleep(time.Hour/2 - time.Second)
		if kids := k.kids(t); !slices.Equal(kids, []string{"three", "two", "one"}) {
			t.Errorf("published: %v", kids)
		}
		time.Sleep(2 * time.Second)
		if kids := k.kids(t); !slices.Equal(kids, []string{"three", "two"}) {
			t.Errorf("published after an hour: %v", kids)
		}
		// The key before comes back, which everybody knows.
		k.headerOf(t)
		writeFile(t, path, astest.PrivateKeySet(second))
		time.Sleep(2 * time.Second)
		if kids := k.kids(t); !slices.Equal(kids, []string{"two", "three"}) {
			t.Errorf("published: %v", kids)
		}
		if kid := k.headerOf(t)["kid"]; kid != "two" {
			t.Errorf("kid %v", kid)
		}
		// Another key under the same ID: no two of one set share it, so that it is
		// used at once.
		again := *astest.NewKey("ES256", "two")
		writeFile(t, path, astest.PrivateKeySet(&again))
		time.Sleep(2 * time.Second)
		if kids := k.kids(t); !slices.Equal(kids, []string{"two", "three"}) {
			t.Errorf("published: %v", kids)
		}
		if err := astest.CheckSignature(keySetOf(k.PublicKeys()), mustSign(t, k)); err != nil {
			t.Error(err)
		}
	})
}

// Signing, publishing and a file that keeps changing, all at once.
func TestSigningKeyConcurrency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys := []*astest.Key{astest.NewKey("ES256", "one"), astest.NewKey("EdDSA", "two")}
		path := keyFile(t, astest.PrivateKeySet(keys[0]))
		k := newSigningKey(t, SigningKeyConfig{File: path})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					token := mustSign(t, k)
					if err := astest.CheckSignature(keySetOf(k.PublicKeys()), token); err != nil {
						t.Error(err)
					}
					time.Sleep(watchInterval / 3)
				}
			})
		}
		for i := range 10 {
			time.Sleep(watchInterval)
			next := path + ".next"
			writeFile(t, next, astest.PrivateKeySet(keys[i%2]))
			if err := os.Rename(next, path); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
	})
}

// A key that was in the file behind the one in use is known already, and a key
// that is refused is not used any longer.
func TestSigningKeyIsUsedAtOnceWhereItCan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second, third := astest.NewKey("ES256", "one"), astest.NewKey("ES256", "two"), astest.NewKey("ES256", "three")
		path := keyFile(t, astest.PrivateKeySet(first))
		k := newSigningKey(t, SigningKeyConfig{File: path})
		change := func(keys ...*astest.Key) {
			writeFile(t, path, astest.PrivateKeySet(keys...))
			time.Sleep(watchInterval)
		}
		change(first, second)
		if kid := k.headerOf(t)["kid"]; kid != "one" || !slices.Equal(k.kids(t), []string{"one", "two"}) {
			t.Errorf("kid %v, published %v", kid, k.kids(t))
		}
		time.Sleep(2 * time.Minute)
		change(second, first)
		if kid := k.headerOf(t)["kid"]; kid != "two" {
			t.Errorf("kid %v of a key that was published for long", kid)
		}
		// Not for long: it waits for the rest of the time.
		change(second, third)
		k.kids(t)
		time.Sleep(time.Minute)
		change(third)
		k.kids(t)
		time.Sleep(time.Minute - 3*time.Second)
		if kid := k.headerOf(t)["kid"]; kid != "two" {
			t.Errorf("kid %v", kid)
		}
		time.Sleep(3 * time.Second)
		if kid := k.headerOf(t)["kid"]; kid != "three" {
			t.Errorf("kid %v", kid)
		}

		// A server to which only the newest key is known.
		fourth := astest.NewKey("ES256", "four")
		as := astest.New(astest.Options{AuthMethod: "private_key_jwt", ClientKeys: func() []byte {
			return keySetOf([]json.RawMessage{mustMarshal(fourth.JWK())})
		}})
		c := newClient(t, as, func(cfg *Config) { cfg.AuthMethod, cfg.ClientSecret, cfg.SigningKey = AuthPrivateKeyJWT, nil, k })
		change(fourth)
		refresh := RefreshRequest{RefreshToken: Secret(as.Issue("alice", "openid", "").RefreshToken)}
		if _, err := c.Refresh(t.Context(), refresh); ClassOf(err) != ClassConfiguration {
			t.Errorf("with the old key: %v", err)
		}
		if _, err := c.Refresh(t.Context(), refresh); err != nil {
			t.Errorf("with the new key: %v %s", err, lastAuthError(as))
		}
		if n := as.Count(astest.Token); n != 2 {
			t.Errorf("%d requests: one was repeated", n)
		}
	})
}

func mustMarshal(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
