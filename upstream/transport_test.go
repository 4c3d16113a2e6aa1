// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// generations is a session whose token has a generation, moved by refreshes.
type generations struct {
	mu       sync.Mutex
	current  int
	calls    int
	accepted []string
	refresh  func(context.Context) error // nil: succeeds at once
}

func generationToken(n int) string { return fmt.Sprintf("token-%d", n) }

func (s *generations) Token(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return generationToken(s.current), nil
}

func (s *generations) Refresh(ctx context.Context, refused string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused == generationToken(s.current) {
		s.calls++
		if s.refresh != nil {
			if err := s.refresh(ctx); err != nil {
				return "", err
			}
		}
		s.current++
	}
	return generationToken(s.current), nil
}

func (s *generations) Accepted(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = append(s.accepted, token)
}

// roundTrip is a resource server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answer makes a response; header are names and values in turn.
func answer(status int, body string, header ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

func refusal() *http.Response {
	return answer(401, "first answer", "WWW-Authenticate", `Bearer error="invalid_token"`, "X-Answer", "1")
}

// request makes a request under a grant. A nil body is none.
func request(ctx context.Context, g *Grant, method string, body io.Reader) *http.Request {
	if g != nil {
		ctx = WithGrant(ctx, g)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://rs.example/path?q=1", body)
	if err != nil {
		panic(err)
	}
	req.GetBody = nil // a server's request has none
	return req
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the answer: %v", err)
	}
	_ = resp.Body.Close()
	return string(b)
}

// TestAttach: PX-01, PX-11; the caller's request is left alone.
func TestAttach(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		grant *Grant
		want  []string
	}{
		{"no grant: untouched", nil, []string{"Bearer of the operator"}},
		{"token", &Grant{Source: &generations{}}, []string{"Bearer token-0"}},
		{"no token", &Grant{}, nil},
	} {
		var got *http.Request
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			got = r
			return answer(200, "fine"), nil
		})}
		req := request(t.Context(), tt.grant, "GET", nil)
		req.Header.Set("Authorization", "Bearer of the operator")
		req.Header.Set("X-A", "b")
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 || read(t, resp) != "fine" {
			t.Fatalf("%s: %v, %v", tt.name, resp, err)
		}
		if auth := got.Header["Authorization"]; !slices.Equal(auth, tt.want) {
			t.Errorf("%s: Authorization %q, want %q", tt.name, auth, tt.want)
		}
		if got.Header.Get("X-A") != "b" || got.URL.String() != req.URL.String() || got.Context() != req.Context() {
			t.Errorf("%s: sent %v", tt.name, got)
		}
		if len(req.Header) != 2 || req.Header.Get("Authorization") != "Bearer of the operator" {
			t.Errorf("%s: the caller's header became %v", tt.name, req.Header)
		}
	}
}

