// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestExchangeForm(t *testing.T) { // TK-01, AR-06
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	_, _ = c.Exchange(t.Context(), ExchangeRequest{Code: "c&d", CodeVerifier: "v", RedirectURI: redirectURI})
	r := as.Requests(astest.Token)[0]
	want := url.Values{"grant_type": {"authorization_code"}, "code": {"c&d"}, "code_verifier": {"v"}, "redirect_uri": {redirectURI}}
	if r.Method != "POST" || r.Form.Encode() != want.Encode() {
		t.Errorf("%s %v", r.Method, r.Form)
	}
	if _, err := c.Exchange(t.Context(), ExchangeRequest{}); err == nil || as.Count(astest.Token) != 1 {
		t.Error("exchanged nothing")
	}
}

func TestRefreshForm(t *testing.T) { // RF-09
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt", Scope: []string{"a", "b"}, Resource: []string{"https://x", "https://y"}})
	r := as.RefreshRequests()[0]
	want := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"rt"}, "scope": {"a b"}, "resource": {"https://x", "https://y"}}
	if r.Form.Encode() != want.Encode() {
		t.Errorf("%v", r.Form)
	}
	if _, err := c.Refresh(t.Context(), RefreshRequest{}); err == nil || as.Count(astest.Token) != 1 {
		t.Error("refreshed nothing")
	}
}

func TestTokenRequestTimeouts(t *testing.T) { // TK-11, F403, TK-10
	t.Parallel()
	for name, tc := range map[string]struct {
		answer astest.Answer
		want   time.Duration
	}{
		"hangs":          {astest.Answer{Hang: true}, defaultRefreshTimeout},
		"drips":          {astest.Answer{Body: `{"access_token":"at","token_type":"Bearer"}`, Drip: time.Second}, defaultRefreshTimeout},
		"slow but whole": {astest.Answer{Delay: 29 * time.Second}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				as := astest.New(astest.Options{})
				c := newClient(t, as)
				token := Secret(as.Issue("alice", "openid", "").RefreshToken)
				as.Script(astest.Token, tc.answer)
				start := time.Now()
				_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token})
				if tc.want == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if ClassOf(err) != ClassAmbiguous || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != tc.want {
					t.Errorf("%v, class %v, after %v", err, ClassOf(err), time.Since(start))
				}
				if n := as.Count(astest.Token); n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		as.Script(astest.Token, astest.Answer{Hang: true})
		start := time.Now()
		if _, err := c.Exchange(t.Context(), ExchangeRequest{Code: "c"}); ClassOf(err) != ClassAmbiguous || time.Since(start) != defaultTimeout {
			t.Errorf("exchange: %v after %v", err, time.Since(start))
		}
	})
}

func TestOutcomeOfAFailedRefreshIsKnownOrCalledAmbiguous(t *testing.T) { // TK-10, RF-07
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		as := astest.New(astest.Options{})
		c := newClient(t, as)
		whole := `{"access_token":"at","token_type":"Bearer"}`
		refresh := func() Class {
			t.Helper()
			_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"})
			if err == nil {
				t.Fatal("no error")
			}
			return ClassOf(err)
		}
		as.Script(astest.Metadata, astest.Answer{Cut: true})
		if got := refresh(); got != ClassNotSent || as.Count(astest.Token) != 0 {
			t.Errorf("metadata out: %v", got)
		}
		time.Sleep(2 * time.Second)
		if _, err := c.Metadata(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, tc := range map[string]struct {
			answer astest.Answer
			want   Class
		}{
			"cut before it acted":      {astest.Answer{Cut: true}, ClassAmbiguous},
			"cut after it acted":       {astest.Answer{CutReply: true}, ClassAmbiguous},
			"200 cut in the middle":    {astest.Answer{Body: whole, TruncateAt: 10}, ClassAmbiguous},
			"503 cut in the middle":    {astest.Answer{Status: 503, Body: whole, TruncateAt: 10}, ClassOutage},
			"400 cut in the middle":    {astest.Answer{Status: 400, Body: whole, TruncateAt: 10}, ClassOutage},
			"200 whole, but no tokens": {astest.Answer{Body: "<html>"}, ClassOutage},
		} {
			as.Script(astest.Token, tc.answer)
			if got := refresh(); got != tc.want {
				t.Errorf("%s: %v, not %v", name, got, tc.want)
			}
		}
		before := as.Count(astest.Token)
		as.SetDown(true)
		if got := refresh(); got != ClassNotSent {
			t.Errorf("nobody there: %v", got)
		}
		as.SetDown(false)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Refresh(ctx, RefreshRequest{RefreshToken: "rt"}); ClassOf(err) != ClassNotSent || !errors.Is(err, context.Canceled) {
			t.Errorf("caller had left: %v", err)
		}
		if as.Count(astest.Token) != before {
			t.Error("something was sent")
		}
	})
}
