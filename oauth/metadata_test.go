// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestWellKnownLocations(t *testing.T) { // MD-02
	t.Parallel()
	for issuer, want := range map[string][2]string{
		"https://as":        {"https://as/.well-known/openid-configuration", "https://as/.well-known/oauth-authorization-server"},
		"https://as/":       {"https://as/.well-known/openid-configuration", "https://as/.well-known/oauth-authorization-server"},
		"https://as/t1":     {"https://as/t1/.well-known/openid-configuration", "https://as/.well-known/oauth-authorization-server/t1"},
		"https://as/a/b/":   {"https://as/a/b/.well-known/openid-configuration", "https://as/.well-known/oauth-authorization-server/a/b"},
		"http://[::1]:80/x": {"http://[::1]:80/x/.well-known/openid-configuration", "http://[::1]:80/.well-known/oauth-authorization-server/x"},
	} {
		if oidc, rfc8414 := wellKnown(issuer); oidc != want[0] || rfc8414 != want[1] {
			t.Errorf("%s: %s, %s", issuer, oidc, rfc8414)
		}
	}
}

func TestMetadataOfAnotherIssuerIsDiscarded(t *testing.T) { // MD-01, C308
	t.Parallel()
	for _, wrong := range []any{
		"https://as.test/", "https://AS.test", "https://as.test:443", "http://as.test", "https://evil.test", "", nil, 7, []any{"https://as.test"},
	} {
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc["issuer"] = wrong }})
		if md, err := newClient(t, as).Metadata(t.Context()); !errors.Is(err, ErrMetadata) {
			t.Errorf("issuer %v: %v %v", wrong, md, err)
		}
	}
}

func TestInsecureOrMissingEndpointsAreRefused(t *testing.T) { // MD-03, C308
	t.Parallel()
	for _, name := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint", "end_session_endpoint"} {
		for _, wrong := range []any{
			"http://as.test/x", "ftp://as.test/x", "//as.test/x", "/x", "https:///x", "https://u:p@as.test/x", "https://as.test/#f",
			"javascript:alert(1)", "https://as.test:x", 7, []any{},
		} {
			as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { doc[name] = wrong }})
			if _, err := newClient(t, as).Metadata(t.Context()); !errors.Is(err, ErrMetadata) {
				t.Errorf("%s %v: %v", name, wrong, err)
			}
		}
		as := astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { delete(doc, name) }})
		_, err := newClient(t, as).Metadata(t.Context())
		if optional := name == "revocation_endpoint" || name == "end_session_endpoint"; optional != (err == nil) {
			t.Errorf("without %s: %v", name, err)
		}
		as = astest.New(astest.Options{Host: "localhost", MetadataDoc: func(doc map[string]any) { doc[name] = "http://127.0.0.1:1/x" }})
		if _, err := newClient(t, as).Metadata(t.Context()); err != nil {
			t.Errorf("%s on loopback: %v", name, err)
		}
	}
}

