// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

var sentAt = time.Unix(1_800_000_000, 0)

func parse(body string) (*TokenResponse, error) {
	return parseTokenResponse(&answer{status: 200, body: []byte(body), sent: sentAt}, false)
}

func TestTokenResponse(t *testing.T) { // TK-02, TK-03, TK-04, TK-05, TK-07, RF-11, C310
	t.Parallel()
	const head = `{"access_token":"at","token_type":"Bearer"`
	seconds := func(d float64) time.Time { return sentAt.Add(time.Duration(d * float64(time.Second))) }
	for body, want := range map[string]TokenResponse{
		head + `}`: {},
		`{"access_token":"at","token_type":"bEARER","expires_in":300}`:       {Expiry: seconds(300)},
		head + `,"expires_in":"3600"}`:                                       {Expiry: seconds(3600)},
		head + `,"expires_in":3600.5}`:                                       {Expiry: seconds(3600.5)},
		head + `,"expires_in":3.6e3}`:                                        {Expiry: seconds(3600)},
		head + `,"expires_in":0}`:                                            {},
		head + `,"expires_in":-1}`:                                           {},
		head + `,"expires_in":1e18}`:                                         {},
		head + `,"expires_in":1e400}`:                                        {},
		head + `,"expires_in":9223372036854775807}`:                          {},
		head + `,"expires_in":"NaN"}`:                                        {},
		head + `,"expires_in":"soon"}`:                                       {},
		head + `,"expires_in":null}`:                                         {},
		head + `,"expires_in":[1]}`:                                          {},
		head + `,"expires_in":true}`:                                         {},
		head + `,"refresh_token":""}`:                                        {},
		head + `,"refresh_token":null}`:                                      {},
		head + `,"refresh_token":"rt","id_token":"id"}`:                      {RefreshToken: "rt", IDToken: "id"},
		head + `,"scope":"openid  x"}`:                                       {Scope: []string{"openid", "x"}},
		head + `,"scope":""}`:                                                {},
		head + `,"unknown":{"a":1},"unknown":2}`:                             {},
		head + `,"error":null}`:                                              {},
		head + `,"Refresh_Token":"x","EXPIRES_IN":1}`:                        {},
		head + `,"refresh_expires_in":120}`:                                  {RefreshExpiry: seconds(120)},
		head + `,"refresh_expires_in":0}`:                                    {},
		head + `,"refresh_token_expires_in":"120"}`:                          {RefreshExpiry: seconds(120)},
		head + `,"refresh_token_timeout":300,"authorization_expires_in":60}`: {RefreshExpiry: seconds(60)},
		"\n" + head + `}` + "\n":                                             {},
		head + `,"expires_in":300,"not_before_policy":0,"session_state":"x","ext_expires_in":300,"x":[]}`: {Expiry: seconds(300)},
	} {
		got, err := parse(body)
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if got.AccessToken != "at" || got.TokenType != "Bearer" || got.RefreshToken != want.RefreshToken || got.IDToken != want.IDToken ||
			!got.Expiry.Equal(want.Expiry) || !got.RefreshExpiry.Equal(want.RefreshExpiry) || strings.Join(got.Scope, " ") != strings.Join(want.Scope, " ") ||
			(got.Scope == nil) != (want.Scope == nil) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestUnusableTokenResponses(t *testing.T) { // TK-02, TK-06, C310, F404
	t.Parallel()
	for _, body := range []string{
		``, `null`, `[]`, `[{"access_token":"at","token_type":"Bearer"}]`, `"at"`, `<html>at</html>`,
		`access_token=at&token_type=bearer`,
		`{}`,
		`{"token_type":"Bearer"}`,
		`{"access_token":"","token_type":"Bearer"}`,
		`{"access_token":null,"token_type":"Bearer"}`,
		`{"access_token":7,"token_type":"Bearer"}`,
		`{"access_token":["at"],"token_type":"Bearer"}`,
		`{"Access_Token":"at","token_type":"Bearer"}`,
		`{"access_token":"at"}`,
		`{"access_token":"at","token_type":""}`,
		`{"access_token":"at","token_type":"mac"}`,
		`{"access_token":"at","token_type":"DPoP"}`,
		`{"access_token":"at","token_type":7}`,
		`{"access_token":"a b","token_type":"Bearer"}`,
		`{"access_token":"a\r\nX: y","token_type":"Bearer"}`,
		`{"access_token":"ät","token_type":"Bearer"}`,
		`{"access_token":"at","token_type":"Bearer","refresh_token":7}`,
		`{"access_token":"at","token_type":"Bearer","refresh_token":"a\u0000b"}`,
		`{"access_token":"at","token_type":"Bearer","id_token":{}}`,
		`{"access_token":"at","token_type":"Bearer","scope":["openid"]}`,
		`{"access_token":"at","access_token":"at","token_type":"Bearer"}`,
		`{"access_token":"at","token_type":"Bearer","refresh_token":"a","refresh_token":"b"}`,
		`{"access_token":"at","token_type":"Bearer","expires_in":1,"expires_in":2}`,
		`{"access_token":"at","token_type":"Bearer"`,
		`{"access_token":"at","token_type":"Bearer"}}`,
		`{"access_token":"at","token_type":"Bearer","x":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`,
	} {
		r, err := parse(body)
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ClassOutage || e.Status != 200 || r != nil {
			t.Errorf("%.60s: %v", body, err)
		}
	}
	r, err := parse(`{"error":"invalid_grant","access_token":"at","token_type":"Bearer"}`)
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ClassSessionOver || e.Code != "invalid_grant" || r != nil {
		t.Errorf("error in a 200: %v", err)
	}
	if _, err = parse(`{"error":7}`); ClassOf(err) != ClassOutage {
		t.Errorf("error that is a number: %v", err)
	}
}

// TestGzipBomb: what counts is what a decompressor gives (C310, H106).
func TestGzipBomb(t *testing.T) { // not parallel: it measures what is allocated
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	_, _ = z.Write(bytes.Repeat([]byte("a"), 1<<20))
	_ = z.Close()
	bomb := strings.Repeat(member.String(), 256) // 256 MiB in as many members
	as := astest.New(astest.Options{}).Start(t)
	c := newClient(t, as, func(cfg *Config) { cfg.HTTP = nil })
	as.Script(astest.Token, astest.Answer{Body: bomb, Header: http.Header{"Content-Encoding": {"gzip"}}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
	runtime.ReadMemStats(&after)
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ClassOutage || !errors.Is(err, errTooLarge) {
		t.Errorf("%v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d MiB allocated", grown>>20)
	}
}

func TestHugeTokenResponse(t *testing.T) { // TK-07, H106
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	body := func(size int) string {
		return `{"access_token":"at","token_type":"Bearer","x":"` + strings.Repeat("x", size) + `"}`
	}
	as.Script(astest.Token, astest.Answer{Body: body(5 << 20)}, astest.Answer{Body: body(1000 << 10)})
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); !errors.Is(err, errTooLarge) || ClassOf(err) != ClassOutage {
		t.Errorf("5 MiB: %v", err)
	}
	if _, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"}); err != nil {
		t.Errorf("1000 KiB: %v", err)
	}
}

func TestErrorAnswers(t *testing.T) { // TK-06, RF-05, RF-06, RF-08, F402, F404, DESIGN.md 6.8
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	for _, tc := range []struct {
		status     int
		body       string
		retryAfter string
		class      Class
		code       string
		wait       time.Duration
	}{
		{400, `{"error":"invalid_grant"}`, "", ClassSessionOver, "invalid_grant", 0},
		{401, `{"error":"invalid_grant"}`, "", ClassSessionOver, "invalid_grant", 0},
		{403, `{"error":"invalid_grant"}`, "", ClassSessionOver, "invalid_grant", 0},
		{400, `{"error":"login_required"}`, "", ClassSessionOver, "login_required", 0},
		{400, `{"error":"interaction_required"}`, "", ClassSessionOver, "interaction_required", 0},
		{400, `{"error":"consent_required"}`, "", ClassSessionOver, "consent_required", 0},
		{401, `{"error":"invalid_client"}`, "", ClassConfiguration, "invalid_client", 0},
		{400, `{"error":"invalid_client"}`, "", ClassConfiguration, "invalid_client", 0},
		{400, `{"error":"unauthorized_client"}`, "", ClassConfiguration, "unauthorized_client", 0},
		{400, `{"error":"invalid_scope"}`, "", ClassConfiguration, "invalid_scope", 0},
		{400, `{"error":"invalid_target"}`, "", ClassConfiguration, "invalid_target", 0},
		{400, `{"error":"unsupported_grant_type"}`, "", ClassConfiguration, "unsupported_grant_type", 0},
		{400, `{"error":"temporarily_unavailable"}`, "3", ClassOutage, "temporarily_unavailable", 3 * time.Second},
		{400, `{"error":"server_error"}`, "", ClassOutage, "server_error", 0},
		{500, `{"error":"invalid_grant"}`, "", ClassOutage, "invalid_grant", 0},
		{502, `<html>`, "", ClassOutage, "", 0},
		{503, ``, "30", ClassOutage, "", 30 * time.Second},
		{503, ``, "86400", ClassOutage, "", time.Minute},
		{503, ``, "99999999999999999999", ClassOutage, "", time.Minute},
		{503, ``, "-5", ClassOutage, "", 0},
		{503, ``, "soon", ClassOutage, "", 0},
		{503, ``, "Fri, 01 Jan 2100 00:00:00 GMT", ClassOutage, "", time.Minute},
		{503, ``, "Fri, 01 Jan 2010 00:00:00 GMT", ClassOutage, "", 0},
		{429, `{"error":"invalid_grant"}`, "1", ClassOutage, "invalid_grant", time.Second},
		{408, ``, "", ClassOutage, "", 0},
		{400, ``, "", ClassRefused, "", 0},
		{400, `<html>`, "", ClassRefused, "", 0},
		{400, `[]`, "", ClassRefused, "", 0},
		{400, `{"error":7}`, "", ClassRefused, "", 0},
		{400, `{"error":"invalid\u0000grant"}`, "", ClassRefused, "", 0},
		{400, `{"error":"invalid_request"}`, "", ClassRefused, "invalid_request", 0},
		{400, `{"error":"x_vendor"}`, "", ClassRefused, "x_vendor", 0},
		{401, ``, "", ClassRefused, "", 0},
		{403, ``, "", ClassRefused, "", 0},
		{404, ``, "", ClassRefused, "", 0},
		{200, `{"error":"invalid_grant"}`, "", ClassSessionOver, "invalid_grant", 0},
		{200, `{"error":"bad_thing"}`, "", ClassRefused, "bad_thing", 0},
		{200, ``, "", ClassOutage, "", 0},
		{204, ``, "", ClassOutage, "", 0},
		{201, `{"access_token":"at","token_type":"Bearer"}`, "", ClassOutage, "", 0},
		{302, ``, "", ClassOutage, "", 0},
	} {
		a := astest.Answer{Status: tc.status, Body: tc.body}
		if tc.retryAfter != "" {
			a.Header = http.Header{"Retry-After": {tc.retryAfter}}
		}
		before := as.Count(astest.Token)
		as.Script(astest.Token, a)
		r, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
		e, ok := errors.AsType[*Error](err)
		if !ok || r != nil || e.Class != tc.class || e.Status != tc.status || e.Code != tc.code || e.RetryAfter != tc.wait || ClassOf(err) != tc.class {
			t.Errorf("%d %s (%s): %v, class %v, retry after %v", tc.status, tc.body, tc.retryAfter, err, ClassOf(err), e)
		}
		if n := as.Count(astest.Token) - before; n != 1 {
			t.Errorf("%d %s: %d requests", tc.status, tc.body, n)
		}
	}
}

func TestErrorTextIsBoundedAndClean(t *testing.T) {
	t.Parallel()
	as := astest.New(astest.Options{})
	c := newClient(t, as)
	as.Script(astest.Token, astest.JSON(400, map[string]string{
		"error": "invalid_grant", "error_description": "two\nlines", "error_uri": strings.Repeat("u", 5000),
	}), astest.JSON(400, map[string]string{"error": "invalid_grant", "error_description": "alice is locked"}))
	_, err := c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Description != "" || e.URI != "" {
		t.Errorf("%+v", e)
	}
	_, err = c.Refresh(t.Context(), RefreshRequest{RefreshToken: "x"})
	if e, ok := errors.AsType[*Error](err); !ok || e.Description != "alice is locked" || strings.Contains(err.Error(), "alice") || !strings.Contains(err.Error(), "400 invalid_grant") {
		t.Errorf("%v", err)
	}
}

func TestClassOf(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want Class
		name string
	}{
		{nil, ClassOutage, "outage"},
		{errors.New("x"), ClassOutage, "outage"},
		{errors.Join(errors.New("x"), &Error{Class: ClassRefused}), ClassRefused, "refused"},
		{ErrSubjectChanged, ClassSessionOver, "session_over"},
		{&Error{Class: ClassConfiguration}, ClassConfiguration, "configuration"},
		{&Error{Class: ClassAmbiguous}, ClassAmbiguous, "ambiguous"},
		{&Error{Class: ClassNotSent}, ClassNotSent, "not_sent"},
	} {
		if got := ClassOf(tc.err); got != tc.want || got.String() != tc.name {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", " 5 ")
	if got := retryAfter(w.Header(), sentAt); got != 5*time.Second {
		t.Error(got)
	}
}

func FuzzTokenResponse(f *testing.F) {
	f.Add([]byte(`{"access_token":"at","token_type":"Bearer","expires_in":300,"refresh_token":"rt","scope":"a b"}`), 200)
	f.Add([]byte(`{"error":"invalid_grant"}`), 400)
	f.Add([]byte(`{"access_token":"at","token_type":"bearer","expires_in":"1e9"}`), 200)
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		a := &answer{status: status, body: body, sent: sentAt}
		if e := answerError(a); errorText(e.Code, 128) != e.Code || errorText(e.Description, maxErrorText) != e.Description {
			t.Fatalf("%+v", e)
		}
		a.status = 200
		var r *TokenResponse
		var err error
		bounded(t, len(body), func() { r, err = parseTokenResponse(a, false) })
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok || r != nil {
				t.Fatalf("%v %v", r, err)
			}
			return
		}
		for _, s := range []Secret{r.AccessToken, r.RefreshToken, r.IDToken} {
			if !visible(s.Reveal(), false) {
				t.Fatal("a token with characters that no header field takes")
			}
		}
		for _, end := range []time.Time{r.Expiry, r.RefreshExpiry} {
			if !end.IsZero() && (end.Before(sentAt) || end.After(sentAt.Add(maxExpiresIn))) {
				t.Fatalf("end %v", end)
			}
		}
		if r.AccessToken == "" {
			t.Fatal("no access token")
		}
	})
}
