// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestAuthorizationResponse(t *testing.T) { // CB-01, CB-02, CB-03, CB-07, CB-08, CB-11, C306
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	iss := as.Issuer()
	for name, tc := range map[string]struct {
		query string
		ok    bool
		code  string // of an *Error
	}{
		"good":                        {query: "code=c&state=st&iss=" + iss, ok: true},
		"unknown parameters":          {query: "code=c&state=st&session_state=x&foo=1&foo=2&iss=" + iss, ok: true},
		"iss percent-encoded":         {query: "code=c&state=st&iss=https%3A%2F%2Fas.test", ok: true},
		"iss missing":                 {query: "code=c&state=st"},
		"iss empty":                   {query: "code=c&state=st&iss="},
		"iss other":                   {query: "code=c&state=st&iss=https://evil.test"},
		"iss with slash":              {query: "code=c&state=st&iss=" + iss + "/"},
		"iss encoded twice":           {query: "code=c&state=st&iss=https%253A%252F%252Fas.test"},
		"iss twice":                   {query: "code=c&state=st&iss=" + iss + "&iss=" + iss},
		"state missing":               {query: "code=c&iss=" + iss},
		"state empty":                 {query: "code=c&state=&iss=" + iss},
		"state other":                 {query: "code=c&state=other&iss=" + iss},
		"state twice":                 {query: "code=c&state=st&state=st&iss=" + iss},
		"code missing":                {query: "state=st&iss=" + iss},
		"code empty":                  {query: "code=&state=st&iss=" + iss},
		"code twice":                  {query: "code=a&code=b&state=st&iss=" + iss},
		"code of 1 MB":                {query: "code=" + strings.Repeat("c", 1<<20) + "&state=st&iss=" + iss},
		"code with NUL":               {query: "code=a%00b&state=st&iss=" + iss},
		"code with line break":        {query: "code=a%0d%0ab&state=st&iss=" + iss},
		"code not UTF-8":              {query: "code=a%ffb&state=st&iss=" + iss},
		"error":                       {query: "error=access_denied&error_description=no&state=st&iss=" + iss, code: "access_denied"},
		"error, description odd":      {query: "error=login_required&error_description=a%0ab&state=st&iss=" + iss, code: "login_required"},
		"error, state other":          {query: "error=access_denied&state=other&iss=" + iss},
		"error, iss other":            {query: "error=access_denied&state=st&iss=https://evil.test"},
		"error, iss missing":          {query: "error=access_denied&state=st"},
		"error and code":              {query: "error=access_denied&code=c&state=st&iss=" + iss},
		"error empty":                 {query: "error=&state=st&iss=" + iss},
		"error with line break":       {query: "error=a%0ab&state=st&iss=" + iss},
		"error of 1 kB":               {query: "error=" + strings.Repeat("e", 1000) + "&state=st&iss=" + iss},
		"error with quotes":           {query: "error=%22x%22&state=st&iss=" + iss},
		"tokens in place of a code":   {query: "access_token=x&id_token=y&state=st&iss=" + iss},
		"error_description repeated":  {query: "error=x&error_description=a&error_description=b&state=st&iss=" + iss},
		"empty":                       {query: ""},
		"session expired, one step 2": {query: "error=temporarily_unavailable&state=st&iss=" + iss, code: "temporarily_unavailable"},
	} {
		params, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		code, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: "st"})
		e, isError := errors.AsType[*Error](err)
		switch {
		case tc.ok:
			if err != nil || code != "c" {
				t.Errorf("%s: %v", name, err)
			}
		case tc.code != "":
			if !isError || e.Code != tc.code || code != "" || strings.Contains(e.Description, "\n") {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if !errors.Is(err, ErrResponse) || code != "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if _, err := c.ValidateAuthorizationResponse(t.Context(), url.Values{"code": {"c"}, "state": {""}, "iss": {iss}}, AuthorizationResponseCheck{}); !errors.Is(err, ErrResponse) {
		t.Errorf("no state expected, none given: %v", err)
	}
}

func TestIssFromAServerThatDoesNotAnnounceIt(t *testing.T) { // CB-04
	t.Parallel()
	as := astest.New(astest.Options{NoIssParameter: true})
	c := newClient(t, as)
	for iss, ok := range map[string]bool{"": true, as.Issuer(): true, "https://evil.test": false} {
		params := url.Values{"code": {"c"}, "state": {"st"}}
		if iss != "" {
			params.Set("iss", iss)
		}
		if _, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: "st"}); ok != (err == nil) {
			t.Errorf("iss %q: %v", iss, err)
		}
	}
}

func TestCodeNeverLeavesOnAMixUp(t *testing.T) { // C306, CB-05
	t.Parallel()
	as := astest.New(astest.Options{WrongIss: "https://evil.test"})
	c := newClient(t, as)
	params, tx := authorize(t, c, as)
	if _, err := c.ValidateAuthorizationResponse(t.Context(), params, AuthorizationResponseCheck{State: tx.state}); !errors.Is(err, ErrResponse) {
		t.Error(err)
	}
	if n := as.Count(astest.Token); n != 0 {
		t.Errorf("%d token requests", n)
	}
}

func FuzzAuthorizationResponse(f *testing.F) {
	as := astest.New(astest.Options{})
	c := newClient(f, as)
	if _, err := c.Metadata(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Add("code=c&state=st&iss=https://as.test")
	f.Add("error=x&state=st&iss=https://as.test&error_uri=%00")
	f.Add("code=a&code=b")
	f.Fuzz(func(t *testing.T, query string) {
		params, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		code, err := c.ValidateAuthorizationResponse(context.Background(), params, AuthorizationResponseCheck{State: "st"})
		if err == nil {
			if !visible(code.Reveal(), true) || code == "" || params.Get("state") != "st" || params.Get("iss") != "https://as.test" || len(params["code"]) != 1 {
				t.Fatalf("accepted %q", query)
			}
			return
		}
		if e, ok := errors.AsType[*Error](err); ok {
			if e.Code == "" || errorText(e.Code, 128) != e.Code || params.Get("state") != "st" {
				t.Fatalf("%q: %v", query, err)
			}
		} else if !errors.Is(err, ErrResponse) {
			t.Fatal(err)
		}
		if code != "" {
			t.Fatal("a code beside an error")
		}
	})
}