// TestHeal: what becomes of a 401. PX-02, PX-04, PX-05, PX-06, PX-07, PX-09,
// B213, B214.
func TestHeal(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	type try = func(*http.Request) (*http.Response, error)
	refuse := func(*http.Request) (*http.Response, error) { return refusal(), nil }
	fine := func(*http.Request) (*http.Response, error) { return answer(200, "fine"), nil }
	says := func(status int, header ...string) try {
		return func(*http.Request) (*http.Response, error) { return answer(status, "said", header...), nil }
	}
	fail := func(*http.Request) (*http.Response, error) { return nil, broken }
	for _, tt := range []struct {
		name     string
		tries    []try
		refresh  error
		grant    Grant
		status   int
		body     string
		err      error
		results  []ReplayResult
		refreshs int
	}{
		{name: "healed", tries: []try{refuse, fine}, status: 200, body: "fine", results: []ReplayResult{ReplayHealed}, refreshs: 1},
		{name: "fresh token is taken, request is not", tries: []try{refuse, says(500)}, status: 500, body: "said", results: []ReplayResult{ReplayHealed}, refreshs: 1},
		{
			name: "refused again: the second answer", tries: []try{refuse, says(401, "WWW-Authenticate", `Bearer error="invalid_token"`)},
			status: 401, body: "said", results: []ReplayResult{ReplayRefused}, refreshs: 1,
		},
		{name: "the client's own token", tries: []try{refuse}, grant: Grant{OwnToken: true}, status: 401, body: "first answer"},
		{name: "refresh fails: the first answer", tries: []try{refuse}, refresh: broken, status: 401, body: "first answer", results: []ReplayResult{ReplayRefreshFailed}, refreshs: 1},
		{name: "replay fails: the first answer", tries: []try{refuse, fail}, status: 401, body: "first answer", results: []ReplayResult{ReplayFailed}, refreshs: 1},
		{name: "no first answer", tries: []try{fail}, err: broken},
		{name: "403 insufficient_scope", tries: []try{says(403, "WWW-Authenticate", `Bearer error="insufficient_scope"`)}, status: 403, body: "said", grant: Grant{HealAny401: true}},
		{name: "403 invalid_token", tries: []try{says(403, "WWW-Authenticate", `Bearer error="invalid_token"`)}, status: 403, body: "said", grant: Grant{HealAny401: true}},
		{name: "400 invalid_request", tries: []try{says(400, "WWW-Authenticate", `Bearer error="invalid_request"`)}, status: 400, body: "said", grant: Grant{HealAny401: true}},
		{name: "401 insufficient_scope", tries: []try{says(401, "WWW-Authenticate", `Bearer error="insufficient_scope"`)}, status: 401, body: "said", grant: Grant{HealAny401: true, HealBare401: true}},
		{name: "401 of the application", tries: []try{says(401)}, status: 401, body: "said"},
		{name: "401 of the application, any_401", tries: []try{says(401), fine}, status: 200, body: "fine", grant: Grant{HealAny401: true}, results: []ReplayResult{ReplayHealed}, refreshs: 1},
		{name: "401 Basic, expiry unknown", tries: []try{says(401, "WWW-Authenticate", "Basic"), fine}, status: 200, body: "fine", grant: Grant{HealBare401: true}, results: []ReplayResult{ReplayHealed}, refreshs: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			source := &generations{}
			if tt.refresh != nil {
				source.refresh = func(context.Context) error { return tt.refresh }
			}
			var tokens []string
			var results []ReplayResult
			tr := &Transport{
				Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					body, _ := io.ReadAll(r.Body)
					_ = r.Body.Close()
					if string(body) != "hello" || r.Method != "POST" || r.URL.String() != "http://rs.example/path?q=1" {
						t.Errorf("request %d is %s %s %q", len(tokens), r.Method, r.URL, body)
					}
					tokens = append(tokens, r.Header.Get("Authorization"))
					if len(tokens) > len(tt.tries) {
						t.Fatal("one request too many")
					}
					return tt.tries[len(tokens)-1](r)
				}),
				Replayed: func(_ context.Context, r ReplayResult) { results = append(results, r) },
			}
			tt.grant.Source = source
			resp, err := tr.RoundTrip(request(t.Context(), &tt.grant, "POST", strings.NewReader("hello")))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if len(tokens) != len(tt.tries) {
				t.Errorf("%d requests, want %d", len(tokens), len(tt.tries))
			}
			for i, token := range tokens {
				if token != "Bearer "+generationToken(i) {
					t.Errorf("request %d had %q", i, token)
				}
			}
			if !slices.Equal(results, tt.results) || source.calls != tt.refreshs {
				t.Errorf("results %v and %d refreshes, want %v and %d", results, source.calls, tt.results, tt.refreshs)
			}
			wantAccepted := []string(nil)
			if slices.Contains(tt.results, ReplayHealed) {
				wantAccepted = []string{generationToken(1)}
			}
			if !slices.Equal(source.accepted, wantAccepted) {
				t.Errorf("accepted %q, want %q", source.accepted, wantAccepted)
			}
			if err != nil {
				return
			}
			if got := read(t, resp); resp.StatusCode != tt.status || got != tt.body {
				t.Errorf("answered %d %q, want %d %q", resp.StatusCode, got, tt.status, tt.body)
			}
			if first := resp.Header.Get("X-Answer") == "1"; first != (tt.body == "first answer") {
				t.Errorf("header is of the wrong answer: %v", resp.Header)
			}
			if resp.Header["Www-Authenticate"] != nil {
				t.Errorf("challenge for the browser: %q", resp.Header["Www-Authenticate"])
			}
		})
	}
}

