// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/returnurl"
	"github.com/caddy-bff/caddy-bff/oauth"
	"github.com/caddy-bff/caddy-bff/session"
)

// The one mapping from errors to answers, CONTRACT section 4.
func TestErrorMapping(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("doing: %w", err) }
	for name, tt := range map[string]struct {
		err    error
		code   string
		status int
	}{
		"no session":        {session.ErrNoSession, codeSessionRequired, 401},
		"idle":              {&session.EndedError{Reason: session.ReasonIdle}, codeSessionExpired, 401},
		"lifetime":          {&session.EndedError{Reason: session.ReasonLifetime}, codeSessionExpired, 401},
		"refresh token":     {&session.EndedError{Reason: session.ReasonRefreshToken}, codeSessionExpired, 401},
		"access token":      {&session.EndedError{Reason: session.ReasonAccessToken}, codeSessionExpired, 401},
		"revoked":           {&session.EndedError{Reason: session.ReasonRevoked}, codeSessionRevoked, 401},
		"signed out":        {&session.EndedError{Reason: session.ReasonLoggedOut}, codeSessionRevoked, 401},
		"limit":             {&session.EndedError{Reason: session.ReasonLimit}, codeSessionRevoked, 401},
		"store":             {session.ErrStoreUnavailable, codeStoreUnavailable, 503},
		"store, and why":    {fmt.Errorf("%w: %w", session.ErrStoreUnavailable, context.DeadlineExceeded), codeStoreUnavailable, 503},
		"store is full":     {session.ErrFull, codeStoreUnavailable, 503},
		"server out":        {&session.UnavailableError{RetryAfter: time.Second, Err: errors.New("x")}, codeServerUnavailable, 503},
		"token unavailable": {session.ErrTokenUnavailable, codeTokenUnavailable, 502},
		"rate limited":      {&session.RateLimitedError{RetryAfter: time.Second}, codeRateLimited, 429},
		"return URL":        {returnurl.ErrRefused, codeInvalidReturnURL, 400},
		"plain http":        {errPlainHTTP, codeHTTPSRequired, 400},
		"host":              {errHost, codeInvalidParameter, 400},
		"our own":           {&httpError{code: codeForbidden}, codeForbidden, 403},
		"invalid_client":    {&oauth.Error{Status: 401, Code: "invalid_client", Class: oauth.ClassConfiguration}, codeTokenUnavailable, 502},
		"server is busy":    {&oauth.Error{Status: 429, Class: oauth.ClassOutage, RetryAfter: 3 * time.Second}, codeServerUnavailable, 503},
		"metadata":          {oauth.ErrMetadata, codeTokenUnavailable, 502},
		"not supported":     {oauth.ErrUnsupported, codeTokenUnavailable, 502},
		"unusable":          {&session.UnavailableError{RetryAfter: time.Second, Err: fmt.Errorf("%w: %w", oauth.ErrKeysUnavailable, oauth.ErrUnusable)}, codeTokenUnavailable, 502},
		"refused, later":    {&oauth.Error{Status: 403, Class: oauth.ClassRefused, RetryAfter: time.Second}, codeTokenUnavailable, 502},
		"code is spent":     {&oauth.Error{Status: 400, Code: "invalid_grant", Class: oauth.ClassSessionOver}, codeTokenUnavailable, 502},
		"unknown":           {errors.New("x"), codeServerUnavailable, 503},
		"login, state":      {&session.LoginError{Kind: session.LoginStateInvalid}, codeLoginStateInvalid, 400},
		"login, stale":      {&session.LoginError{Kind: session.LoginStale}, codeLoginStateInvalid, 400},
		"login, response":   {&session.LoginError{Kind: session.LoginResponseInvalid, Err: oauth.ErrNonce}, codeLoginStateInvalid, 400},
		"login, metadata":   {&session.LoginError{Kind: session.LoginUnavailable, Err: oauth.ErrMetadata}, codeTokenUnavailable, 502},
		"login, denied":     {&session.LoginError{Kind: session.LoginRefused, Code: "access_denied"}, codeForbidden, 403},
		"login, failed":     {&session.LoginError{Kind: session.LoginFailed, Err: errors.New("x")}, codeTokenUnavailable, 502},
		"login, store":      {&session.LoginError{Kind: session.LoginUnavailable, Err: session.ErrStoreUnavailable}, codeStoreUnavailable, 503},
		"login, server":     {&session.LoginError{Kind: session.LoginUnavailable, Err: errors.New("x")}, codeServerUnavailable, 503},
	} {
		for _, err := range []error{tt.err, wrap(tt.err)} {
			got := asHTTPError(err)
			if got.code != tt.code || problems[got.code].status != tt.status {
				t.Errorf("%s: %s %d, want %s %d", name, got.code, problems[got.code].status, tt.code, tt.status)
			}
			if tt.status == 503 && got.retryAfter <= 0 {
				t.Errorf("%s: no Retry-After", name)
			}
		}
	}
	for code, p := range problems {
		if p.status < 400 || p.title == "" || p.text == "" || http.StatusText(p.status) == "" {
			t.Errorf("%s: %+v", code, p)
		}
	}
}

// What is put into a context, a variable or a log prints a constant.
func TestHandlePrintsAConstant(t *testing.T) {
	t.Parallel()
	hd := &handle{cookies: &http.Request{Header: http.Header{"Cookie": {"canary"}}}}
	ctx := context.WithValue(t.Context(), handleKey{}, hd)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if got := fmt.Sprintf(format, hd); got != "bff" {
			t.Errorf("%s: %q", format, got)
		}
	}
	if got := fmt.Sprint(ctx); !errors.Is(ctx.Err(), nil) || len(got) == 0 || contains(got, "canary") {
		t.Errorf("context: %s", got)
	}
	if b, err := hd.MarshalText(); err != nil || string(b) != "bff" {
		t.Errorf("text: %s, %v", b, err)
	}
}

func contains(s, part string) bool { return lineWith(s, part) != "" }

// An answer that needs no other reason than its code has none in the log.
func TestErrorWithoutReasonInTheLog(t *testing.T) {
	b := newBench(t, benchOptions{})
	b.browser().get("/bff/nowhere").wantError(t, http.StatusNotFound, codeNotFound)
	if line := lineWith(b.log(), `"error_code":"not_found"`); line == "" || strings.Contains(line, `"error":`) {
		t.Errorf("the log says %q", line)
	}
}
