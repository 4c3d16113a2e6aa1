// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// idToken signs an ID token of as; a nil value removes a claim.
func idToken(as *astest.Server, change map[string]any) Secret {
	now := time.Now()
	claims := map[string]any{
		"iss": as.Issuer(), "sub": "alice", "aud": "app", "nonce": "n", "sid": "s",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "auth_time": now.Unix(),
	}
	for name, v := range change {
		if v == nil {
			delete(claims, name)
		} else {
			claims[name] = v
		}
	}
	key := as.SigningKey()
	return Secret(key.Sign(key.Header("JWT"), claims))
}

func TestIDTokenClaims(t *testing.T) { // SPEC.md J, JW-13
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
	now := time.Now().Unix()
	minute := time.Minute
	null := json.RawMessage("null")
	type m = map[string]any
	for name, tc := range map[string]struct {
		change m
		check  IDTokenCheck
		ok     bool
	}{
		"ID-00 good":                         {ok: true},
		"ID-02 iss other":                    {change: m{"iss": "https://evil.test"}},
		"ID-02 iss with slash":               {change: m{"iss": as.Issuer() + "/"}},
		"ID-02 iss other case":               {change: m{"iss": strings.ToUpper(as.Issuer())}},
		"ID-02 iss missing":                  {change: m{"iss": nil}},
		"ID-02 iss null":                     {change: m{"iss": null}},
		"ID-02 iss array":                    {change: m{"iss": []string{as.Issuer()}}},
		"ID-03 aud other":                    {change: m{"aud": "other"}},
		"ID-03 aud missing":                  {change: m{"aud": nil}},
		"ID-03 aud empty array":              {change: m{"aud": []string{}}},
		"ID-03 aud array of one":             {change: m{"aud": []string{"app"}}, ok: true},
		"ID-03 aud with a stranger":          {change: m{"aud": []string{"app", "stranger"}}},
		"ID-03 aud with a stranger, azp":     {change: m{"aud": []string{"app", "stranger"}, "azp": "app"}},
		"ID-03 aud with a trusted one":       {change: m{"aud": []string{"app", "https://api.test"}}},
		"ID-03 aud with a trusted one, azp":  {change: m{"aud": []string{"app", "https://api.test"}, "azp": "app"}, ok: true},
		"ID-03 aud array of mixed types":     {change: m{"aud": []any{"app", 7}}},
		"ID-03 aud number":                   {change: m{"aud": 7}},
		"ID-04 azp the client":               {change: m{"azp": "app"}, ok: true},
		"ID-04 azp other":                    {change: m{"azp": "other"}},
		"ID-04 azp number":                   {change: m{"azp": 7}},
		"ID-06 exp missing":                  {change: m{"exp": nil}},
		"ID-06 exp null":                     {change: m{"exp": null}},
		"ID-06 exp past":                     {change: m{"exp": now - 600}},
		"ID-06 exp past within leeway":       {change: m{"exp": now - 10}, ok: true},
		"ID-06 exp string":                   {change: m{"exp": "9999999999"}},
		"ID-06 exp fraction":                 {change: m{"exp": float64(now) + 100.5}, ok: true},
		"ID-06 exp 2^63":                     {change: m{"exp": json.RawMessage("9223372036854775808")}},
		"ID-06 exp 1e400":                    {change: m{"exp": json.RawMessage("1e400")}},
		"ID-06 exp negative":                 {change: m{"exp": -1}},
		"ID-07 iat missing":                  {change: m{"iat": nil}},
		"ID-07 iat in an hour":               {change: m{"iat": now + 3600}},
		"ID-07 iat two days ago":             {change: m{"iat": now - 2*86400}},
		"ID-07 iat string":                   {change: m{"iat": "x"}},
		"JW-13 nbf in 20 s":                  {change: m{"nbf": now + 20}, ok: true},
		"JW-13 nbf in 5 min":                 {change: m{"nbf": now + 300}},
		"ID-08 nonce other":                  {change: m{"nonce": "other"}},
		"ID-08 nonce missing":                {change: m{"nonce": nil}},
		"ID-08 nonce null":                   {change: m{"nonce": null}},
		"ID-08 nonce empty":                  {change: m{"nonce": ""}},
		"ID-08 nonce number":                 {change: m{"nonce": 7}},
		"ID-09 sub missing":                  {change: m{"sub": nil}},
		"ID-09 sub null":                     {change: m{"sub": null}},
		"ID-09 sub empty":                    {change: m{"sub": ""}},
		"ID-09 sub number":                   {change: m{"sub": 7}},
		"ID-09 sub of 256 characters":        {change: m{"sub": strings.Repeat("s", 256)}},
		"ID-09 sub of 255 characters":        {change: m{"sub": strings.Repeat("s", 255)}, ok: true},
		"ID-09 sub with a line break":        {change: m{"sub": "alice\nadmin"}},
		"ID-09 sub not ASCII":                {change: m{"sub": "älice"}},
		"ID-10 at_hash right":                {change: m{"at_hash": tokenHash("ES256", "at")}, check: IDTokenCheck{AccessToken: "at"}, ok: true},
		"ID-10 at_hash wrong":                {change: m{"at_hash": tokenHash("ES256", "other")}, check: IDTokenCheck{AccessToken: "at"}},
		"ID-10 at_hash number":               {change: m{"at_hash": 7}, check: IDTokenCheck{AccessToken: "at"}},
		"ID-11 acr as asked":                 {change: m{"acr": "mfa"}, check: IDTokenCheck{ACRValues: []string{"x", "mfa"}}, ok: true},
		"ID-11 acr lower":                    {change: m{"acr": "pwd"}, check: IDTokenCheck{ACRValues: []string{"mfa"}}},
		"ID-11 acr missing":                  {check: IDTokenCheck{ACRValues: []string{"mfa"}}},
		"ID-12 auth_time fresh":              {check: IDTokenCheck{MaxAge: &minute}, ok: true},
		"ID-12 auth_time two hours ago":      {change: m{"auth_time": now - 7200}, check: IDTokenCheck{MaxAge: &minute}},
		"ID-12 auth_time missing":            {change: m{"auth_time": nil}, check: IDTokenCheck{MaxAge: &minute}},
		"ID-12 auth_time in the future":      {change: m{"auth_time": now + 3600}, check: IDTokenCheck{MaxAge: &minute}},
		"ID-12 auth_time missing, not asked": {change: m{"auth_time": nil}, ok: true},
		"ID-12 auth_time string":             {change: m{"auth_time": "x"}},
		"JW-05 logout token":                 {change: m{"events": m{"http://schemas.openid.net/event/backchannel-logout": m{}}}},
		"sid number":                         {change: m{"sid": 7}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.check.Nonce = "n"
			id, err := c.VerifyIDToken(t.Context(), idToken(as, tc.change), tc.check)
			if tc.ok != (err == nil) || (err != nil && !errors.Is(err, ErrIDToken)) || (err != nil) != (id == nil) {
				t.Errorf("%+v %v", id, err)
			}
			wrongly := strings.HasPrefix(name, "ID-11") || name == "ID-12 auth_time two hours ago" || name == "ID-12 auth_time missing"
			if wrongly = wrongly && !tc.ok; errors.Is(err, ErrAuthentication) != wrongly { // SU-03
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := c.VerifyIDToken(t.Context(), idToken(as, m{"nonce": ""}), IDTokenCheck{}); err == nil {
		t.Error("an ID token was checked without a nonce")
	}
}

func TestNullClaimsAreAbsent(t *testing.T) { // ID-17
	t.Parallel()
	as := astest.New(astest.Options{})
	id, err := newClient(t, as).VerifyIDToken(t.Context(), idToken(as, map[string]any{
		"email": json.RawMessage("null"), "azp": json.RawMessage("null"), "big": json.RawMessage("12345678901234567890"),
	}), IDTokenCheck{Nonce: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := id.Claims["email"]; there || id.Claims["big"] != json.Number("12345678901234567890") {
		t.Errorf("%v", id.Claims)
	}
}

func TestIDTokenOfUnannouncedAlgorithmOrOtherType(t *testing.T) { // ID-05, JW-05
	t.Parallel()
	as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) {
		doc["id_token_signing_alg_values_supported"] = []string{"PS256"}
	}})
	if _, err := newClient(t, as).VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"}); !errors.Is(err, ErrIDToken) {
		t.Errorf("ES256 where PS256 is announced: %v", err)
	}
	as = astest.New(astest.Options{})
	c := newClient(t, as)
	key := as.SigningKey()
	claims := map[string]any{"iss": as.Issuer(), "sub": "alice", "aud": "app", "nonce": "n", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60}
	for typ, ok := range map[string]bool{
		"-": true, "JWT": true, "jwt": true, "application/jwt": true,
		"at+jwt": false, "application/at+jwt": false, "logout+jwt": false, "dpop+jwt": false, "secevent+jwt": false, "x": false,
	} {
		_, err := c.VerifyIDToken(t.Context(), Secret(key.Sign(key.Header(typ), claims)), IDTokenCheck{Nonce: "n"})
		if ok != (err == nil) {
			t.Errorf("typ %s: %v", typ, err)
		}
	}
}

func TestRefreshedIDToken(t *testing.T) { // ID-18, C307, C311
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	now := time.Now()
	type m = map[string]any
	for name, tc := range map[string]struct {
		change m
		want   error
	}{
		"same":                      {m{}, nil},
		"nonce absent":              {m{"nonce": nil}, nil},
		"nonce different":           {m{"nonce": "other"}, ErrIDTokenMismatch},
		"sub different":             {m{"sub": "mallory"}, ErrSubjectChanged},
		"sub different and expired": {m{"sub": "mallory", "exp": 1}, ErrSubjectChanged},
		"sub missing":               {m{"sub": nil}, ErrIDToken},
		"iss different":             {m{"iss": "https://evil.test"}, ErrSubjectChanged},
		"iss missing":               {m{"iss": nil}, ErrIDTokenMismatch},
		"aud different":             {m{"aud": "other"}, ErrIDTokenMismatch},
		"auth_time absent":          {m{"auth_time": nil}, nil},
		"auth_time different":       {m{"auth_time": now.Unix() + 20}, ErrIDTokenMismatch},
		"iat missing":               {m{"iat": nil}, ErrIDToken},
		"exp past":                  {m{"exp": now.Unix() - 600}, ErrIDToken},
		"iat in the future":         {m{"iat": now.Unix() + 600}, ErrIDToken},
		"at_hash wrong":             {m{"at_hash": "x"}, ErrIDTokenMismatch},
	} {
		if _, given := tc.change["auth_time"]; !given {
			tc.change["auth_time"] = now.Unix()
		}
		_, err := c.VerifyRefreshedIDToken(t.Context(), idToken(as, tc.change), RefreshedIDTokenCheck{
			Subject: "alice", Nonce: "n", AuthTime: now, AccessToken: "at",
		})
		if !errors.Is(err, tc.want) || (tc.want == nil && err != nil) || errors.Is(err, ErrIDTokenMismatch) != errors.Is(tc.want, ErrIDTokenMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		if errors.Is(tc.want, ErrSubjectChanged) && ClassOf(err) != ClassSessionOver {
			t.Errorf("%s: class %v", name, ClassOf(err))
		}
	}
	forged := astest.NewKey("ES256", as.SigningKey().ID)
	token := Secret(forged.Sign(forged.Header("JWT"), m{"iss": as.Issuer(), "sub": "mallory", "aud": "app"}))
	if _, err := c.VerifyRefreshedIDToken(t.Context(), token, RefreshedIDTokenCheck{Subject: "alice"}); !errors.Is(err, ErrIDToken) || errors.Is(err, ErrSubjectChanged) {
		t.Errorf("a forged token ends a session: %v", err)
	}
}

func TestIDTokenWithoutKeysSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		token := idToken(as, nil)
		as.SetDown(true)
		if _, err := c.VerifyIDToken(t.Context(), token, IDTokenCheck{Nonce: "n"}); !errors.Is(err, ErrKeysUnavailable) || errors.Is(err, ErrIDToken) || ClassOf(err) != ClassOutage {
			t.Errorf("%v, %v", err, ClassOf(err))
		}
		as.SetDown(false)
		time.Sleep(2 * time.Second)
		if _, err := c.VerifyIDToken(t.Context(), token, IDTokenCheck{Nonce: "n"}); err != nil {
			t.Error(err)
		}
	})
}

