// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-bff/caddy-bff/internal/redistest"
)

// outcome is what came of one request of a load.
type outcome struct {
	visitor    int
	sent       time.Time
	late       time.Duration // sent later than it should have been: by the machine
	took       time.Duration
	status     int    // 0: none came
	code       string // X-BFF-Error
	retryAfter string
	err        error
	reset      bool // a new connection was reset before a byte came, and the request sent once more
	stale      bool // a connection kept alive turned out to be closed, and the request went out on another
}

// load asks at a steady pace, each visitor in turn, whatever becomes of the
// answers: who is slow holds up nobody. It is what many browsers do, not one.
type load struct {
	client *http.Client
	stop   func()
	wg     sync.WaitGroup

	mu      sync.Mutex
	answers []outcome
}

// startLoad asks so often in a second, at origins in turn.
func startLoad(t *testing.T, visitors []visitor, rate int, origins ...string) *load {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 300}
	t.Cleanup(tr.CloseIdleConnections)
	stop := make(chan struct{})
	l := &load{client: &http.Client{Transport: tr, Timeout: 30 * time.Second}, stop: sync.OnceFunc(func() { close(stop) })}
	t.Cleanup(l.stop) // of a test that failed
	l.wg.Go(func() {
		began := time.Now()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate)))):
			}
			late := time.Since(began.Add(time.Duration(n) * time.Second / time.Duration(rate)))
			who := n % len(visitors)
			origin := origins[(n+n/len(visitors))%len(origins)] // each visitor at each of them
			l.wg.Go(func() {
				a := l.ask(t.Context(), origin, visitors[who])
				a.visitor, a.late = who, late
				l.mu.Lock()
				defer l.mu.Unlock()
				l.answers = append(l.answers, a)
			})
		}
	})
	return l
}

// ask asks for a resource, as a browser does: a request that may be repeated is
// sent once more when its connection breaks before a byte of the answer is there.
func (l *load) ask(ctx context.Context, origin string, v visitor) (a outcome) {
	a.sent = time.Now()
	defer func() { a.took = time.Since(a.sent) }()
	for try := 1; ; try++ {
		conns, reused, begun := 0, false, false
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn:              func(c httptrace.GotConnInfo) { conns++; reused = c.Reused },
			GotFirstResponseByte: func() { begun = true },
		}), http.MethodGet, origin+"/api/x", nil)
		if err != nil {
			a.err = err
			return a
		}
		r.Header.Set("Cookie", string(v))
		r.Header.Set("X-CSRF", "1")
		res, err := l.client.Do(r)
		a.stale = a.stale || conns > 1 // the transport does that by itself
		if err != nil {
			if try == 1 && !reused && !begun && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) {
				a.reset = true
				continue
			}
			a.err = err
			return a
		}
		a.status, a.code, a.retryAfter = res.StatusCode, res.Header.Get("X-BFF-Error"), res.Header.Get("Retry-After")
		_, a.err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		return a
	}
}

// seen gives the answers so far.
func (l *load) seen() []outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.answers)
}

// end waits for what is under way, and gives all answers in the order in which
// they were asked for.
func (l *load) end() []outcome {
	l.stop()
	l.wg.Wait()
	all := l.seen()
	slices.SortFunc(all, func(a, b outcome) int { return a.sent.Compare(b.sent) })
	return all
}

// tally is answers in figures.
type tally struct {
	requests, failed, resets, stale int
	kinds                           map[string]int
	p50, p99, slowest, late         time.Duration
	first                           *outcome // that failed
}

// count counts answers other than 200 as failed.
func count(answers []outcome) (c tally) {
	c.kinds = make(map[string]int)
	took := make([]time.Duration, len(answers))
	for i, a := range answers {
		c.requests++
		took[i] = a.took
		c.late = max(c.late, a.late)
		kind := strings.TrimSpace(fmt.Sprintf("%d %s", a.status, a.code))
		if a.err != nil {
			kind = a.err.Error()
			if i := strings.LastIndex(kind, ": "); i >= 0 { // without ports
				kind = kind[i+2:]
			}
		}
		c.kinds[kind]++
		if a.err != nil || a.status != http.StatusOK {
			c.failed++
			if c.first == nil {
				c.first = &answers[i]
			}
		}
		if a.reset {
			c.resets++
		}
		if a.stale {
			c.stale++
		}
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		c.p50, c.p99, c.slowest = took[n/2], took[n*99/100], took[n-1]
	}
	return c
}

