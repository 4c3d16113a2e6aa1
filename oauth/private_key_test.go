// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// JW-12, CA-07: what is no good signing key is refused, and no error says
// anything of what is in the file.
func TestUnusablePrivateKeys(t *testing.T) {
	t.Parallel()
	block := func(typ string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	// Not from GenerateKey, which makes none so weak.
	p, _ := rand.Prime(rand.Reader, 512)
	q, _ := rand.Prime(rand.Reader, 512)
	weak := astest.RSAFromPrimes(p, q)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224DER, err := x509.MarshalPKCS8PrivateKey(p224)
	if err != nil {
		t.Fatal(err)
	}
	good := astest.NewKey("ES256", "good")
	jwk := func(change func(map[string]any)) []byte {
		m := good.PrivateJWK()
		change(m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	other := astest.NewKey("ES256", "").PrivateJWK()
	public, err := x509.MarshalPKIXPublicKey(good.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}, Bytes: []byte("canary")})
	many := bytes.Buffer{}
	for range maxPrivateKeys + 1 {
		many.Write(astest.NewKey("ES256", "").Files()["PKCS#8"])
	}
	for name, tt := range map[string]struct {
		content []byte
		alg     string
		want    string
	}{
		"RSA of 1024 bits, PKCS#1": {content: block("RSA PRIVATE KEY", weak), want: "RSA of 102"},
		"P-224":                    {content: block("PRIVATE KEY", p224DER), want: "no algorithm for this kind"},
		"encrypted PKCS#8":         {content: block("ENCRYPTED PRIVATE KEY", []byte("canary")), want: "is encrypted"},
		"encrypted SEC 1":          {content: encrypted, want: "is encrypted"},
		"nonsense in PEM":          {content: block("PRIVATE KEY", []byte("canary")), want: "unusable key"},
		"public key in PEM":        {content: block("PUBLIC KEY", public), want: "no private key"},
		"cut off":                  {content: good.Files()["PKCS#8"][:100], want: "cut off"},
		"second one cut off":       {content: append(slices.Clone(good.Files()["PKCS#8"]), good.Files()["SEC 1"][:60]...), want: "cut off"},
		"text":                     {content: []byte("canary"), want: "no private key"},
		"too many":                 {content: many.Bytes(), want: "more than 10"},
		"too large":                {content: bytes.Repeat([]byte("x"), maxWatchedFile+1), want: "too large"},
		"empty":                    {content: nil, want: "empty"},
		"JSON, cut off":            {content: jwk(func(map[string]any) {})[:40], want: "not a JSON object"},
		"no JWK":                   {content: []byte(`{"canary":1}`), want: "it is a public key"},
		"public JWK":               {content: jwk(func(m map[string]any) { delete(m, "d") }), want: "it is a public key"},
		"symmetric JWK":            {content: []byte(`{"kty":"oct","k":"Y2FuYXJ5","d":"x"}`), want: "symmetric"},
		"JWK for encryption":       {content: jwk(func(m map[string]any) { m["use"] = "enc" }), want: "no private key"},
		"JWK for verification":     {content: jwk(func(m map[string]any) { m["key_ops"] = []string{"verify"} }), want: "no private key"},
		"JWK with d of another":    {content: jwk(func(m map[string]any) { m["d"] = other["d"] }), want: "unusable key|do not belong together"},
		"JWK with x of another":    {content: jwk(func(m map[string]any) { m["x"] = other["x"] }), want: "unusable key|do not belong together"},
		"JWK with alg none":        {content: jwk(func(m map[string]any) { m["alg"] = "none" }), want: `alg "none"`},
		"JWK with alg HS256":       {content: jwk(func(m map[string]any) { m["alg"] = "HS256" }), want: `alg "HS256"`},
		"JWK with alg of RSA":      {content: jwk(func(m map[string]any) { m["alg"] = "RS256" }), want: "not of the kind that alg RS256 takes"},
		"JWK with kid twice":       {content: bytes.Replace(jwk(func(map[string]any) {}), []byte(`"kid"`), []byte(`"kid":"x","kid"`), 1), want: "duplicate member"},
		"JWK with kid a number":    {content: jwk(func(m map[string]any) { m["kid"] = 7 }), want: "kid is not a string"},
		"JWK with kid of others":   {content: jwk(func(m map[string]any) { m["kid"] = "ü" }), want: "printable ASCII"},
		"set without array":        {content: []byte(`{"keys":{}}`), want: "not an array"},
		"set without keys":         {content: []byte(`{"keys":[]}`), want: "no private key"},
		"set of nothing":           {content: []byte(`{"keys":[1]}`), want: "number 1 is not an object"},
		"asked for none":           {content: good.Files()["PKCS#8"], alg: "none", want: `alg "none"`},
		"asked for HS256":          {content: good.Files()["PKCS#8"], alg: "HS256", want: `alg "HS256"`},
		"asked for RSA":            {content: good.Files()["PKCS#8"], alg: "PS256", want: "not of the kind that alg PS256 takes"},
		"asked for other curve":    {content: good.Files()["PKCS#8"], alg: "ES384", want: "not of the kind that alg ES384 takes"},
	} {
		_, err := NewSigningKey(SigningKeyConfig{File: keyFile(t, tt.content), Alg: tt.alg})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if !slices.ContainsFunc(strings.Split(tt.want, "|"), func(want string) bool { return strings.Contains(err.Error(), want) }) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		d, _ := good.PrivateJWK()["d"].(string)
		if text := err.Error(); strings.Contains(text, "canary") || strings.Contains(text, "Y2FuYXJ5") || strings.Contains(text, d) {
			t.Errorf("%s: the error quotes the file: %v", name, err)
		}
	}
	if _, err := NewSigningKey(SigningKeyConfig{File: "/nowhere/key.pem"}); err == nil || !strings.Contains(err.Error(), "/nowhere/key.pem") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// Whatever stands in a key file, reading it ends, and what is accepted can sign.
func FuzzPrivateKeys(f *testing.F) {
	for _, alg := range []string{"ES256", "EdDSA"} {
		for _, content := range astest.NewKey(alg, "k").Files() {
			f.Add(content)
		}
	}
	f.Add(astest.PrivateKeySet(astest.NewKey("ES256", "a"), astest.NewKey("EdDSA", "b")))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parsePrivateKeys(data)
		if err != nil {
			return
		}
		for _, k := range list {
			p, err := k.publish("")
			if err != nil || bytes.Contains(p.jwk, []byte(`"d":`)) {
				t.Fatalf("%s %v", p.jwk, err)
			}
		}
	})
}