// TestFirstAnswerOnceMore: the first answer stands as it was where it is small,
// and without its body where it is long or slow.
func TestFirstAnswerOnceMore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method string
		body         func() io.ReadCloser
		length       int64
		want         string
		wantLength   string
	}{
		{"small", "GET", func() io.ReadCloser { return io.NopCloser(strings.NewReader("small")) }, 5, "small", "5"},
		{"as large as may be", "GET", func() io.ReadCloser { return io.NopCloser(strings.NewReader(strings.Repeat("x", maxKeptAnswer))) },
			maxKeptAnswer, strings.Repeat("x", maxKeptAnswer), fmt.Sprint(maxKeptAnswer)},
		{"too long", "GET", func() io.ReadCloser { return io.NopCloser(strings.NewReader(strings.Repeat("x", maxKeptAnswer+1))) },
			maxKeptAnswer + 1, "", "0"},
		{"slow", "GET", func() io.ReadCloser { r, _ := io.Pipe(); return r }, 1000, "", "0"},
		{"broken", "GET", func() io.ReadCloser { r, w := io.Pipe(); go w.CloseWithError(io.ErrUnexpectedEOF); return r }, 1000, "", "0"},
		{"none", "GET", func() io.ReadCloser { return http.NoBody }, 0, "", "0"},
		{"of HEAD", "HEAD", func() io.ReadCloser { return http.NoBody }, 1000, "", "1000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
					resp := refusal()
					resp.Body, resp.ContentLength = tt.body(), tt.length
					resp.Header.Set("Content-Length", fmt.Sprint(tt.length))
					resp.Header.Set("Content-Encoding", "gzip")
					return resp, nil
				})}
				source := &generations{refresh: func(context.Context) error { return errors.New("out") }}
				begun := time.Now()
				resp, err := tr.RoundTrip(request(t.Context(), &Grant{Source: source}, tt.method, nil))
				if err != nil {
					t.Fatal(err)
				}
				if time.Since(begun) > keepAnswerTime {
					t.Errorf("answered after %v", time.Since(begun))
				}
				if got := read(t, resp); got != tt.want || resp.StatusCode != 401 || resp.Header.Get("X-Answer") != "1" {
					t.Errorf("answered %d with %d bytes, %v", resp.StatusCode, len(got), resp.Header)
				}
				if got := resp.Header.Get("Content-Length"); got != tt.wantLength || fmt.Sprint(resp.ContentLength) != tt.wantLength {
					t.Errorf("Content-Length %s and %d, want %s", got, resp.ContentLength, tt.wantLength)
				}
				emptied := tt.want == "" && tt.wantLength == "0" && tt.length > 0
				if got := resp.Header.Get("Content-Encoding") == ""; got != emptied {
					t.Errorf("Content-Encoding removed: %t", got)
				}
			})
		})
	}
}

// TestHealIsBounded: a refresh that hangs holds a request for HealTimeout and no
// longer, as the time counts against the upstream. The client leaving ends it at
// once.
func TestHealIsBounded(t *testing.T) {
	t.Parallel()
	for _, leaves := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			want := DefaultHealTimeout
			if leaves {
				want = 3 * time.Second
				time.AfterFunc(want, cancel)
			}
			source := &generations{refresh: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
			tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) { return refusal(), nil })}
			begun := time.Now()
			resp, err := tr.RoundTrip(request(ctx, &Grant{Source: source}, "GET", nil))
			if err != nil || read(t, resp) != "first answer" {
				t.Errorf("client leaves %t: %v, %v; want the first answer", leaves, resp, err)
			}
			if d := time.Since(begun); d != want {
				t.Errorf("client leaves %t: answered after %v, want %v", leaves, d, want)
			}
		})
	}
}

