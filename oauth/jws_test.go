// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// TestForgedTokens is the table of HARDENING.md C1 with SPEC.md K (JW-04, JW-06,
// JW-07, JW-09): each of these is refused in every slot, without a call to anywhere
// else.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{Algorithm: "RS256"})
	key := as.SigningKey()
	evil := astest.NewKey("RS256", key.ID)
	c := newClient(t, as)
	good := accessToken(as, key).Reveal()
	if err := accepts(c, Secret(good)); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	header := func(change map[string]any) map[string]any {
		h := key.Header("at+jwt")
		maps.Copy(h, change)
		return h
	}
	claims := map[string]any{
		"iss": as.Issuer(), "sub": "alice", "aud": "app", "client_id": "app", "jti": "1", "nonce": "n",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	der, err := x509.MarshalPKIXPublicKey(key.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	unsigned := func(alg any) string {
		return b64(`{"alg":"`+alg.(string)+`","typ":"at+jwt"}`) + "." + parts[1] + "."
	}
	flattened := `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`
	general := `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"},{"protected":"` + parts[0] + `","signature":"AAAA"}]}`
	zeroInput := b64(`{"alg":"ES256","typ":"at+jwt"}`) + "." + parts[1]
	attacks := map[string]string{
		"alg none":                      unsigned("none"),
		"alg None":                      unsigned("None"),
		"alg nOnE":                      unsigned("nOnE"),
		"alg none with a signature":     unsigned("none") + parts[2],
		"alg missing":                   b64(`{"typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2],
		"alg null":                      b64(`{"alg":null}`) + "." + parts[1] + "." + parts[2],
		"alg array":                     b64(`{"alg":["RS256"]}`) + "." + parts[1] + "." + parts[2],
		"alg rs256":                     key.Sign(header(map[string]any{"alg": "rs256"}), claims),
		"HS256 with the public key PEM": astest.SignHMAC(public, header(map[string]any{"alg": "HS256"}), claims),
		"HS256 with the public key DER": astest.SignHMAC(der, header(map[string]any{"alg": "HS256"}), claims),
		"another alg than signed":       key.Sign(header(map[string]any{"alg": "PS256"}), claims),
		"RS512 header, RS256 signature": key.Sign(header(map[string]any{"alg": "RS512"}), claims),
		"foreign key, same kid":         evil.Sign(header(nil), claims),
		"foreign key, no kid":           evil.Sign(map[string]any{"alg": "RS256", "typ": "at+jwt"}, claims),
		"jwk embedded":                  evil.Sign(header(map[string]any{"jwk": evil.JWK()}), claims),
		"jwk embedded, genuine":         key.Sign(header(map[string]any{"jwk": key.JWK()}), claims),
		"jku":                           evil.Sign(header(map[string]any{"jku": as.Issuer() + "/evil", "kid": "evil"}), claims),
		"x5u":                           evil.Sign(header(map[string]any{"x5u": as.Issuer() + "/evil", "kid": "evil"}), claims),
		"x5c":                           evil.Sign(header(map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}), claims),
		"crit unknown":                  key.Sign(header(map[string]any{"crit": []string{"x"}, "x": 1}), claims),
		"crit empty":                    key.Sign(header(map[string]any{"crit": []string{}}), claims),
		"b64 false":                     key.Sign(header(map[string]any{"b64": false, "crit": []string{"b64"}}), claims),
		"b64 without crit":              key.Sign(header(map[string]any{"b64": true}), claims),
		"zip":                           key.Sign(header(map[string]any{"zip": "DEF"}), claims),
		"kid is a path":                 evil.Sign(header(map[string]any{"kid": "../../x"}), claims),
		"kid is SQL":                    evil.Sign(header(map[string]any{"kid": "' OR 1=1--"}), claims),
		"kid of 64 KiB":                 key.Sign(header(map[string]any{"kid": strings.Repeat("k", 64<<10)}), claims),
		"kid of 2 KiB":                  key.Sign(header(map[string]any{"kid": strings.Repeat("k", 2<<10)}), claims),
		"kid is a number":               key.Sign(header(map[string]any{"kid": 7}), claims),
		"duplicate alg":                 key.SignRaw([]byte(`{"alg":"RS256","alg":"RS256","typ":"at+jwt"}`), []byte(`{}`)),
		"duplicate sub": key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`),
			[]byte(strings.TrimSuffix(decoded(t, parts[1]), "}")+`,"sub":"mallory"}`)),
		"duplicate member deep inside": key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`),
			[]byte(strings.TrimSuffix(decoded(t, parts[1]), "}")+`,"x":{"a":1,"a":2}}`)),
		"nested 10000 deep": key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`),
			[]byte(`{"x":`+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)+`}`)),
		"payload of 1 MB":                 key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`), []byte(`{"x":"`+strings.Repeat("x", 1<<20)+`"}`)),
		"payload no object":               key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`), []byte(`"alice"`)),
		"payload not UTF-8":               key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`), []byte("{\"sub\":\"\xff\"}")),
		"payload with a tail":             key.SignRaw([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`), []byte(decoded(t, parts[1])+"{}")),
		"flattened JSON":                  flattened,
		"general JSON":                    general,
		"padding":                         good + "=",
		"white space before":              " " + good,
		"line break after":                good + "\n",
		"line break inside":               parts[0] + "." + parts[1][:4] + "\n" + parts[1][4:] + "." + parts[2],
		"four segments":                   good + ".AAAA",
		"two segments":                    parts[0] + "." + parts[1],
		"embedded JWE":                    b64(`{"alg":"RSA-OAEP","enc":"A256GCM"}`) + ".AAAA.AAAA.AAAA.AAAA",
		"JWE header, JWS shape":           b64(`{"alg":"RS256","enc":"A256GCM"}`) + "." + parts[1] + "." + parts[2],
		"standard base64":                 parts[0] + "." + parts[1] + ".+/8A",
		"signature of zeros":              parts[0] + "." + parts[1] + "." + b64(string(make([]byte, 256))),
		"ECDSA zeros, RSA key":            zeroInput + "." + b64(string(make([]byte, 64))),
		"other spelling by trailing bits": good[:len(good)-1] + string(good[len(good)-1]+1),
		"signature cut":                   good[:len(good)-4],
		"signature empty":                 parts[0] + "." + parts[1] + ".",
		"claims of another token":         parts[0] + "." + b64(`{"sub":"mallory"}`) + "." + parts[2],
		"10 MB":                           strings.Repeat("A", 10<<20),
		"only dots":                       "..",
		"empty":                           "",
	}
	for name, token := range attacks {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if v, err := c.CheckAccessToken(t.Context(), Secret(token), ValidateJWT); !errors.Is(err, ErrAccessToken) {
				t.Errorf("as access token: %+v %v", v, err)
			}
			if v, err := c.CheckAccessToken(t.Context(), Secret(token), ValidateAuto); err == nil && v.JWT {
				t.Errorf("as access token in mode auto: %+v", v)
			}
			if id, err := c.VerifyIDToken(t.Context(), Secret(token), IDTokenCheck{Nonce: "n"}); !errors.Is(err, ErrIDToken) {
				t.Errorf("as ID token: %+v %v", id, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if n := as.Count("unknown"); n != 0 {
		t.Errorf("%d requests to places that a token named", n)
	}
}

func decoded(t *testing.T, segment string) string {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLongKeyIDIsRefusedEvenWhereKeysHaveNone(t *testing.T) { // C1
	t.Parallel()
	as := astest.New(astest.Options{})
	key := astest.NewKey("ES256", "")
	as.SetKeys(key)
	c := newClient(t, as)
	for size, ok := range map[int]bool{maxKeyID: true, maxKeyID + 1: false} {
		token := accessToken(as, key, func(h, _ map[string]any) { h["kid"] = strings.Repeat("k", size) })
		if err := accepts(c, token); ok != (err == nil) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestZeroSignatureOfECDSA(t *testing.T) { // JW-12
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 63, 64, 65, 96, 128} {
		if verifySignature("ES256", []byte("x"), make([]byte, size), key.Public()) {
			t.Errorf("%d zeros verify", size)
		}
	}
}

func TestHarmlessHeaderParametersAreIgnored(t *testing.T) { // JW-04: not followed, but no reason to refuse
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	token := accessToken(as, as.SigningKey(), func(h, _ map[string]any) {
		h["jku"], h["x5u"], h["x5t"], h["x5c"] = as.Issuer()+"/evil", as.Issuer()+"/evil", "x", []string{"x"}
	})
	if err := accepts(c, token); err != nil || as.Count("unknown") != 0 {
		t.Errorf("%v, %d requests", err, as.Count("unknown"))
	}
}

func TestEd25519IsAnotherNameOfEdDSA(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{Algorithm: "EdDSA", JWKSDoc: func(doc map[string]any) {
		doc["keys"].([]any)[0].(map[string]any)["alg"] = "Ed25519"
	}})
	token := accessToken(as, as.SigningKey(), func(h, _ map[string]any) { h["alg"] = "Ed25519" })
	if err := accepts(newClient(t, as), token); err != nil {
		t.Error(err)
	}
}

func FuzzJWS(f *testing.F) {
	key := astest.NewKey("EdDSA", "k")
	good := key.Sign(key.Header("JWT"), map[string]any{"sub": "alice"})
	f.Add(good)
	f.Add(good + "=")
	f.Add(b64(`{"alg":"none"}`) + ".." + "")
	f.Add(`{"payload":"AAAA"}`)
	f.Fuzz(func(t *testing.T, raw string) {
		var s *signed
		var err error
		bounded(t, len(raw), func() { s, err = parseJWS(raw) })
		if err != nil {
			return
		}
		enc := base64.RawURLEncoding
		_, payload, _ := strings.Cut(string(s.input), ".")
		if payload != enc.EncodeToString(s.payload) || raw != string(s.input)+"."+enc.EncodeToString(s.signature) {
			t.Fatal("two spellings of one token")
		}
		if _, ok := algorithms[s.alg]; !ok {
			t.Fatalf("alg %q", s.alg)
		}
		if raw != good && verifySignature(s.alg, s.input, s.signature, key.Private.Public()) {
			t.Fatal("forged")
		}
		if cl, err := parseClaims(s.payload); err == nil {
			_, _ = cl.audience()
			_, _, _ = cl.notYet(time.Now(), time.Minute)
		}
	})
}
