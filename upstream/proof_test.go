// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bound is a session whose tokens are bound to a key. A proof of it is what it is
// about, its number, and the nonce.
type bound struct {
	generations
	unbound bool
	fails   error

	mu     sync.Mutex
	proofs int
	nonces map[string]string // by server
}

func (b *bound) Bound() bool { return !b.unbound }

func (b *bound) Proof(server, method, uri, token string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proofs++
	return fmt.Sprintf("%s %s for %s, number %d, nonce %q", method, uri, token, b.proofs, b.nonces[server]), b.fails
}

func (b *bound) Answered(server string, header http.Header, _ time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nonces == nil {
		b.nonces = map[string]string{}
	}
	if nonce := header.Get("DPoP-Nonce"); nonce != "" {
		b.nonces[server] = nonce
	}
}

func nonceWanted(nonce string) *http.Response {
	return answer(401, "nonce", "WWW-Authenticate", `dpop error="use_dpop_nonce", algs="ES256"`, "DPoP-Nonce", nonce)
}

// DP-03, DP-10: a bound token goes with a proof, as no bearer token, and what the
// client sent of the kind is gone. One that is not bound goes as before.
func TestProofIsAttached(t *testing.T) {
	t.Parallel()
	for _, unbound := range []bool{false, true} {
		var seen http.Header
		tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
			seen = r.Header
			return answer(200, "fine", "DPoP-Nonce", "n"), nil
		})}
		source := &bound{unbound: unbound}
		req := request(t.Context(), &Grant{Source: source}, "", nil)
		req.Header["Dpop"], req.Header["DPoP"] = []string{"of", "the"}, []string{"browser"}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header["Dpop-Nonce"] != nil { // DP-12
			t.Error("the browser gets the nonce")
		}
		authorization, proofs := []string{"DPoP token-0"}, []string{`GET http://rs.example/path for token-0, number 1, nonce ""`}
		if unbound {
			authorization, proofs = []string{"Bearer token-0"}, nil
		}
		if !slices.Equal(seen["Authorization"], authorization) || !slices.Equal(seen["Dpop"], proofs) || seen["DPoP"] != nil {
			t.Errorf("unbound %t: header %v", unbound, seen)
		}
		if unbound && len(source.nonces) != 0 {
			t.Error("a nonce for tokens that are not bound")
		}
	}
}

// DP-02: the URI is that which the resource server puts together.
func TestProofURI(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, host, uri, server string }{
		{"https://10.0.0.1:8443/a/b?c=d", "api.example.com", "https://api.example.com/a/b", "https://10.0.0.1:8443 api.example.com"},
		{"http://rs.example", "", "http://rs.example/", "http://rs.example "},
		{"http://rs.example:8080/a%2Fb%20c/%C3%A4;p=1?x=/y#z", "", "http://rs.example:8080/a%2Fb%20c/%C3%A4;p=1", "http://rs.example:8080 "},
		{"http://rs.example/a%3Fb", "", "http://rs.example/a%3Fb", "http://rs.example "},
		{"http://rs.example//a/../b", "", "http://rs.example//a/../b", "http://rs.example "},
		{"http://192.0.2.1%3A5-%3E10.0.0.1%3A80/a", "rs", "http://rs/a", "http://10.0.0.1%3A80 rs"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil { // a host that reverse_proxy made, which nobody parses
			u = &url.URL{Scheme: "http", Host: "192.0.2.1%3A5-%3E10.0.0.1%3A80", Path: "/a"}
		}
		r := &http.Request{URL: u, Host: tt.host}
		if uri, server := requestURI(r), serverOf(r); uri != tt.uri || server != tt.server {
			t.Errorf("%s: %s of %s", tt.url, uri, server)
		}
	}
	if uri := requestURI(&http.Request{URL: &url.URL{Scheme: "http", Path: "*"}, Host: "rs"}); uri != "http://rs" {
		t.Errorf("OPTIONS *: %s", uri)
	}
}