// TestOneRefreshForMany: a hundred requests refused at once cause one refresh
// and at most one replay each. PX-06.
func TestOneRefreshForMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		source := &generations{}
		var mu sync.Mutex
		asked := 0
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			asked++
			mu.Unlock()
			time.Sleep(time.Millisecond)
			_ = r.Body.Close()
			if r.Header.Get("Authorization") == "Bearer token-0" {
				return refusal(), nil
			}
			return answer(200, "fine"), nil
		})}
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				resp, err := tr.RoundTrip(request(t.Context(), &Grant{Source: source}, "POST", strings.NewReader("x")))
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%v, %v", resp, err)
				}
			})
		}
		wg.Wait()
		if source.calls != 1 || asked != 2*n {
			t.Errorf("%d refreshes and %d requests, want 1 and %d", source.calls, asked, 2*n)
		}
	})
}

// brokenSource fails to give a token.
type brokenSource struct{ err error }

func (s brokenSource) Token(context.Context) (string, error)           { return "", s.err }
func (s brokenSource) Refresh(context.Context, string) (string, error) { return "", s.err }

// TestTokenFails: the resource server is not asked, and not blamed either if the
// grant can answer.
func TestTokenFails(t *testing.T) {
	t.Parallel()
	out := errors.New("authorization server is out")
	never := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("the resource server was asked")
		return nil, io.EOF
	})}
	t.Run("error", func(t *testing.T) {
		resp, err := never.RoundTrip(request(t.Context(), &Grant{Source: brokenSource{out}}, "POST", strings.NewReader("x")))
		var tokenError *TokenError
		if resp != nil || !errors.As(err, &tokenError) || !errors.Is(err, out) {
			t.Errorf("got %v, %v", resp, err)
		}
	})
	t.Run("answer", func(t *testing.T) {
		closing := make(http.Header)
		g := &Grant{Source: brokenSource{out}, ResponseHeader: closing, TokenError: func(err error) *http.Response {
			if !errors.Is(err, out) {
				t.Errorf("told of %v", err)
			}
			return answer(503, "out", "X-BFF-Error", "ours")
		}}
		resp, err := never.RoundTrip(request(t.Context(), g, "POST", strings.NewReader("x")))
		if err != nil || resp.StatusCode != 503 || resp.Header.Get("X-BFF-Error") != "ours" || read(t, resp) != "out" {
			t.Errorf("got %v, %v", resp, err)
		}
		if closing.Get("Connection") != "close" {
			t.Error("a connection with an unread body stays open")
		}
	})
	t.Run("client has gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		g := &Grant{Source: brokenSource{out}, TokenError: func(error) *http.Response { t.Error("asked for an answer"); return nil }}
		if _, err := never.RoundTrip(request(ctx, g, "GET", nil)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	for _, token := range []string{"", "a b", "a\r\nX-Evil: 1", "a\x00"} {
		_, err := never.RoundTrip(request(t.Context(), &Grant{Source: &staticSource{token}}, "GET", nil))
		if !errors.Is(err, ErrTokenUnusable) || token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	t.Run("refresh gives the same token", func(t *testing.T) {
		n := 0
		tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) { n++; return refusal(), nil })}
		resp, err := tr.RoundTrip(request(t.Context(), &Grant{Source: &staticSource{"same"}}, "GET", nil))
		if err != nil || resp.StatusCode != 401 || n != 1 {
			t.Errorf("%v, %v after %d requests, want the 401 after one", resp, err, n)
		}
	})
}

