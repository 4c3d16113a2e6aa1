// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/session"
)

// BenchmarkRequest is what every request pays: cookie, record, token.
func BenchmarkRequest(b *testing.B) {
	bench := newBench(b, astest.Options{AccessTokenLifetime: time.Hour})
	bench.backend.Release()
	bench.backend = session.NewBackend(func(context.Context) (session.Store, error) { return bench.store.Store, nil }, discard())
	bench.backend.Observe(new(counting))
	bench.m = bench.manager()
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