func TestTokenHash(t *testing.T) { // OpenID Connect Core appendix A.3 has the first one
	t.Parallel()
	if got := tokenHash("RS256", "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"); got != "77QmUPtjPfzWtF2AnpK9RQ" {
		t.Error(got)
	}
	for alg, size := range map[string]int{"ES384": 24, "PS512": 32, "EdDSA": 32} {
		if got := tokenHash(alg, "x"); len(got) != int(math.Ceil(float64(size)*4/3)) {
			t.Errorf("%s: %s", alg, got)
		}
	}
}

// JW-10: a new key that could not be asked for says nothing about an ID token;
// one that nobody has does.
func TestIDTokenOfANewKeyThatCannotBeFetched(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	check := IDTokenCheck{Nonce: "n"}
	if _, err := c.VerifyIDToken(t.Context(), idToken(as, nil), check); err != nil {
		t.Fatal(err)
	}
	as.RotateKey("new", false)
	as.Script(astest.JWKS, astest.Answer{Status: 500})
	if _, err := c.VerifyIDToken(t.Context(), idToken(as, nil), check); !errors.Is(err, ErrKeysUnavailable) || errors.Is(err, ErrIDToken) {
		t.Errorf("while the keys are out: %v", err)
	}
	forged := astest.NewKey("ES256", "nobody's")
	if _, err := newClient(t, as).VerifyIDToken(t.Context(), Secret(forged.Sign(forged.Header("JWT"), map[string]any{})), check); !errors.Is(err, ErrIDToken) {
		t.Errorf("forged: %v", err)
	}
}

