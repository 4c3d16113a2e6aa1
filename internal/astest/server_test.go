// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const verifier = "0123456789012345678901234567890123456789012"

// login signs in at as and returns the code.
func login(t *testing.T, s *Server) string {
	t.Helper()
	sum := sha256.Sum256([]byte(verifier))
	callback, err := s.Login(s.Issuer() + "/authorize?" + url.Values{
		"client_id": {"app"}, "redirect_uri": {"https://rp.test/cb"}, "response_type": {"code"},
		"scope": {"openid offline_access"}, "state": {"st"}, "nonce": {"n-1"},
		"code_challenge": {b64(sum[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if got := callback.Query().Get("iss"); got != s.Issuer() {
		t.Fatalf("iss = %q", got)
	}
	return callback.Query().Get("code")
}

// post sends a form to the token endpoint with client_secret_basic.
func post(ctx context.Context, client *http.Client, s *Server, form url.Values) (int, map[string]any, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Issuer()+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("app", "secret")
	res, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, nil, err
	}
	var body map[string]any
	if err := json.Unmarshal(data, &body); err != nil {
		return res.StatusCode, nil, fmt.Errorf("body %q: %w", data, err)
	}
	return res.StatusCode, body, nil
}

func refresh(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

func exchange(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {"https://rp.test/cb"}}
}

// both runs a test in memory and over a socket.
func both(t *testing.T, o Options, f func(t *testing.T, s *Server, client *http.Client)) {
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		s := New(o)
		f(t, s, s.HTTPClient())
	})
	t.Run("listening", func(t *testing.T) {
		t.Parallel()
		s := New(o).Start(t)
		f(t, s, &http.Client{Transport: &http.Transport{}})
	})
}

func TestLoginExchangeAndStrictRotation(t *testing.T) {
	both(t, Options{}, func(t *testing.T, s *Server, client *http.Client) {
		ctx := t.Context()
		code := login(t, s)
		status, body, err := post(ctx, client, s, exchange(code))
		if err != nil || status != 200 || body["id_token"] == nil {
			t.Fatalf("exchange: %d %v %v", status, body, err)
		}
		rs := s.ResourceServer()
		call := func() int {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/x?y=1", nil)
			r.Header.Set("Authorization", "Bearer "+body["access_token"].(string))
			rs.ServeHTTP(w, r)
			return w.Code
		}
		if got := call(); got != 200 {
			t.Fatalf("resource server: %d", got)
		}
		rs.Refuse(1)
		if got := [2]int{call(), call()}; got != [2]int{401, 200} {
			t.Fatalf("refused once: %v", got)
		}
		if n := s.RevokeAccessTokens("alice"); n != 1 || call() != 401 {
			t.Fatalf("revoked %d", n)
		}
		first := body["refresh_token"].(string)
		status, body, err = post(ctx, client, s, refresh(first))
		if err != nil || status != 200 || call() != 200 {
			t.Fatalf("refresh: %d %v %v", status, body, err)
		}
		second := body["refresh_token"].(string)
		if status, again, _ := post(ctx, client, s, refresh(first)); status != 400 || again["error"] != "invalid_grant" {
			t.Fatalf("reuse: %d %v", status, again)
		}
		if status, _, _ := post(ctx, client, s, refresh(second)); status != 400 || call() != 401 {
			t.Fatal("the family outlived a reuse")
		}
		if s.ReuseDetections() != 1 || s.Refreshes() != 1 || len(s.RefreshRequests()) != 3 {
			t.Fatalf("counted %d reuses, %d refreshes, %d requests", s.ReuseDetections(), s.Refreshes(), len(s.RefreshRequests()))
		}
		if r := s.Requests(Token)[1]; r.Token != first || r.ClientAuth != "client_secret_basic" || r.Subject != "alice" || r.Status != 200 {
			t.Fatalf("recorded %+v", r)
		}
		if status, _, _ := post(ctx, client, s, exchange(code)); status != 400 {
			t.Fatal("a code was taken twice")
		}
	})
}

func TestRotationPolicies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Rotation: RotateGrace, Grace: 5 * time.Second})
		first := s.Issue("alice", "openid", "").RefreshToken
		_, a, _ := post(t.Context(), s.HTTPClient(), s, refresh(first))
		time.Sleep(4 * time.Second)
		_, b, _ := post(t.Context(), s.HTTPClient(), s, refresh(first))
		if a["refresh_token"] != b["refresh_token"] || a["refresh_token"] == first {
			t.Fatalf("within grace: %v, then %v", a["refresh_token"], b["refresh_token"])
		}
		time.Sleep(2 * time.Second)
		if status, _, _ := post(t.Context(), s.HTTPClient(), s, refresh(first)); status != 400 || s.ReuseDetections() != 1 {
			t.Fatal("grace never ended")
		}

		s.Configure(func(o *Options) { o.Rotation = RotateSame })
		same := s.Issue("bob", "openid", "").RefreshToken
		for range 3 {
			if _, body, _ := post(t.Context(), s.HTTPClient(), s, refresh(same)); body["access_token"] == nil || body["refresh_token"] != nil {
				t.Fatalf("same: %v", body)
			}
		}
		s.RevokeGrants("bob")
		if status, _, _ := post(t.Context(), s.HTTPClient(), s, refresh(same)); status != 400 {
			t.Fatal("a revoked grant was refreshed")
		}
	})
}

