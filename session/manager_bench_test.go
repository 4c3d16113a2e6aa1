// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// BenchmarkRequest is what every request pays: cookie, record, token.
func BenchmarkRequest(b *testing.B) {
	bench := newBench(b, astest.Options{AccessTokenLifetime: time.Hour})
	br := browser{}
	bench.login(br)
	r := br.request()
	b.ReportAllocs()
	for b.Loop() {
		s, err := bench.m.Open(b.Context(), bench.site, r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Token(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.Touch(b.Context())
	}
}
