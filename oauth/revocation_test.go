// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

func TestRevoke(t *testing.T) { // LO-05, LO-06, LO-07
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	if err := c.Revoke(t.Context(), "unknown", "refresh_token"); err != nil {
		t.Errorf("unknown token: %v", err)
	}
	r := as.Requests(astest.Revoke)[0]
	if r.Token != "unknown" || r.Form.Get("token_type_hint") != "refresh_token" || r.ClientAuth != "client_secret_basic" {
		t.Errorf("%+v", r)
	}
	for _, tc := range []struct {
		answer astest.Answer
		class  Class
		retry  time.Duration
		ok     bool
	}{
		{answer: astest.Answer{Status: 200, Body: "whatever"}, ok: true},
		{answer: astest.OAuthError(400, "unsupported_token_type"), ok: true},
		{answer: astest.Answer{Status: 503, Header: http.Header{"Retry-After": {"7"}}}, class: ClassOutage, retry: 7 * time.Second},
		{answer: astest.OAuthError(401, "invalid_client"), class: ClassConfiguration},
		{answer: astest.Answer{Status: 400}, class: ClassRefused},
		{answer: astest.Answer{Status: 302, Header: http.Header{"Location": {"https://as.test/x"}}}, class: ClassOutage},
		{answer: astest.Answer{Cut: true}, class: ClassAmbiguous},
	} {
		as.Script(astest.Revoke, tc.answer)
		err := c.Revoke(t.Context(), "x", "")
		if tc.ok {
			if err != nil {
				t.Errorf("%+v: %v", tc.answer, err)
			}
			continue
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != tc.class || e.RetryAfter != tc.retry {
			t.Errorf("%+v: %v", tc.answer, err)
		}
	}
	if err := c.Revoke(t.Context(), "", ""); err == nil {
		t.Error("revoked nothing")
	}
	as = astest.New(astest.Options{MetadataDoc: func(doc map[string]any) { delete(doc, "revocation_endpoint") }})
	if err := newClient(t, as).Revoke(t.Context(), "x", ""); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}
