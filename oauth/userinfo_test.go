// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestUserInfo(t *testing.T) { // ID-14, ID-15, ID-17, JW-05
	t.Parallel()
	now := time.Now().Unix()
	set := func(name string, v any) func(*astest.Options) {
		return func(o *astest.Options) {
			o.UserInfoClaims = func(claims map[string]any) {
				if v == "-" {
					delete(claims, name)
				} else {
					claims[name] = v
				}
			}
		}
	}
	signed := func(change func(header, claims map[string]any)) func(*astest.Options) {
		return func(o *astest.Options) { o.SignedUserInfo, o.UserInfoJWT = true, change }
	}
	stranger := astest.NewKey("ES256", "key-1")
	for name, tc := range map[string]struct {
		change func(*astest.Options)
		good   bool
	}{
		"JSON":               {func(*astest.Options) {}, true},
		"JWT":                {signed(nil), true},
		"JWT without typ":    {signed(func(h, _ map[string]any) { delete(h, "typ") }), true},
		"null":               {set("nickname", nil), true},
		"sub other":          {set("sub", "mallory"), false},
		"sub missing":        {set("sub", "-"), false},
		"sub null":           {set("sub", nil), false},
		"sub number":         {set("sub", 7), false},
		"sub in other case":  {set("sub", "Alice"), false},
		"JWT, sub other":     {signed(func(_, cl map[string]any) { cl["sub"] = "mallory" }), false},
		"JWT, iss other":     {signed(func(_, cl map[string]any) { cl["iss"] = "https://evil.test" }), false},
		"JWT, iss missing":   {signed(func(_, cl map[string]any) { delete(cl, "iss") }), false},
		"JWT, aud other":     {signed(func(_, cl map[string]any) { cl["aud"] = "other" }), false},
		"JWT, aud missing":   {signed(func(_, cl map[string]any) { delete(cl, "aud") }), false},
		"JWT, expired":       {signed(func(_, cl map[string]any) { cl["exp"] = now - 60 }), false},
		"JWT, of the future": {signed(func(_, cl map[string]any) { cl["iat"] = now + 3600 }), false},
		"JWT, alg none":      {signed(func(h, _ map[string]any) { h["alg"] = "none" }), false},
		"an access token":    {signed(func(h, _ map[string]any) { h["typ"] = "at+jwt" }), false},
		"a logout token":     {signed(func(h, _ map[string]any) { h["typ"] = "logout+jwt" }), false},
	} {
		as := astest.New(astest.Options{})
		as.Configure(tc.change)
		c := newClient(t, as)
		access := as.Issue("alice", "openid", "").AccessToken
		info, err := c.UserInfo(t.Context(), Secret(access), "alice")
		if (err == nil) != tc.good || !tc.good && !errors.Is(err, ErrUnusable) {
			t.Errorf("%s: error %v", name, err)
		}
		if _, there := info["nickname"]; there == (name == "null") && err == nil {
			t.Errorf("%s: claims %v", name, info)
		}
		requests := as.Requests(astest.UserInfo)
		if len(requests) != 1 || requests[0].Method != http.MethodGet || requests[0].Header.Get("Authorization") != "Bearer "+access || strings.Contains(requests[0].URL, access) {
			t.Errorf("%s: requests %v", name, requests)
		}
	}
	for name, answer := range map[string]astest.Answer{
		"wrong key": {Header: http.Header{"Content-Type": {"application/jwt"}}, Body: stranger.Sign(stranger.Header("JWT"), map[string]any{"iss": "https://as.test", "aud": "app", "sub": "alice"})},
		"twice":     {Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"sub":"mallory","sub":"alice"}`},
		"HTML":      {Header: http.Header{"Content-Type": {"text/html"}}, Body: `{"sub":"alice"}`},
		"too long":  {Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"sub":"alice","x":"` + strings.Repeat("x", maxUserInfo) + `"}`},
		"401":       {Status: http.StatusUnauthorized},
		"redirect":  {Status: http.StatusFound, Header: http.Header{"Location": {"https://evil.test/"}}},
	} {
		as := astest.New(astest.Options{})
		as.Script(astest.UserInfo, answer)
		_, err := newClient(t, as).UserInfo(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), "alice")
		if !errors.Is(err, ErrUnusable) && !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { delete(doc, "userinfo_endpoint") }})
	if _, err := newClient(t, as).UserInfo(t.Context(), "token", "alice"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without the endpoint: %v", err)
	}
}

func TestUserInfoOutage(t *testing.T) { // ID-16
	t.Parallel()
	for name, answer := range map[string]astest.Answer{
		"500": {Status: http.StatusInternalServerError}, "cut": {Cut: true}, "hangs": {Hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				as := astest.New(astest.Options{})
				as.Script(astest.UserInfo, answer)
				began := time.Now()
				_, err := newClient(t, as).UserInfo(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), "alice")
				if errors.Is(err, ErrUnusable) || ClassOf(err) != ClassOutage || time.Since(began) > defaultTimeout {
					t.Errorf("error %v (%v) after %v", err, ClassOf(err), time.Since(began))
				}
			})
		})
	}
}

// FuzzUserInfo: whatever is answered, as JSON, as a JWT of the issuer or as one of
// nobody. What passes is an object that says everything once, and a JWT is for us.
func FuzzUserInfo(f *testing.F) {
	as := astest.New(astest.Options{Algorithm: "EdDSA"})
	c, key := newClient(f, as), as.SigningKey()
	ctx := settled(f, c)
	for _, seed := range []string{
		`{"sub":"alice","nickname":"Al"}`, `{"iss":"https://as.test","aud":"app","sub":"alice"}`, `{"iss":"https://as.test","aud":["x","app"],"sub":"alice","exp":9999999999}`,
		`{"sub":"a","sub":"b"}`, `{"nonce":null}`, `[]`, `"alice"`, key.Sign(key.Header("JWT"), map[string]any{"iss": "https://as.test", "aud": "app", "sub": "x", "events": map[string]any{}}),
	} {
		for form := range byte(3) {
			f.Add(form, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, form byte, body []byte) {
		a := &answer{status: http.StatusOK, header: http.Header{"Content-Type": {"application/jwt"}}, body: body}
		payload := body
		switch form % 3 {
		case 0:
			a.header.Set("Content-Type", "application/json; charset=utf-8")
		case 1:
			a.body = []byte(key.SignRaw([]byte(`{"alg":"EdDSA","kid":"key-1","typ":"JWT"}`), body))
		case 2:
			payload = nil // nobody but the server signs
		}
		bounded(t, len(a.body), func() {
			cl, err := c.readUserInfo(ctx, a)
			if err != nil {
				return
			}
			told, err := readPlainly(t, payload)
			if err != nil {
				t.Fatalf("taken: %q, %v", a.body, err)
			}
			for name, v := range told {
				if _, there := cl.members[name]; there != (v != nil) {
					t.Fatalf("%s of %q", name, a.body)
				}
			}
			if aud, _ := cl.audience(); form%3 == 1 && (cl.members["iss"] != "https://as.test" || !slices.Contains(aud, "app")) {
				t.Fatalf("taken: %q", payload)
			}
		})
	})
}
