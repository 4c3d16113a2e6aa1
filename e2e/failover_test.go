// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/astest"
	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// fall takes the primary away in one of the ways in which that happens, and
// gives what brings it back when another has taken over. SENTINEL FAILOVER is none
// of them: the old primary takes writes until it is told, and its other replica
// acknowledges them, which the instances can mend most of the time, not always.
type fall struct {
	name string
	do   func(t *testing.T, g *redistest.Group, primary *redistest.Server) (rejoin func(next *redistest.Server))
}

var falls = []fall{
	{"killed", func(t *testing.T, g *redistest.Group, primary *redistest.Server) func(*redistest.Server) {
		primary.Kill()
		return func(next *redistest.Server) { g.Rejoin(t, primary, next) }
	}},
	// It comes back as a primary that knows of nothing, until the sentinels tell it.
	{"paused", func(t *testing.T, g *redistest.Group, primary *redistest.Server) func(*redistest.Server) {
		primary.Pause()
		return func(next *redistest.Server) { primary.Continue(); g.Synced(t, next) }
	}},
}

// HARDENING F207: the primary of Redis is replaced again and again under load,
// with access tokens of two seconds, so that sessions are refreshed at every
// moment, and a server that takes no refresh token twice. With `wait 1` nobody is
// logged out, and everybody is served within five seconds of each failover. What
// BFF_FAILOVER_REPETITIONS says is how often; by default five times.
func TestFailoversUnderLoad(t *testing.T) {
	const (
		life     = 2 * time.Second
		rate     = 100
		sessions = 30
		within   = 5 * time.Second
	)
	n := repetitions(t, failoverRepetitions, 5)
	redistest.Binary(t)
	g := redistest.StartGroup(t, 2)
	f := newFleet(t, fleetOptions{
		instances: 3, rotation: "strict",
		store: fmt.Sprintf("redis {\n\t\t\taddress %s\n\t\t\tsentinel %s\n\t\t\twait 1\n\t\t}", strings.Join(g.Addresses(), " "), redistest.MasterName),
		as: astest.Options{
			AccessTokenLifetime: life, AccessTokenClaims: precise, Latency: map[string]time.Duration{astest.Token: 20 * time.Millisecond},
		},
	})
	var origins []string
	for _, in := range f.instances {
		origins = append(origins, in.origin())
	}
	visitors := f.logins(sessions)
	l := startLoad(t, visitors, rate, origins...)
	for i := range n {
		time.Sleep(2 * time.Second)
		primary, err := g.Primary()
		if err != nil {
			t.Fatal(err)
		}
		how := falls[i%3/2] // paused is one in three: its return takes longer
		began := time.Now()
		rejoin := how.do(t, g, primary)
		var next *redistest.Server
		redistest.Eventually(t, "another one takes over", func() error {
			if next, err = g.Primary(); err != nil || next == primary {
				return errors.New("not yet")
			}
			if role := next.Must("ROLE"); !strings.HasPrefix(role, "master") {
				return errors.New(role)
			}
			return nil
		})
		failover := time.Now()
		took, served := l.everybodyServed(sessions, failover)
		rejoin(next)
		c := count(between(l.seen(), began, failover.Add(took)))
		t.Logf("failover %d: the primary is %s, another takes over after %s, everybody is served %s later; meanwhile %s",
			i+1, how.name, failover.Sub(began).Round(time.Millisecond), took.Round(time.Millisecond), c)
		if took > within || served < sessions {
			t.Errorf("failover %d: %d of %d are served within %s", i+1, served, sessions, took)
			break
		}
	}
	time.Sleep(2 * time.Second)
	answers := l.end()
	t.Logf("in all: %s", count(answers))
	f.landed()
	r := f.countRefreshes(sessions)
	t.Logf("%s", r)
	var wrong []outcome
	for _, a := range answers {
		if a.err != nil || a.status != http.StatusOK && (a.status != http.StatusServiceUnavailable || a.retryAfter == "") {
			wrong = append(wrong, a)
		}
	}
	if len(wrong) != 0 {
		t.Errorf("%d requests failed in another way than with 503 and Retry-After, the first: %+v", len(wrong), wrong[0])
	}
	if reuses := f.as.ReuseDetections(); reuses != 0 || r.twice != 0 {
		t.Errorf("%d refresh tokens were presented twice, %d reuses", r.twice, reuses)
	}
	if r.perSession[0] < n {
		t.Errorf("a session was refreshed %d times in %d failovers: the test looks at nothing", r.perSession[0], n)
	}
	for i, v := range visitors {
		for _, in := range f.instances {
			if status, err := in.call(t.Context(), v); status != http.StatusOK || err != nil {
				t.Errorf("session %d is lost at instance %d: status %d, %v", i, in.number, status, err)
			}
		}
	}
	if n := f.as.Count(astest.Revoke); n != 0 {
		t.Errorf("%d revocations", n)
	}
}

// everybodyServed waits until each visitor has had an answer 200 to a request
// after the moment, and no other since, and says how long after it that was; or
// how many are served, when that takes too long.
func (l *load) everybodyServed(visitors int, since time.Time) (took time.Duration, served int) {
	for time.Since(since) < 20*time.Second {
		first := make(map[int]time.Duration)
		for _, a := range between(l.seen(), since, time.Now()) {
			if end := a.sent.Add(a.took).Sub(since); a.status != http.StatusOK {
				delete(first, a.visitor)
			} else if _, ok := first[a.visitor]; !ok {
				first[a.visitor] = end
			}
		}
		took, served = 0, len(first)
		for _, end := range first {
			took = max(took, end)
		}
		if served == visitors {
			return took, served
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(since), served
}

// between gives the answers to what was asked in a time.
func between(answers []outcome, from, to time.Time) (some []outcome) {
	for _, a := range answers {
		if a.sent.After(from) && a.sent.Before(to) {
			some = append(some, a)
		}
	}
	return some
}