func TestScriptedAnswers(t *testing.T) {
	both(t, Options{}, func(t *testing.T, s *Server, client *http.Client) {
		ctx := t.Context()
		token := s.Issue("alice", "openid", "").RefreshToken
		s.Script(Token,
			OAuthError(503, "temporarily_unavailable"),
			Answer{Cut: true},
			Answer{CutUnread: true},
			Answer{Body: `{"access_token":"x"}`, TruncateAt: 5},
			Answer{Body: `{"a":1}`, Drip: time.Millisecond},
			Answer{Hang: true},
			Answer{CutReply: true},
		)
		if status, _, _ := post(ctx, client, s, refresh(token)); status != 503 {
			t.Errorf("scripted status: %d", status)
		}
		for _, what := range []string{"cut", "cut unread", "truncated"} {
			if _, _, err := post(ctx, client, s, refresh(token)); err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		if _, body, err := post(ctx, client, s, refresh(token)); err != nil || body["a"] != 1.0 {
			t.Errorf("drip: %v %v", body, err)
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, _, err := post(short, client, s, refresh(token)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hang: %v", err)
		}
		if s.Refreshes() != 0 {
			t.Error("one of these acted on the request")
		}
		if _, _, err := post(ctx, client, s, refresh(token)); err == nil || s.Refreshes() != 1 {
			t.Errorf("reply cut: %v, %d refreshes", err, s.Refreshes())
		}
		if status, _, _ := post(ctx, client, s, refresh(token)); status != 400 {
			t.Errorf("the lost refresh was not committed: %d", status)
		}
	})
}

// What is queued comes before what the option says, and that before what is usual.
func TestTokenAnswer(t *testing.T) {
	both(t, Options{TokenAnswer: func(r Request) *Answer {
		if r.Form.Get("resource") == "" {
			return nil
		}
		return &Answer{Status: 418}
	}}, func(t *testing.T, s *Server, client *http.Client) {
		form := refresh(s.Issue("alice", "openid", "").RefreshToken)
		form.Set("resource", "https://orders.test")
		s.Script(Token, Answer{Status: 503})
		for _, want := range []int{503, 418, 418} {
			if status, _, _ := post(t.Context(), client, s, form); status != want {
				t.Errorf("answered %d, want %d", status, want)
			}
		}
		form.Del("resource")
		if status, _, _ := post(t.Context(), client, s, form); status != 200 {
			t.Errorf("answered %d", status)
		}
	})
}

func TestDownAndUp(t *testing.T) {
	both(t, Options{}, func(t *testing.T, s *Server, client *http.Client) {
		token := s.Issue("alice", "openid", "").RefreshToken
		s.SetDown(true)
		if _, _, err := post(t.Context(), client, s, refresh(token)); err == nil {
			t.Fatal("answered while down")
		}
		s.SetDown(false)
		if status, _, err := post(t.Context(), client, s, refresh(token)); status != 200 {
			t.Fatalf("after the outage: %d %v", status, err)
		}
	})
}

func TestInMemoryHonoursContextAndFakeTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Latency: map[string]time.Duration{Token: time.Hour}})
		token := s.Issue("alice", "openid", "").RefreshToken
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, _, err := post(ctx, s.HTTPClient(), s, refresh(token))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		time.Sleep(time.Hour)
		if s.Refreshes() != 1 {
			t.Fatal("the server did not go on without its client")
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _, _ = post(t.Context(), s.HTTPClient(), s, refresh(token)) })
		}
		wg.Wait()
		if s.ReuseDetections() != 1 { // the grant is revoked by the first of them
			t.Fatalf("%d reuses", s.ReuseDetections())
		}
	})
}

func TestResourceServerInMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{AccessTokenLifetime: time.Minute, AccessTokenType: "opaque"})
		rs := s.ResourceServer()
		client := &http.Client{Transport: InMemory(rs)}
		token := s.Issue("alice", "openid", "").AccessToken
		call := func(authorization string) *http.Response {
			r, err := http.NewRequest("POST", "https://api.test/x?y", strings.NewReader("12345"))
			if err != nil {
				t.Fatal(err)
			}
			if authorization != "" {
				r.Header.Set("Authorization", authorization)
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		var answer ResourceAnswer
		res := call("Bearer " + token)
		err := json.NewDecoder(res.Body).Decode(&answer)
		res.Body.Close()
		if err != nil || answer.Subject != "alice" || answer.BodyBytes != 5 || answer.URL != "/x?y" || answer.Headers.Get("Authorization") != "" {
			t.Errorf("%+v %v", answer, err)
		}
		time.Sleep(time.Minute)
		for authorization, challenge := range map[string]string{
			"": "Bearer", "Basic eA==": "Bearer",
			"Bearer " + token: `Bearer error="invalid_token", error_description="expired or revoked"`,
		} {
			res := call(authorization)
			res.Body.Close()
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != challenge {
				t.Errorf("%q: %d %s", authorization, res.StatusCode, res.Header)
			}
		}
		if list := rs.Requests(); len(list) != 4 || list[0].Token != token || list[0].Subject != "alice" {
			t.Errorf("%+v", list)
		}
	})
}

func TestKeysVerify(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"} {
		s := New(Options{Algorithm: alg})
		token := s.Issue("alice", "openid", "n").AccessToken
		if sub, live := s.introspect(token); !live || sub != "alice" {
			t.Errorf("%s: own token not accepted", alg)
		}
		s.RotateKey("next", false)
		if _, live := s.introspect(token); !live {
			t.Errorf("%s: retired key forgotten", alg)
		}
		s.SetKeys(NewKey(alg, "a"))
		forged := NewKey(alg, "a").Sign(map[string]any{"alg": alg}, map[string]any{"sub": "mallory", "exp": 1 << 40})
		if _, live := s.introspect(forged); live {
			t.Errorf("%s: forged token accepted", alg)
		}
	}
}
