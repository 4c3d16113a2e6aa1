// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func newKey(t testing.TB) *DPoPKey {
	t.Helper()
	key, err := NewDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// DP-07: the key is the same one again wherever it is read.
func TestDPoPKeyIsKept(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	secret, err := key.Secret()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseDPoPKey(secret)
	if err != nil || again.Thumbprint() != key.Thumbprint() || !again.private.Equal(key.private) {
		t.Errorf("it comes back as another one: %v", err)
	}
	if other := newKey(t); other.Thumbprint() == key.Thumbprint() || len(key.Thumbprint()) != 43 || len(secret) != 43 {
		t.Error("keys are the same, or not of the usual length")
	}
	for name, bad := range map[string]Secret{
		"empty": "", "no base64": "!", "short": "AAAA", "zero": Secret(base64.RawURLEncoding.EncodeToString(make([]byte, 32))),
		"too large": Secret(base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{255}, 32))), "redacted": redacted,
	} {
		if _, err := ParseDPoPKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad.Reveal()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDPoPKeyPrintsNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	data, err := json.Marshal(map[string]any{"key": key, "in": struct{ K *DPoPKey }{key}})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "key", key)
	d := key.private.D.String()
	for _, text := range []string{
		fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %d %x %s", key, key, key, key, key, key), string(data), log.String(),
		fmt.Sprintf("%v %+v", []*DPoPKey{key}, map[string]*DPoPKey{"k": key}),
	} {
		if !strings.Contains(text, redacted) || strings.Contains(text, key.thumbprint) || strings.Contains(text, d) {
			t.Errorf("printed: %s", text)
		}
	}
}
