// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"slices"
	"sync"
	"testing"
)

// interimAnswer is a 1xx as a browser would get it.
type interimAnswer struct {
	code   int
	header http.Header
}

// browser notes the interim answers to a request as reverse_proxy hands them on:
// by a copy of what the hook is given.
type browser struct {
	mu       sync.Mutex
	got      []interimAnswer
	gotConns int
}

func (b *browser) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.gotConns++
		},
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.got = append(b.got, interimAnswer{code, maps.Clone(http.Header(header))})
			return nil
		},
	}
}

func (b *browser) codes() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var codes []int
	for _, a := range b.got {
		codes = append(codes, a.code)
	}
	return codes
}

// traced is a request under a grant whose interim answers go to b.
func traced(t *testing.T, g *Grant, b *browser, method, url string) *http.Request {
	t.Helper()
	ctx := httptrace.WithClientTrace(WithGrant(t.Context(), g), b.trace())
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// serve starts a resource server and returns what speaks its protocol, and its
// address.
func serve(t *testing.T, http2 bool, h http.HandlerFunc) (*http.Transport, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	base := &http.Transport{Protocols: new(http.Protocols)}
	base.Protocols.SetHTTP1(!http2)
	base.Protocols.SetUnencryptedHTTP2(http2)
	s.Config.Protocols = base.Protocols
	s.Start()
	t.Cleanup(s.Close)
	t.Cleanup(base.CloseIdleConnections)
	return base, s.URL
}

// hint sends 103 (Early Hints, RFC 8297).
func hint(w http.ResponseWriter, h http.Header) {
	maps.Copy(w.Header(), h)
	w.WriteHeader(http.StatusEarlyHints)
	clear(w.Header())
}

// TestInterimAnswerHygiene: what a resource server may not say in its answer it
// may not say before its answer either. B212, B216, PX-12.
func TestInterimAnswerHygiene(t *testing.T) {
	t.Parallel()
	said := http.Header{
		"Link":                             {"</a.css>; rel=preload"},
		"Set-Cookie":                       {"a=1", "__Host-Http-bff=evil; Path=/"},
		"X-Bff-Error":                      {"session_required"},
		"Www-Authenticate":                 {"Basic realm=x"},
		"Dpop-Nonce":                       {"n"},
		"Access-Control-Allow-Origin":      {"https://evil.test"},
		"Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Expose-Headers":    {"Link"},
		"Cdn-Cache-Control":                {"max-age=60"},
		"Cache-Control":                    {"public, max-age=60"},
	}
	for _, tt := range []struct {
		name  string
		grant Grant
		want  http.Header
	}{
		{"default", Grant{}, http.Header{
			"Link": {"</a.css>; rel=preload"}, "Set-Cookie": {"a=1"}, "Cache-Control": {"private, max-age=60"},
		}},
		{"cors and cache kept", Grant{KeepCORS: true, CacheUpstream: true}, http.Header{
			"Link": {"</a.css>; rel=preload"}, "Set-Cookie": {"a=1"}, "Cache-Control": {"public, max-age=60"},
			"Cdn-Cache-Control": {"max-age=60"}, "Access-Control-Expose-Headers": {"Link"},
		}},
	} {
		for _, http2 := range []bool{false, true} {
			base, url := serve(t, http2, func(w http.ResponseWriter, _ *http.Request) { hint(w, said) })
			b := new(browser)
			tt.grant.Source, tt.grant.ReservedCookie = &generations{}, isOurs
			resp, err := (&Transport{Base: base}).RoundTrip(traced(t, &tt.grant, b, "GET", url))
			if err != nil || resp.StatusCode != 200 || http2 != (resp.ProtoMajor == 2) {
				t.Fatalf("%s, HTTP/2 %t: %v, %v", tt.name, http2, resp, err)
			}
			read(t, resp)
			if want := []interimAnswer{{103, tt.want}}; !reflect.DeepEqual(b.got, want) {
				t.Errorf("%s, HTTP/2 %t: got %v, want %v", tt.name, http2, b.got, want)
			}
			if b.gotConns != 1 {
				t.Errorf("%s, HTTP/2 %t: the other hooks are gone", tt.name, http2)
			}
		}
	}
}

// TestInterimAnswersOfReplay: hints that came before a refusal do not come once
// more before the replay's answer; those that did not come then do. PX-09.
func TestInterimAnswersOfReplay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		first, second []int
		want          []int
	}{
		{"both", []int{103, 103}, []int{103}, []int{103, 103}},
		{"replay alone", nil, []int{103, 103}, []int{103, 103}},
		{"first alone", []int{103}, nil, []int{103}},
		{"continue", []int{100}, []int{100, 103}, []int{100, 103}},
		{"signs of life", []int{102, 104}, []int{102, 104}, []int{102, 104, 102, 104}},
	} {
		for _, http2 := range []bool{false, true} {
			base, url := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
				codes, refuses := tt.second, r.Header.Get("Authorization") == "Bearer token-0"
				if refuses {
					codes = tt.first
				}
				for _, code := range codes {
					w.WriteHeader(code)
				}
				if refuses {
					w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			b := new(browser)
			resp, err := (&Transport{Base: base}).RoundTrip(traced(t, &Grant{Source: &generations{}}, b, "GET", url))
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s, HTTP/2 %t: %v, %v", tt.name, http2, resp, err)
			}
			read(t, resp)
			if got := b.codes(); !slices.Equal(got, tt.want) {
				t.Errorf("%s, HTTP/2 %t: got %v, want %v", tt.name, http2, got, tt.want)
			}
		}
	}
}