func TestUnusableMetadataAnswers(t *testing.T) { // MD-06, A504
	t.Parallel()
	for name, answer := range map[string]astest.Answer{
		"HTML":       {Body: "<html>", Times: 2},
		"array":      {Body: `[{}]`, Times: 2},
		"empty":      {Status: 200, Times: 2},
		"500":        {Status: 500, Times: 2},
		"redirect":   {Status: 302, Header: http.Header{"Location": {"https://as.test/elsewhere"}}, Times: 2},
		"huge":       {Body: `{"issuer":"https://as.test","x":"` + strings.Repeat("x", maxMetadata) + `"}`, Times: 2},
		"deep":       {Body: `{"issuer":"https://as.test","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, Times: 2},
		"two issuer": {Body: `{"issuer":"https://evil.test","issuer":"https://as.test"}`, Times: 2},
		"truncated":  {Body: `{"issuer":"https://as.test"}`, TruncateAt: 9, Times: 2},
		"cut":        {Cut: true, Times: 2},
	} {
		as := astest.New(astest.Options{})
		as.Script(astest.Metadata, answer)
		if _, err := newClient(t, as).Metadata(t.Context()); err == nil || ClassOf(err) == ClassSessionOver {
			t.Errorf("%s: %v", name, err)
		}
		if n := as.Count("unknown"); n != 0 {
			t.Errorf("%s: a redirect was followed", name)
		}
	}
}

func TestMetadataSlowDripIsBounded(t *testing.T) { // MD-06, F403
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		as.Script(astest.Metadata, astest.Answer{Drip: time.Second})
		start := time.Now()
		if _, err := newClient(t, as).Metadata(t.Context()); err == nil || time.Since(start) != defaultTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestMetadataIsFetchedOnceForAllAndOutlivesItsFirstCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{Latency: map[string]time.Duration{astest.Metadata: 2 * time.Second}})
		c := newClient(t, as)
		first, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Metadata(first); !errors.Is(err, context.DeadlineExceeded) || ClassOf(err) != ClassNotSent {
				t.Errorf("the first caller: %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			wg.Go(func() {
				if _, err := c.Metadata(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := as.Count(astest.Metadata); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

func TestMetadataOutage(t *testing.T) { // MD-07, MD-08
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		as.SetDown(true)
		for range 20 { // within one back-off: one attempt
			if _, err := c.Metadata(t.Context()); err == nil {
				t.Fatal("metadata from a server that is down")
			}
		}
		as.SetDown(false)
		if _, err := c.Metadata(t.Context()); err == nil {
			t.Fatal("no back-off after a failure")
		}
		time.Sleep(1100 * time.Millisecond)
		if _, err := c.Metadata(t.Context()); err != nil {
			t.Fatalf("no recovery: %v", err)
		}

		// An hour later it is fetched again, behind the callers' back.
		as.Configure(func(o *astest.Options) {
			o.MetadataDoc = func(doc map[string]any) { doc["token_endpoint"] = "https://as.test/token2" }
		})
		as.Script(astest.Metadata, astest.Answer{Body: "{broken", Times: 2})
		time.Sleep(time.Hour)
		for range 3 {
			if md, err := c.Metadata(t.Context()); err != nil || md.TokenEndpoint != "https://as.test/token" {
				t.Fatalf("a broken answer replaced good metadata: %+v %v", md, err)
			}
			synctest.Wait()
		}
		time.Sleep(metadataRetry)
		if _, err := c.Metadata(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if md, err := c.Metadata(t.Context()); err != nil || md.TokenEndpoint != "https://as.test/token2" {
			t.Fatalf("the change was not picked up: %+v %v", md, err)
		}
	})
}

func TestMetadataNamesAreExact(t *testing.T) {
	t.Parallel()
	md, err := parseMetadata([]byte(`{"issuer":"https://as.test","Issuer":"https://evil.test",
		"authorization_endpoint":"https://as.test/a","token_endpoint":"https://as.test/t","TOKEN_ENDPOINT":"https://evil.test/t",
		"jwks_uri":"https://as.test/j","scopes_supported":["openid",7,null],"unknown":{"x":1}}`), "https://as.test", false)
	if err != nil || md.TokenEndpoint != "https://as.test/t" || len(md.ScopesSupported) != 1 {
		t.Fatalf("%+v %v", md, err)
	}
}

// MD-09: aliases count for a client with a certificate, at the endpoints where it
// authenticates, one by one; and they are endpoints like any others.
func TestMetadataAliases(t *testing.T) {
	t.Parallel()
	doc := func(aliases string) []byte {
		return []byte(`{"issuer":"https://as.test","authorization_endpoint":"https://as.test/a","token_endpoint":"https://as.test/t","jwks_uri":"https://as.test/j",
			"revocation_endpoint":"https://as.test/r","introspection_endpoint":"https://as.test/i","mtls_endpoint_aliases":` + aliases + `}`)
	}
	const all = `{"authorization_endpoint":"https://m.test/a","token_endpoint":"https://m.test/t","jwks_uri":"https://m.test/j","revocation_endpoint":"https://m.test/r",
		"introspection_endpoint":"https://m.test/i","pushed_authorization_request_endpoint":"https://m.test/p"}`
	for _, tt := range []struct {
		aliases   string
		mutualTLS bool
		want      string
	}{
		{all, true, "https://as.test/a https://as.test/j https://m.test/t https://m.test/r https://m.test/i https://m.test/p"},
		{all, false, "https://as.test/a https://as.test/j https://as.test/t https://as.test/r https://as.test/i "},
		{`{"token_endpoint":"https://m.test/t"}`, true, "https://as.test/a https://as.test/j https://m.test/t https://as.test/r https://as.test/i "},
		{`null`, true, "https://as.test/a https://as.test/j https://as.test/t https://as.test/r https://as.test/i "},
	} {
		md, err := parseMetadata(doc(tt.aliases), "https://as.test", tt.mutualTLS)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join([]string{md.AuthorizationEndpoint, md.JWKSURI, md.TokenEndpoint, md.RevocationEndpoint, md.IntrospectionEndpoint, md.PushedAuthorizationRequestEndpoint}, " ")
		if got != tt.want {
			t.Errorf("%s, %v:\n%s, want\n%s", tt.aliases, tt.mutualTLS, got, tt.want)
		}
	}
	for _, aliases := range []string{`{"token_endpoint":"http://m.test/t"}`, `{"token_endpoint":7}`, `{"revocation_endpoint":"https://u@m.test/"}`} {
		if _, err := parseMetadata(doc(aliases), "https://as.test", true); !errors.Is(err, ErrMetadata) || !strings.Contains(err.Error(), "mtls_endpoint_aliases") {
			t.Errorf("%s: %v", aliases, err)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://as.test","authorization_endpoint":"https://as.test/a","token_endpoint":"https://as.test/t","jwks_uri":"https://as.test/j"}`))
	f.Add([]byte(`{"issuer":"https://as.test","authorization_endpoint":"http://as.test/a","scopes_supported":{}}`))
	f.Add([]byte(`{"issuer":"https://as.test","authorization_endpoint":"https://as.test/a","token_endpoint":"https://as.test/t","jwks_uri":"https://as.test/j","mtls_endpoint_aliases":{"token_endpoint":"https://m.as.test/t"}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var md *Metadata
		var err error
		bounded(t, len(data), func() { md, err = parseMetadata(data, "https://as.test", true) })
		if err != nil {
			if !errors.Is(err, ErrMetadata) {
				t.Fatalf("not ErrMetadata: %v", err)
			}
			return
		}
		for _, e := range []string{md.AuthorizationEndpoint, md.TokenEndpoint, md.JWKSURI} {
			if !strings.HasPrefix(strings.ToLower(e), "https://") && !strings.HasPrefix(strings.ToLower(e), "http://") {
				t.Fatalf("endpoint %q", e)
			}
		}
	})
}
