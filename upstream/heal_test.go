// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRefreshBesideBody: a refused request whose body is still coming has the
// token refreshed at once, not after the body. The next request of the browser
// has a good token, whatever becomes of this one. PX-02, PX-08.
func TestRefreshBesideBody(t *testing.T) {
	t.Parallel()
	out := errors.New("authorization server is out")
	for _, tt := range []struct {
		name     string
		rest     time.Duration // until the rest of the body comes; 0 never
		refresh  time.Duration // how long a refresh takes
		fails    error
		slow     bool // the body of the first answer does not end
		limit    int64
		answered time.Duration
		status   int
		result   ReplayResult
	}{
		{name: "body never ends", refresh: time.Second, answered: DefaultHealTimeout, status: 401, result: ReplayBodyGone},
		{name: "body ends in time", rest: 5 * time.Second, refresh: 2 * time.Second, answered: 5 * time.Second, status: 200, result: ReplayHealed},
		{name: "body ends first", rest: time.Second, refresh: 3 * time.Second, answered: 3 * time.Second, status: 200, result: ReplayHealed},
		{name: "both take long", rest: 9 * time.Second, refresh: 9 * time.Second, answered: 9 * time.Second, status: 200, result: ReplayHealed},
		{name: "refresh fails: no wait for the body", refresh: time.Second, fails: out, answered: time.Second, status: 401, result: ReplayRefreshFailed},
		{name: "refresh never ends", rest: time.Second, refresh: time.Hour, answered: DefaultHealTimeout, status: 401, result: ReplayRefreshFailed},
		{name: "neither ends", refresh: time.Hour, answered: DefaultHealTimeout, status: 401, result: ReplayRefreshFailed},
		{name: "body too long", limit: 50, refresh: time.Second, answered: time.Second, status: 401, result: ReplayBodyGone},
		{name: "first answer is slow", rest: time.Second, slow: true, refresh: 100 * time.Millisecond, answered: time.Second, status: 200, result: ReplayHealed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				stalled, client := io.Pipe()
				t.Cleanup(func() { _ = client.Close() })
				if tt.rest > 0 {
					time.AfterFunc(tt.rest, func() { _, _ = io.WriteString(client, strings.Repeat("x", 97)) })
				}
				var asked, refreshed time.Duration = -1, -1
				source := &generations{refresh: func(ctx context.Context) error {
					asked = time.Since(begun)
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(tt.refresh):
						refreshed = time.Since(begun)
						return tt.fails
					}
				}}
				var results []ReplayResult
				tr := &Transport{
					ReplayBuffer: tt.limit,
					Base: roundTrip(func(r *http.Request) (*http.Response, error) {
						if r.Header.Get("Authorization") != "Bearer token-0" {
							b, err := io.ReadAll(r.Body)
							_ = r.Body.Close()
							if want := "abc" + strings.Repeat("x", 97); err != nil || string(b) != want {
								t.Errorf("replay has %q, %v", b, err)
							}
							return answer(200, "fine"), nil
						}
						_, _ = io.ReadFull(r.Body, make([]byte, 3))
						resp := refusal()
						if tt.slow {
							resp.Body, _ = io.Pipe()
						}
						return resp, nil
					}),
					Replayed: func(_ context.Context, r ReplayResult) { results = append(results, r) },
				}
				body := &clientBody{Reader: io.MultiReader(strings.NewReader("abc"), stalled)}
				resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: source}, body, 100))
				if err != nil || resp.StatusCode != tt.status {
					t.Fatalf("%v, %v; want %d", resp, err, tt.status)
				}
				if d := time.Since(begun); d != tt.answered {
					t.Errorf("answered after %v, want %v", d, tt.answered)
				}
				if !slices.Equal(results, []ReplayResult{tt.result}) {
					t.Errorf("results %v, want %s", results, tt.result)
				}
				if asked != 0 || source.calls != 1 {
					t.Errorf("%d refreshes, asked for after %v; want 1 at once", source.calls, asked)
				}
				if tt.refresh < DefaultHealTimeout && refreshed != tt.refresh {
					t.Errorf("refreshed after %v, want %v", refreshed, tt.refresh)
				}
				want := generationToken(0)
				if tt.fails == nil && tt.refresh < DefaultHealTimeout {
					want = generationToken(1)
				}
				if next, err := source.Token(t.Context()); err != nil || next != want {
					t.Errorf("the next request has %q, %v; want %q", next, err, want)
				}
			})
		})
	}
}
