// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	const value = "canary"
	s := Secret(value)
	type holder struct {
		S Secret
		P *Secret
		M map[string]Secret
	}
	h := holder{S: s, P: &s, M: map[string]Secret{"m": s}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%T", "%10.3s", "%U"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", h)
		fmt.Fprintf(&out, verb+"\n", []Secret{s})
	}
	out.WriteString(s.String() + s.GoString() + s.LogValue().String())
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "secret", s, "holder", h)
	for _, shape := range []string{value, "63616e617279", "63616E617279", "99 97", "can"} {
		if strings.Contains(out.String(), shape) {
			t.Errorf("%q found in:\n%s", shape, out.String())
		}
	}
	if s.Reveal() != value {
		t.Error("Reveal")
	}
}

func TestRandomValuesDiffer(t *testing.T) { // AR-01, AR-03, AR-04
	t.Parallel()
	seen := map[Secret]bool{}
	for range 1000 {
		for _, s := range []Secret{NewState(), NewNonce(), NewCodeVerifier()} {
			if seen[s] || !codeVerifier(s.Reveal()) {
				t.Fatalf("repeated or malformed value of %d characters", len(s))
			}
			seen[s] = true
		}
	}
}
