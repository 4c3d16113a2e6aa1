// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"testing"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestClientAuthentication(t *testing.T) { // CA-01, CA-02
	t.Parallel()
	const id, secret = "app:1 ü", "p%:+ ü&=\"ß"
	for _, method := range []AuthMethod{AuthClientSecretBasic, AuthClientSecretPost, AuthNone} {
		as := astest.New(astest.Options{})
		c := newClient(t, as, func(cfg *Config) {
			cfg.AuthMethod = method
			cfg.ClientSecret = func() (Secret, error) { return secret, nil }
			if method == AuthNone {
				cfg.ClientSecret = nil
			}
		})
		c.cfg.ClientID = id // New accepts no such ID; the encoding has to be right anyway
		_, _ = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "rt"})
		r := as.Requests(astest.Token)[0]
		want := secret
		if method == AuthNone {
			want = ""
		}
		if r.ClientAuth != string(method) || r.ClientID != id || r.ClientSecret != want {
			t.Errorf("%s: %s %q %q", method, r.ClientAuth, r.ClientID, r.ClientSecret)
		}
		if method == AuthClientSecretBasic && (r.Form.Has("client_id") || r.Form.Has("client_secret")) {
			t.Error("Basic, and credentials in the body too")
		}
		if method != AuthClientSecretBasic && r.Header.Get("Authorization") != "" {
			t.Errorf("%s with an Authorization header", method)
		}
	}
}

func TestClientSecretIsAskedAtEachCall(t *testing.T) { // CA-10, RF-08, A503, discovery 7
	t.Parallel()
	as := astest.New(astest.Options{ClientSecret: "new"})
	token := Secret(as.Issue("alice", "openid", "").RefreshToken)
	secret := Secret("old")
	c := newClient(t, as, func(cfg *Config) { cfg.ClientSecret = func() (Secret, error) { return secret, nil } })
	_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != "invalid_client" || e.Class != ClassConfiguration || e.Status != 401 {
		t.Fatalf("%v", err)
	}
	if n := as.Count(astest.Token); n != 1 {
		t.Fatalf("%d requests for one refresh: other methods were probed", n)
	}
	secret = "new"
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: token}); err != nil {
		t.Fatal(err)
	}
}

func TestMissingSecretSendsNothing(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	broken := errors.New("no such file")
	for _, f := range []func() (Secret, error){
		func() (Secret, error) { return "", broken },
		func() (Secret, error) { return "", nil },
	} {
		c := newClient(t, as, func(cfg *Config) { cfg.ClientSecret = f })
		if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); ClassOf(err) != ClassConfiguration {
			t.Errorf("%v", err)
		}
	}
	if n := as.Count(astest.Token); n != 0 {
		t.Errorf("%d requests", n)
	}
}