// DP-05, DP-06: who asks for a nonce gets it, by one more request with the same
// token, and nobody refreshes; from then on the nonce is there.
func TestNonceIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		grant   Grant
		body    io.Reader
		limit   int64
		answers []*http.Response
		status  int
		results []ReplayResult
		calls   int // of Refresh
		tokens  []string
		nonces  []string
	}{
		"nonce": {
			answers: []*http.Response{nonceWanted("a"), answer(200, "fine")}, status: 200,
			results: []ReplayResult{ReplayProved}, tokens: []string{"0", "0"}, nonces: []string{"", "a"},
		},
		"any 401 is healed": {
			grant:   Grant{HealAny401: true, HealBare401: true},
			answers: []*http.Response{nonceWanted("a"), answer(200, "fine")}, status: 200,
			results: []ReplayResult{ReplayProved}, tokens: []string{"0", "0"}, nonces: []string{"", "a"},
		},
		"with a body": {
			body:    strings.NewReader("body"),
			answers: []*http.Response{nonceWanted("a"), answer(201, "fine")}, status: 201,
			results: []ReplayResult{ReplayProved}, tokens: []string{"0", "0"}, nonces: []string{"", "a"},
		},
		"with a body that is too long": {
			body: strings.NewReader("body"), limit: 2, grant: Grant{HealAny401: true},
			answers: []*http.Response{nonceWanted("a")}, status: 401,
			results: []ReplayResult{ReplayBodyGone}, tokens: []string{"0"}, nonces: []string{""},
		},
		"again and again": {
			grant:   Grant{HealAny401: true},
			answers: []*http.Response{nonceWanted("a"), nonceWanted("b")}, status: 401,
			results: []ReplayResult{ReplayRefused}, tokens: []string{"0", "0"}, nonces: []string{"", "a"},
		},
		"and none is given": {
			grant:   Grant{HealAny401: true},
			answers: []*http.Response{answer(401, "", "WWW-Authenticate", `DPoP error="use_dpop_nonce"`)}, status: 401,
			tokens: []string{"0"}, nonces: []string{""},
		},
		"of another scheme": {
			answers: []*http.Response{answer(401, "", "WWW-Authenticate", `Bearer error="use_dpop_nonce"`, "DPoP-Nonce", "a")}, status: 401,
			tokens: []string{"0"}, nonces: []string{""},
		},
		"proof not taken": { // DP-11: the answer told the time
			answers: []*http.Response{answer(401, "", "WWW-Authenticate", `DPoP error="invalid_dpop_proof"`), answer(200, "fine")}, status: 200,
			results: []ReplayResult{ReplayProved}, tokens: []string{"0", "0"}, nonces: []string{"", ""},
		},
		"nonce, then the token": {
			answers: []*http.Response{nonceWanted("a"), refusal(), answer(200, "fine")}, status: 200, calls: 1,
			results: []ReplayResult{ReplayProved, ReplayHealed}, tokens: []string{"0", "0", "1"}, nonces: []string{"", "a", "a"},
		},
		"the token, then a nonce": {
			answers: []*http.Response{refusal(), nonceWanted("a"), answer(200, "fine")}, status: 200, calls: 1,
			results: []ReplayResult{ReplayHealed}, tokens: []string{"0", "1", "1"}, nonces: []string{"", "", "a"},
		},
		"nonce, then the token, then a nonce": {
			answers: []*http.Response{nonceWanted("a"), refusal(), nonceWanted("b")}, status: 401, calls: 1,
			results: []ReplayResult{ReplayProved, ReplayRefused}, tokens: []string{"0", "0", "1"}, nonces: []string{"", "a", "a"},
		},
		"nonce, then the token, with a body": {
			body:    strings.NewReader("body"),
			answers: []*http.Response{nonceWanted("a"), refusal()}, status: 401, calls: 1,
			results: []ReplayResult{ReplayProved, ReplayBodyGone}, tokens: []string{"0", "0"}, nonces: []string{"", "a"},
		},
		"the token, then a nonce, with a body": {
			body:    strings.NewReader("body"),
			answers: []*http.Response{refusal(), nonceWanted("a")}, status: 401, calls: 1,
			results: []ReplayResult{ReplayBodyGone}, tokens: []string{"0", "1"}, nonces: []string{"", ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := &bound{}
			grant := tt.grant
			grant.Source = source
			var results []ReplayResult
			var seen []string
			tr := &Transport{
				ReplayBuffer: tt.limit,
				Replayed:     func(_ context.Context, r ReplayResult) { results = append(results, r) },
				Base: roundTrip(func(r *http.Request) (*http.Response, error) {
					if r.Body != nil {
						if b, err := io.ReadAll(r.Body); string(b) != "body" || err != nil {
							t.Errorf("body %q, %v", b, err)
						}
						_ = r.Body.Close()
					}
					seen = append(seen, r.Header.Get("Authorization")+" "+r.Header.Get("DPoP"))
					if len(seen) > len(tt.answers) {
						return nil, errors.New("one request too many")
					}
					return tt.answers[len(seen)-1], nil
				}),
			}
			resp, err := tr.RoundTrip(request(t.Context(), &grant, "POST", tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status || resp.Header["Dpop-Nonce"] != nil || resp.Header["Www-Authenticate"] != nil {
				t.Errorf("answer %d %v", resp.StatusCode, resp.Header)
			}
			if !slices.Equal(results, tt.results) || source.calls != tt.calls {
				t.Errorf("results %v, %d refreshes", results, source.calls)
			}
			var want []string
			for i, token := range tt.tokens {
				want = append(want, fmt.Sprintf("DPoP token-%s POST http://rs.example/path for token-%[1]s, number %d, nonce %q", token, i+1, tt.nonces[i]))
			}
			if !slices.Equal(seen, want) {
				t.Errorf("requests\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// DP-05: a nonce goes back to the server that gave it, and to no other; whatever the
// answer was that it came with.
func TestNoncesStayWhereTheyCameFrom(t *testing.T) {
	t.Parallel()
	source := &bound{}
	var seen []string
	tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		_, nonce, _ := strings.Cut(r.Header.Get("DPoP"), "nonce ")
		seen = append(seen, r.Host+r.URL.Host+nonce)
		return answer(204, "", "DPoP-Nonce", "of-"+r.Host+r.URL.Host), nil
	})}
	for range 2 {
		for _, to := range [][2]string{{"a", "h"}, {"b", "h"}, {"a", "i"}} {
			req := request(t.Context(), &Grant{Source: source}, "GET", nil)
			req.URL.Host, req.Host = to[0], to[1]
			if _, err := tr.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
	}
	if want := []string{`ha""`, `hb""`, `ia""`, `ha"of-ha"`, `hb"of-hb"`, `ia"of-ia"`}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

// A request whose proof cannot be made goes nowhere, above all not as a bearer's.
func TestNoProofNoRequest(t *testing.T) {
	t.Parallel()
	fails := errors.New("no proof")
	tr := &Transport{Base: roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("sent")
		return nil, fails
	})}
	body := &closes{Reader: strings.NewReader("body")}
	_, err := tr.RoundTrip(request(t.Context(), &Grant{Source: &bound{fails: fails}}, "POST", body))
	var failed *TokenError
	if !errors.As(err, &failed) || !errors.Is(err, fails) || !body.closed {
		t.Errorf("%v, body closed: %t", err, body.closed)
	}
}

type closes struct {
	io.Reader
	closed bool
}

func (c *closes) Close() error {
	c.closed = true
	return nil
}

// DP-05: a body that is still coming when the nonce is asked for is waited for, not
// without end.
func TestNonceWaitsForTheBody(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			stalled, client := io.Pipe()
			t.Cleanup(func() { _ = client.Close() })
			if comes {
				time.AfterFunc(time.Second, func() { _, _ = io.WriteString(client, "dy") })
			}
			tries := 0
			tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				tries++
				if tries == 2 {
					b, err := io.ReadAll(r.Body)
					_ = r.Body.Close()
					if string(b) != "body" || err != nil {
						t.Errorf("body %q, %v", b, err)
					}
					return answer(200, "fine"), nil
				}
				_, _ = io.ReadFull(r.Body, make([]byte, 2))
				return nonceWanted("a"), nil
			})}
			req := request(t.Context(), &Grant{Source: &bound{}}, "POST", io.MultiReader(strings.NewReader("bo"), stalled))
			req.ContentLength = 4
			begun := time.Now()
			resp, err := tr.RoundTrip(req)
			took := time.Since(begun)
			if err != nil || comes && (resp.StatusCode != 200 || took != time.Second) || !comes && (resp.StatusCode != 401 || took != DefaultHealTimeout) {
				t.Errorf("comes %t: %v, %v after %v", comes, resp, err, took)
			}
		})
	}
}

// DP-06: proofs of parallel requests are different ones, under the race detector.
func TestProofsOfParallelRequests(t *testing.T) {
	t.Parallel()
	source, grant := &bound{}, &Grant{}
	grant.Source = source
	var mu sync.Mutex
	seen := map[string]bool{}
	tr := &Transport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Header.Get("DPoP")] = true
		if !strings.Contains(r.Header.Get("DPoP"), `nonce "n"`) {
			return nonceWanted("n"), nil
		}
		return answer(200, "fine"), nil
	})}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			resp, err := tr.RoundTrip(request(t.Context(), grant, "GET", nil))
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("%v %v", resp, err)
			}
		})
	}
	wg.Wait()
	if len(seen) != source.proofs || len(seen) < 51 {
		t.Errorf("%d different proofs of %d", len(seen), source.proofs)
	}
}
