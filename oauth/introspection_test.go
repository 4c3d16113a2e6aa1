// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// opaqueServer is one whose access tokens say nothing by themselves.
func opaqueServer(change ...func(*astest.Options)) *astest.Server {
	o := astest.Options{AccessTokenType: "opaque"}
	for _, f := range change {
		f(&o)
	}
	return astest.New(o)
}

// introspected changes what the endpoint says of every token.
func introspected(name string, v any) func(*astest.Options) {
	return func(o *astest.Options) {
		o.IntrospectionClaims = func(_ string, claims map[string]any) {
			if v == nil {
				delete(claims, name)
			} else {
				claims[name] = v
			}
		}
	}
}

func TestIntrospection(t *testing.T) { // AT-07, C1
	t.Parallel()
	now := time.Now().Unix()
	for name, tc := range map[string]struct {
		change func(*astest.Options)
		want   error // nil: it is good
	}{
		"good":              {func(*astest.Options) {}, nil},
		"signed":            {func(o *astest.Options) { o.SignedIntrospection = true }, nil},
		"active false":      {introspected("active", false), ErrAccessToken},
		"active missing":    {introspected("active", nil), ErrUnusable},
		"active text":       {introspected("active", "true"), ErrUnusable},
		"active number":     {introspected("active", 1), ErrUnusable},
		"exp past":          {introspected("exp", now-1), ErrAccessTokenExpired},
		"exp text":          {introspected("exp", "9999999999"), ErrUnusable},
		"exp missing":       {introspected("exp", nil), nil},
		"nbf in 5 min":      {introspected("nbf", now+300), ErrAccessToken},
		"iat in an hour":    {introspected("iat", now+3600), ErrAccessToken},
		"iss other":         {introspected("iss", "https://evil.test"), ErrAccessToken},
		"iss missing":       {introspected("iss", nil), nil},
		"aud other":         {introspected("aud", "https://other.test"), ErrAccessToken},
		"aud missing":       {introspected("aud", nil), ErrAccessToken},
		"aud number":        {introspected("aud", 7), ErrAccessToken},
		"client_id other":   {introspected("client_id", "evil"), ErrAccessToken},
		"client_id missing": {introspected("client_id", nil), nil},
		"client_id number":  {introspected("client_id", 1), ErrAccessToken},
		"nbf object":        {introspected("nbf", struct{}{}), ErrAccessToken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := opaqueServer(tc.change)
			c := newClient(t, as, func(cfg *Config) { cfg.Audience = []string{"https://api.test"} })
			v, err := c.CheckAccessToken(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), ValidateIntrospection)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err == nil && (v.JWT || v.Provisional()) {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

func TestIntrospectionRequest(t *testing.T) { // AT-07, AT-09, CA-04
	t.Parallel()
	for _, signed := range []bool{false, true} {
		as := opaqueServer(func(o *astest.Options) { o.SignedIntrospection = signed })
		c := newClient(t, as)
		token := as.Issue("alice", "openid", "").AccessToken
		if _, err := c.CheckAccessToken(t.Context(), Secret(token), ValidateIntrospection); err != nil {
			t.Fatal(err)
		}
		requests := as.Requests(astest.Introspect)
		if len(requests) != 1 {
			t.Fatalf("%d calls", len(requests))
		}
		r := requests[0]
		if r.Method != http.MethodPost || r.ClientAuth != "client_secret_basic" || r.Token != token || r.Form.Get("token_type_hint") != "access_token" || strings.Contains(r.URL, token) {
			t.Errorf("%s %s by %s, %v", r.Method, r.URL, r.ClientAuth, r.Form)
		}
		if asked := strings.Contains(r.Header.Get("Accept"), astest.IntrospectionType); asked != signed {
			t.Errorf("Accept: %s, with signed answers announced: %v", r.Header.Get("Accept"), signed)
		}
	}
}

func TestIntrospectionSigned(t *testing.T) { // AT-09, JW-05
	t.Parallel()
	stranger := astest.NewKey("ES256", "key-1")
	set := func(name string, v any) func(o *astest.Options) {
		return func(o *astest.Options) {
			o.IntrospectionJWT = func(_, claims map[string]any) {
				if v == nil {
					delete(claims, name)
				} else {
					claims[name] = v
				}
			}
		}
	}
	typ := func(v string) func(o *astest.Options) {
		return func(o *astest.Options) { o.IntrospectionJWT = func(header, _ map[string]any) { header["typ"] = v } }
	}
	for name, change := range map[string]func(*astest.Options){
		"typ JWT":             typ("JWT"),
		"typ at+jwt":          typ("at+jwt"),
		"alg none":            func(o *astest.Options) { o.IntrospectionJWT = func(h, _ map[string]any) { h["alg"] = "none" } },
		"iss other":           set("iss", "https://evil.test"),
		"iss missing":         set("iss", nil),
		"aud other":           set("aud", "other"),
		"aud missing":         set("aud", nil),
		"iat missing":         set("iat", nil),
		"iat in an hour":      set("iat", time.Now().Add(time.Hour).Unix()),
		"claims outside":      set("token_introspection", nil),
		"claims are text":     set("token_introspection", "active"),
		"active outside only": func(o *astest.Options) { set("active", true)(o); introspected("active", nil)(o) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			as := opaqueServer(func(o *astest.Options) { o.SignedIntrospection = true }, change)
			_, err := newClient(t, as).CheckAccessToken(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), ValidateIntrospection)
			if !errors.Is(err, ErrUnusable) {
				t.Errorf("error %v", err)
			}
		})
	}
	canned := func(contentType, body string) error {
		as := opaqueServer(func(o *astest.Options) { o.SignedIntrospection = true })
		as.Script(astest.Introspect, astest.Answer{Header: http.Header{"Content-Type": {contentType}}, Body: body})
		_, err := newClient(t, as).CheckAccessToken(t.Context(), Secret(as.Issue("alice", "openid", "").AccessToken), ValidateIntrospection)
		return err
	}
	good := map[string]any{"iss": "https://as.test", "aud": "app", "iat": time.Now().Unix(), "token_introspection": map[string]any{"active": true}}
	for name, err := range map[string]error{
		"key of a stranger": canned(astest.IntrospectionType, stranger.Sign(stranger.Header("token-introspection+jwt"), good)),
		"HS256":             canned(astest.IntrospectionType, astest.SignHMAC([]byte("secret"), map[string]any{"alg": "HS256", "typ": "token-introspection+jwt"}, good)),
		"another type":      canned("text/html", `{"active":true}`),
		"no JSON":           canned("application/json", "active"),
		"twice":             canned("application/json", `{"active":false,"active":true}`),
	} {
		if !errors.Is(err, ErrUnusable) && !errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestIntrospectionFailsClosed(t *testing.T) { // AT-07
	t.Parallel()
	for name, answer := range map[string]astest.Answer{
		"401":      astest.OAuthError(http.StatusUnauthorized, "invalid_client"),
		"500":      {Status: http.StatusInternalServerError},
		"cut":      {Cut: true},
		"hangs":    {Hang: true},
		"too long": {Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"active":true,"x":"` + strings.Repeat("x", maxIntrospection) + `"}`},
		"redirect": {Status: http.StatusFound, Header: http.Header{"Location": {"https://evil.test/"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				as := opaqueServer()
				c := newClient(t, as)
				token := Secret(as.Issue("alice", "openid", "").AccessToken)
				as.Script(astest.Introspect, answer)
				if _, err := c.CheckAccessToken(t.Context(), token, ValidateIntrospection); err == nil || errors.Is(err, ErrAccessToken) {
					t.Errorf("error %v", err)
				}
				if _, err := c.CheckAccessToken(t.Context(), token, ValidateIntrospection); err == nil || as.Count(astest.Introspect) != 1 {
					t.Errorf("at once: error %v, %d calls", err, as.Count(astest.Introspect))
				}
				time.Sleep(introspectionRetry)
				if _, err := c.CheckAccessToken(t.Context(), token, ValidateIntrospection); err != nil {
					t.Errorf("a second later: %v", err)
				}
			})
		})
	}
	as := opaqueServer(func(o *astest.Options) {
		o.MetadataDoc = func(doc map[string]any) { delete(doc, "introspection_endpoint") }
	})
	if _, err := newClient(t, as).CheckAccessToken(t.Context(), "token", ValidateIntrospection); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without the endpoint: %v", err)
	}
}

func TestIntrospectionCache(t *testing.T) { // AT-08, CH-06
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := opaqueServer()
		c := newClient(t, as)
		check := func(token string) error {
			_, err := c.CheckAccessToken(t.Context(), Secret(token), ValidateIntrospection)
			return err
		}
		calls := func(want int) {
			t.Helper()
			if got := as.Count(astest.Introspect); got != want {
				t.Errorf("%d calls, want %d", got, want)
			}
		}
		token := as.Issue("alice", "openid", "").AccessToken
		as.Script(astest.Introspect, astest.Answer{Header: http.Header{"Cache-Control": {"max-age=3600"}}, Delay: time.Second})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := check(token); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		calls(1)
		as.RevokeAccessToken(token)
		time.Sleep(activeAge - 2*time.Second)
		if err := check(token); err != nil {
			t.Error(err)
		}
		calls(1)
		time.Sleep(2 * time.Second)
		if err := check(token); !errors.Is(err, ErrAccessToken) {
			t.Errorf("revoked: %v", err)
		}
		_ = check(token)
		calls(2)
		time.Sleep(inactiveAge)
		_ = check(token)
		calls(3)

		// exp in 5 s: asked again after 6 s, and not good meanwhile.
		as.Configure(func(o *astest.Options) { o.AccessTokenLifetime = 5 * time.Second })
		short := as.Issue("bob", "openid", "").AccessToken
		v, err := c.CheckAccessToken(t.Context(), Secret(short), ValidateIntrospection)
		if err != nil {
			t.Fatal(err)
		}
		calls(4)
		time.Sleep(6 * time.Second)
		if c.VerdictCurrent(v, time.Now()) {
			t.Error("a verdict outlives exp")
		}
		if err := check(short); !errors.Is(err, ErrAccessToken) {
			t.Errorf("expired: %v", err)
		}
		calls(5)
	})
}

func TestIntrospectionCallOutlivesItsCaller(t *testing.T) { // AT-08
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := opaqueServer()
		c := newClient(t, as)
		token := Secret(as.Issue("alice", "openid", "").AccessToken)
		as.Script(astest.Introspect, astest.Answer{Delay: 3 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.CheckAccessToken(ctx, token, ValidateIntrospection); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who leaves: %v", err)
		}
		if _, err := c.CheckAccessToken(t.Context(), token, ValidateIntrospection); err != nil {
			t.Errorf("who stays: %v", err)
		}
		if n := as.Count(astest.Introspect); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestIntrospectionIsBounded(t *testing.T) { // AT-08
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := opaqueServer()
		c := newClient(t, as)
		good := Secret(as.Issue("alice", "openid", "").AccessToken)
		if _, err := c.CheckAccessToken(t.Context(), good, ValidateIntrospection); err != nil {
			t.Fatal(err)
		}
		for i := range maxIntrospections + 10 {
			if _, err := c.CheckAccessToken(t.Context(), Secret(fmt.Sprint("made-up-", i)), ValidateIntrospection); !errors.Is(err, ErrAccessToken) {
				t.Fatal(err)
			}
		}
		if n := len(c.introspections.inactive); n != maxIntrospections {
			t.Errorf("%d answers are kept", n)
		}
		before := as.Count(astest.Introspect)
		if _, err := c.CheckAccessToken(t.Context(), good, ValidateIntrospection); err != nil || as.Count(astest.Introspect) != before {
			t.Errorf("made-up tokens drove out a good one: %v", err)
		}

		// A crowd of strangers is turned away, and sessions are still served.
		as.Script(astest.Introspect, astest.Answer{Delay: 5 * time.Second, Times: maxUnasked})
		var all sync.WaitGroup
		for i := range maxUnasked {
			all.Go(func() { _, _ = c.CheckBearer(t.Context(), Secret(fmt.Sprint("stranger-", i)), ValidateIntrospection) })
		}
		synctest.Wait()
		if _, err := c.CheckBearer(t.Context(), "one-more", ValidateIntrospection); !errors.Is(err, errBusy) {
			t.Errorf("one more stranger: %v", err)
		}
		if _, err := c.CheckAccessToken(t.Context(), Secret(as.Issue("bob", "openid", "").AccessToken), ValidateIntrospection); err != nil {
			t.Errorf("a session meanwhile: %v", err)
		}
		all.Wait()
		if c.introspections.unasked != 0 || len(c.introspections.calls) != 0 {
			t.Error("calls are left behind")
		}
	})
}

// FuzzIntrospection: whatever is answered, as JSON, signed or signed by nobody. Only
// what says active, once and as true, makes a token active, and not for long.
func FuzzIntrospection(f *testing.F) {
	as := opaqueServer(func(o *astest.Options) { o.Algorithm, o.SignedIntrospection = "EdDSA", true })
	canned := &cannedAnswer{RoundTripper: as.HTTPClient().Transport, path: "/introspect"}
	c := newClient(f, as, func(cfg *Config) { cfg.HTTP = &http.Client{Transport: canned} })
	key := as.SigningKey()
	for _, seed := range []string{
		`{"active":true,"sub":"alice","exp":9999999999}`, `{"active":false}`, `{"active":"true"}`, `{"active":true,"active":false}`, `{"active":true,"exp":-1}`, `[]`,
		`{"iss":"https://as.test","aud":"app","iat":1,"token_introspection":{"active":true,"client_id":"app","aud":["x"],"scope":"a b"}}`,
		key.Sign(key.Header("JWT"), map[string]any{"iss": "https://as.test", "aud": "app", "iat": 1, "token_introspection": map[string]any{"active": true}}),
	} {
		for form := range byte(3) {
			f.Add(form, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, form byte, body []byte) {
		canned.contentType, canned.body = astest.IntrospectionType, body
		switch form % 3 {
		case 0:
			canned.contentType = "application/json"
		case 1:
			canned.body = []byte(key.SignRaw([]byte(`{"alg":"EdDSA","kid":"key-1","typ":"token-introspection+jwt"}`), body))
		}
		bounded(t, len(canned.body), func() {
			a := c.callIntrospection(t.Context(), "token")
			if a.err != nil {
				if a.claims.object != nil {
					t.Fatalf("claims beside %v", a.err)
				}
				return
			}
			if a.claims.object == nil {
				return
			}
			if form%3 == 2 || time.Until(a.until) > activeAge {
				t.Fatalf("active until %v: %q", a.until, body)
			}
			told, _ := readPlainly(t, body)
			if form%3 == 1 {
				told, _ = told["token_introspection"].(map[string]any)
			}
			if told["active"] != true {
				t.Fatalf("active: %q", body)
			}
			v, err := c.introspectionVerdict(a, nil, nil)
			if err == nil && (v.JWT || !v.Expiry.IsZero() && !v.Expiry.After(time.Now().Add(-time.Second))) {
				t.Fatalf("%+v: %q", v, body)
			}
		})
	})
}

// cannedAnswer answers POST requests to a path itself.
type cannedAnswer struct {
	http.RoundTripper
	path, contentType string
	body              []byte
}

func (a *cannedAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost || r.URL.Path != a.path {
		return a.RoundTripper.RoundTrip(r)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {a.contentType}}, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r, ContentLength: int64(len(a.body)),
	}, nil
}
