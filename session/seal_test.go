// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func testKey(fill byte) RingKey { return RingKey{Secret: bytes.Repeat([]byte{fill}, 32)} }

func mustRing(t testing.TB, keys ...RingKey) *ring {
	t.Helper()
	r, err := newRing(keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testSite(name, origin string) *Site {
	m := &Manager{cfg: Config{Name: name, Issuer: "https://as.test", ClientID: "app", SameSite: http.SameSiteStrictMode}}
	return m.newSite(origin)
}

// E107: nonces do not repeat, and the same text never looks the same.
func TestSealedValuesDiffer(t *testing.T) {
	r := mustRing(t, testKey(1))
	seen := make(map[string]bool)
	for range 10_000 {
		sealed := string(r.seal(purpose{kind: "facts"}, []byte("text")))
		if seen[sealed] {
			t.Fatal("sealed twice to the same bytes")
		}
		seen[sealed] = true
	}
}

// E103: no byte of a sealed value can be changed.
func TestSealedBitFlips(t *testing.T) {
	r := mustRing(t, testKey(1))
	p := purpose{kind: "tokens", salt: []byte("salt"), secret: []byte("secret"), bound: []byte("bound")}
	sealed := r.seal(p, []byte("text"))
	if got, err := r.open(p, sealed); err != nil || string(got) != "text" {
		t.Fatalf("got %q, %v", got, err)
	}
	for i := range sealed {
		bad := slices.Clone(sealed)
		bad[i] ^= 1
		if _, err := r.open(p, bad); err == nil {
			t.Errorf("byte %d was changed and it opened", i)
		}
	}
	for n := range sealed {
		if _, err := r.open(p, sealed[:n]); err == nil {
			t.Errorf("cut to %d bytes and it opened", n)
		}
	}
}

// E102, D111: what is sealed for one purpose opens for no other.
func TestSealedPurposes(t *testing.T) {
	r := mustRing(t, testKey(1))
	p := purpose{kind: "tokens", salt: []byte("salt"), secret: []byte("secret"), bound: []byte("bound")}
	sealed := r.seal(p, []byte("text"))
	for name, other := range map[string]purpose{
		"kind":   {kind: "facts", salt: p.salt, secret: p.secret, bound: p.bound},
		"salt":   {kind: p.kind, salt: []byte("other"), secret: p.secret, bound: p.bound},
		"secret": {kind: p.kind, salt: p.salt, secret: []byte("other"), bound: p.bound},
		"none":   {kind: p.kind, salt: p.salt, bound: p.bound},
		"bound":  {kind: p.kind, salt: p.salt, secret: p.secret, bound: []byte("other")},
	} {
		if _, err := r.open(other, sealed); err == nil {
			t.Errorf("opened with another %s", name)
		}
	}
}

func sampleTokens() (*tokens, *facts) {
	at := time.UnixMilli(1_700_000_000_123)
	return &tokens{
			accessToken: &accessToken{
				access: "canary-access", purpose: purposeID{1}, accessExpiry: at, issued: at, scope: []string{"openid"}, gen: 4, prev: 2,
			},
			narrow: []*accessToken{{
				access: "canary-narrow", purpose: purposeID{2}, accessExpiry: at, issued: at, scope: []string{"orders"},
				gen: 3, prev: 1, source: [32]byte{3},
			}},
			refresh: "canary-refresh", id: "canary-id", nonce: "canary-nonce", claims: map[string]any{"sub": "alice", "n": json.Number("1")},
			loginState: []byte{1}, returnTo: "/x",
		}, &facts{
			issuer: "https://as.test", subject: "alice", sid: "sid-1", userAgent: "ua", created: at, authTime: at,
			lifetimeEnd: at, refreshEnd: at, accessEnd: at,
		}
}

// A secret type that cannot print must not get into a record as its redaction.
func TestSealedRecordKeepsItsSecrets(t *testing.T) {
	r, site := mustRing(t, testKey(1)), testSite("", "https://app.test")
	rec := &Record{Key: Key{1}, Gen: 3}
	tok, f := sampleTokens()
	if err := site.sealInto(rec, r, []byte("cookie secret"), tok, f); err != nil {
		t.Fatal(err)
	}
	gotTokens, gotFacts, err := site.unseal(rec, r, []byte("cookie secret"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotFacts, f) {
		t.Errorf("facts: got %+v, want %+v", gotFacts, f)
	}
	if gotTokens.access.Reveal() != "canary-access" || gotTokens.refresh.Reveal() != "canary-refresh" ||
		gotTokens.id.Reveal() != "canary-id" || gotTokens.nonce.Reveal() != "canary-nonce" ||
		!reflect.DeepEqual(gotTokens.claims, tok.claims) || !gotTokens.issued.Equal(tok.issued) || gotTokens.returnTo != "/x" {
		t.Errorf("tokens: got %+v", gotTokens)
	}
	if !reflect.DeepEqual(gotTokens.accessToken, tok.accessToken) || !reflect.DeepEqual(gotTokens.narrow, tok.narrow) {
		t.Errorf("access tokens: got %+v and %+v", gotTokens.accessToken, gotTokens.narrow)
	}
	// E106: nothing readable in the store.
	b, err := rec.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []string{"canary", "alice", "sid-1", "as.test"} {
		if bytes.Contains(b, []byte(plain)) {
			t.Errorf("the record shows %q", plain)
		}
	}
	if out := fmt.Sprintf("%v %+v %#v", gotTokens.access, gotTokens.refresh, gotTokens.id); strings.Contains(out, "canary") {
		t.Errorf("a secret prints: %s", out)
	}
}

// D107: the store and the keys together, without the cookie, open no token; and
// (E101, E104) parts of other records and other generations do not fit.
func TestStoreAsAnAdversary(t *testing.T) {
	r, site := mustRing(t, testKey(1)), testSite("", "https://app.test")
	secret := []byte("cookie secret")
	seal := func(key Key, gen uint64) *Record {
		rec := &Record{Key: key, Gen: gen}
		tok, f := sampleTokens()
		if err := site.sealInto(rec, r, secret, tok, f); err != nil {
			t.Fatal(err)
		}
		return rec
	}
	a, b, later := seal(Key{1}, 1), seal(Key{2}, 1), seal(Key{1}, 2)
	cases := map[string]*Record{
		"swapped tokens":   {Key: a.Key, Gen: 1, Facts: a.Facts, Tokens: b.Tokens},
		"swapped facts":    {Key: a.Key, Gen: 1, Facts: b.Facts, Tokens: a.Tokens},
		"swapped both":     {Key: a.Key, Gen: 1, Facts: b.Facts, Tokens: b.Tokens},
		"old tokens":       {Key: a.Key, Gen: 2, Facts: later.Facts, Tokens: a.Tokens},
		"old parts":        {Key: a.Key, Gen: 2, Facts: a.Facts, Tokens: a.Tokens},
		"facts as tokens":  {Key: a.Key, Gen: 1, Facts: a.Facts, Tokens: a.Facts},
		"no tokens at all": {Key: a.Key, Gen: 1, Facts: a.Facts},
	}
	for name, rec := range cases {
		if _, _, err := site.unseal(rec, r, secret); !errors.Is(err, errSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := site.unseal(a, r, []byte("another cookie")); !errors.Is(err, errSealed) {
		t.Errorf("opened with another cookie: %v", err)
	}
	if _, err := site.unsealFacts(a, r); err != nil {
		t.Errorf("facts need no cookie: %v", err)
	}
	for _, other := range []*Site{testSite("", "https://other.test"), testSite("shop", "https://app.test")} {
		if _, _, err := other.unseal(a, r, secret); !errors.Is(err, errSealed) {
			t.Errorf("opened at another site: %v", err)
		}
	}
	if _, _, err := site.unseal(a, mustRing(t, testKey(2)), secret); !errors.Is(err, errSealedKey) {
		t.Errorf("opened without the key: %v", err)
	}
	// E108: after a rotation the old key still opens.
	if _, _, err := site.unseal(a, mustRing(t, testKey(2), testKey(1)), secret); err != nil {
		t.Errorf("the old key does not open any more: %v", err)
	}
}

// Index keys of another kind, issuer or ring never meet (ID-09).
func TestIndexKeys(t *testing.T) {
	r := mustRing(t, testKey(1), testKey(2), RingKey{Secret: bytes.Repeat([]byte{3}, 32), IndexRoot: []byte("root")},
		RingKey{Secret: bytes.Repeat([]byte{4}, 32), IndexRoot: []byte("root")})
	keys := r.indexKeys("sub", "https://as.test", "alice")
	if len(keys) != 3 {
		t.Fatalf("%d keys for three roots", len(keys))
	}
	for _, other := range [][]IndexKey{
		r.indexKeys("sid", "https://as.test", "alice"), r.indexKeys("sub", "https://as.testa", "lice"), r.indexKeys("sub", "https://other.test", "alice"),
	} {
		for _, k := range other {
			if slices.Contains(keys, k) {
				t.Error("index keys collide")
			}
		}
	}
}

func TestMergeAndCompareClaims(t *testing.T) {
	old := map[string]any{"sub": "alice", "name": "Alice", "iat": json.Number("1")}
	merged := mergeClaims(old, map[string]any{"sub": "alice", "iat": json.Number("2"), "roles": []any{"admin"}})
	want := map[string]any{"sub": "alice", "name": "Alice", "iat": json.Number("2"), "roles": []any{"admin"}}
	if !reflect.DeepEqual(merged, want) || len(old) != 3 {
		t.Errorf("got %v from %v", merged, old)
	}
	if sameClaims(old, merged) {
		t.Error("new roles went unnoticed")
	}
	if !sameClaims(old, map[string]any{"sub": "alice", "name": "Alice", "iat": json.Number("9"), "exp": json.Number("9")}) {
		t.Error("a new iat counts as a change")
	}
}