// F407, JW-10: a login whose ID token is of a second new key in a row waits for
// the key set; there is no second chance for its code.
func TestLoginWaitsForTheSecondRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		for i := range 4 {
			began := time.Now()
			if _, err := c.VerifyIDToken(t.Context(), idToken(as, nil), IDTokenCheck{Nonce: "n"}); err != nil {
				t.Errorf("rotation %d: %v", i, err)
			}
			if waited := time.Since(began); waited > refetchSoon || i < 2 && waited > 0 {
				t.Errorf("rotation %d: waited %v", i, waited)
			}
			as.RotateKey("", true)
		}
		// A refresh does not wait: it can do without.
		began := time.Now()
		_, err := c.VerifyRefreshedIDToken(t.Context(), idToken(as, nil), RefreshedIDTokenCheck{Subject: "alice"})
		if !errors.Is(err, ErrIDToken) || errors.Is(err, ErrIDTokenMismatch) || time.Since(began) > 0 {
			t.Errorf("refresh: %v after %v", err, time.Since(began))
		}
	})
}

// ID-08, C307: another login's ID token is told from a bad one.
func TestNonceOfAnotherLogin(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	for name, tc := range map[string]struct {
		change map[string]any
		nonce  bool
	}{
		"other":           {map[string]any{"nonce": "m"}, true},
		"missing":         {map[string]any{"nonce": nil}, true},
		"empty":           {map[string]any{"nonce": ""}, true},
		"number":          {map[string]any{"nonce": 7}, true},
		"audience too":    {map[string]any{"nonce": "m", "aud": "other"}, false},
		"audience only":   {map[string]any{"aud": "other"}, false},
		"expired as well": {map[string]any{"nonce": "m", "exp": 1}, false},
	} {
		_, err := c.VerifyIDToken(t.Context(), idToken(as, tc.change), IDTokenCheck{Nonce: "n"})
		if !errors.Is(err, ErrIDToken) || errors.Is(err, ErrNonce) != tc.nonce {
			t.Errorf("%s: %v", name, err)
		}
	}
}