// TestInterimAnswerIsNoSwitch: HTTP/2 has no 101 (RFC 9113 section 8.6). Handed
// on as an interim answer it would open a tunnel to an HTTP/1 browser.
func TestInterimAnswerIsNoSwitch(t *testing.T) {
	t.Parallel()
	b := new(browser)
	tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		said := httptrace.ContextClientTrace(r.Context()).Got1xxResponse
		return answer(200, "fine"), errors.Join(said(101, textproto.MIMEHeader{"Upgrade": {"x"}}), said(103, textproto.MIMEHeader{}))
	})}
	if _, err := tr.RoundTrip(traced(t, &Grant{}, b, "GET", "http://rs.example/")); err != nil {
		t.Fatal(err)
	}
	if got := b.codes(); !slices.Equal(got, []int{103}) {
		t.Errorf("got %v, want 103 alone", got)
	}
}

// TestInterimAnswerTooLate: once the round trip is over, with an error for
// instance, nobody touches the header of the answer to the browser on behalf of
// the resource server. (For the race detector.)
func TestInterimAnswerTooLate(t *testing.T) {
	t.Parallel()
	for range 100 {
		closing := make(http.Header)
		var hooked int
		trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
			hooked += 1 + len(maps.Clone(closing)) // as reverse_proxy does
			return nil
		}}
		gone := errors.New("client has gone")
		stop, done := make(chan struct{}), make(chan struct{})
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			begun := make(chan struct{})
			go func() {
				defer close(done)
				said := httptrace.ContextClientTrace(r.Context()).Got1xxResponse
				_ = said(103, textproto.MIMEHeader{})
				close(begun)
				for {
					select {
					case <-stop:
						return
					default:
						_ = said(103, textproto.MIMEHeader{})
					}
				}
			}()
			<-begun
			return nil, gone
		})}
		g := &Grant{Source: &generations{}, ResponseHeader: closing}
		req := upload(httptrace.WithClientTrace(t.Context(), trace), g, &clientBody{Reader: readerOf(func([]byte) (int, error) { return 0, nil })}, 10)
		if _, err := tr.RoundTrip(req); !errors.Is(err, gone) {
			t.Fatal(err)
		}
		after := hooked
		if closing.Get("Connection") != "close" {
			t.Error("the connection stays open")
		}
		close(stop)
		<-done
		if hooked != after || hooked == 0 {
			t.Errorf("%d interim answers after the end, %d before", hooked-after, after)
		}
	}
}