func (c tally) String() string {
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(c.kinds)) {
		kinds = append(kinds, fmt.Sprintf("%s: %d", k, c.kinds[k]))
	}
	return fmt.Sprintf("%d requests, %d failed (%s); sent once more: %d after the reset of a new connection, %d after one kept alive had been closed; half within %s, 99 %% within %s, all within %s; asked up to %s late",
		c.requests, c.failed, strings.Join(kinds, ", "), c.resets, c.stale,
		c.p50.Round(100*time.Microsecond), c.p99.Round(100*time.Microsecond), c.slowest.Round(time.Millisecond), c.late.Round(time.Millisecond))
}

// refreshTally is what the authorization server saw of refreshes.
type refreshTally struct {
	calls, refused, twice int
	perSession            [2]int           // fewest, most
	interval              [2]time.Duration // shortest, and on average, between two of a session
}

// countRefreshes counts the refreshes of so many sessions, each of a user of its
// own.
func (f *fleet) countRefreshes(sessions int) (c refreshTally) {
	tokens, last, calls := make(map[string]bool), make(map[string]time.Time), make(map[string]int)
	var sum time.Duration
	intervals := 0
	for _, r := range f.as.RefreshRequests() {
		c.calls++
		if tokens[r.Token] {
			c.twice++
		}
		tokens[r.Token] = true
		if r.Status != http.StatusOK {
			c.refused++
		}
		if before, ok := last[r.Subject]; ok {
			d := r.Time.Sub(before)
			if sum, intervals = sum+d, intervals+1; intervals == 1 || d < c.interval[0] {
				c.interval[0] = d
			}
		}
		last[r.Subject] = r.Time
		calls[r.Subject]++
	}
	if intervals > 0 {
		c.interval[1] = sum / time.Duration(intervals)
	}
	for _, n := range calls {
		if c.perSession[0] == 0 || n < c.perSession[0] {
			c.perSession[0] = n
		}
		c.perSession[1] = max(c.perSession[1], n)
	}
	if len(calls) < sessions {
		c.perSession[0] = 0
	}
	return c
}

func (c refreshTally) String() string {
	return fmt.Sprintf("%d refreshes, %d refused, %d with a refresh token that had been presented; %d to %d of each session, %s apart on average, %s at least",
		c.calls, c.refused, c.twice, c.perSession[0], c.perSession[1], c.interval[1].Round(time.Millisecond), c.interval[0].Round(time.Millisecond))
}

// landed waits until no refresh is under way.
func (f *fleet) landed() {
	f.t.Helper()
	redistest.Eventually(f.t, "no refresh is under way", func() error {
		for _, r := range f.as.RefreshRequests() {
			if r.Done.IsZero() {
				return errors.New("one is")
			}
		}
		return nil
	})
}

// explained checks that a load with tokens of so long a life has made no refresh
// but those that their expiry makes necessary. A token is refreshed a fifth of
// its life before its end, and where the token endpoint is slow seven tenths at
// most.
func (f *fleet) explained(sessions int, life, lasted time.Duration) {
	f.t.Helper()
	f.landed()
	c := f.countRefreshes(sessions)
	f.t.Logf("%s", c)
	if c.twice != 0 || c.refused != 0 || f.as.ReuseDetections() != 0 {
		f.t.Errorf("%d refresh tokens came twice, %d calls were refused", c.twice, c.refused)
	}
	if c.interval[0] < life*29/100 {
		f.t.Errorf("an extra refresh, %s after the one before", c.interval[0])
	}
	if most := int(lasted/(life/2)) + 1; c.perSession[1] > most {
		f.t.Errorf("%d refreshes of one session in %s", c.perSession[1], lasted)
	}
	if fewest := int(lasted/life) - 2; c.perSession[0] < fewest {
		f.t.Errorf("only %d refreshes of one session in %s: the test looks at nothing", c.perSession[0], lasted)
	}
}