// TestMethodsNeverRelayed: PX-14.
func TestMethodsNeverRelayed(t *testing.T) {
	t.Parallel()
	tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("the resource server was asked")
		return nil, io.EOF
	})}
	for _, method := range []string{"TRACE", "CONNECT"} {
		resp, err := tr.RoundTrip(request(t.Context(), &Grant{Source: &generations{}}, method, nil))
		if err != nil || resp.StatusCode != 405 || resp.Header.Get("Allow") == "" {
			t.Errorf("%s: %v, %v", method, resp, err)
		}
	}
}

// pipeBody is what a 101 has for a body.
type pipeBody struct{ io.ReadWriteCloser }

// TestSwitchingProtocols: the body of a 101 is handed over as it is, and only to
// who asked for it. PX-10, B205.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	client, server := io.Pipe()
	t.Cleanup(func() { _ = server.Close() })
	body := &pipeBody{struct {
		io.Reader
		io.WriteCloser
	}{client, server}}
	tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		resp := answer(101, "", "Upgrade", "websocket", "Connection", "Upgrade")
		resp.Body = body
		return resp, nil
	})}
	req := request(t.Context(), &Grant{Source: &generations{}}, "GET", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := tr.RoundTrip(req)
	if err != nil || resp.StatusCode != 101 || resp.Body != io.ReadCloser(body) {
		t.Errorf("%v, %v", resp, err)
	}
	if resp.Header["Cache-Control"] != nil || resp.Header["Vary"] != nil {
		t.Errorf("a 101 is not cached: %v", resp.Header)
	}
	req.Header.Set("Upgrade", "h2c")
	resp, err = tr.RoundTrip(req)
	if err != nil || resp.StatusCode != 502 || resp.Body != http.NoBody {
		t.Errorf("unasked: %v, %v", resp, err)
	}
}

// BenchmarkRoundTrip measures what the transport adds to a request that a
// browser sends, besides the round trip itself.
func BenchmarkRoundTrip(b *testing.B) {
	header := http.Header{
		"Accept": {"*/*"}, "Accept-Encoding": {"gzip, br"}, "Accept-Language": {"en"}, "User-Agent": {"Mozilla/5.0"},
		"Referer": {"https://app.example.com/"}, "Sec-Fetch-Dest": {"empty"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"same-origin"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"app.example.com"}, "Via": {"2.0 Caddy"},
		"Cookie": {"theme=dark; lang=en"},
	}
	source := &staticSource{strings.Repeat("a", 900)}
	resp := new(http.Response)
	chunked := strings.NewReader("")
	base := roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
		}
		*resp = http.Response{StatusCode: 200, ProtoMajor: 1, Body: http.NoBody}
		if r.Method == "PUT" {
			resp.Body, resp.ContentLength, resp.TransferEncoding = io.NopCloser(chunked), -1, []string{"chunked"}
		}
		resp.Header = http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"private, no-store"}, "Vary": {"Cookie"}}
		return resp, nil
	})
	grant := &Grant{Source: source, ReservedCookie: isOurs}
	// What reverse_proxy puts into the context of each request.
	trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil }}
	for _, bb := range []struct {
		name, method string
		size         int
		traced       bool
		transport    http.RoundTripper
	}{
		{"base", "POST", 0, false, base},
		{"attach", "POST", 0, false, &Transport{Base: base}},
		{"attach, traced", "POST", 0, true, &Transport{Base: base}},
		{"attach, traced, chunked answer", "PUT", 0, true, &Transport{Base: base}},
		{"base, 1 kB body", "POST", 1000, false, base},
		{"attach, 1 kB body", "POST", 1000, false, &Transport{Base: base}},
		{"attach, 60 kB body", "POST", 60000, false, &Transport{Base: base}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			req := httptest.NewRequest(bb.method, "/api", nil)
			req.Header = header
			ctx := WithGrant(req.Context(), grant)
			if bb.traced {
				ctx = httptrace.WithClientTrace(ctx, trace)
			}
			req = req.WithContext(ctx)
			body := strings.Repeat("b", bb.size)
			b.ReportAllocs()
			for b.Loop() {
				if body != "" {
					req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				} else {
					req.Body, req.ContentLength = nil, 0
				}
				resp, err := bb.transport.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
}
