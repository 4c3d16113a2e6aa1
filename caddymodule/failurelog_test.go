// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// failing is a site that fails, and its log.
type failing struct {
	hd  *handle
	log bytes.Buffer
}

func newFailing() *failing {
	f := &failing{}
	logger := slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f.hd = &handle{bff: &Handler{logger: logger, failures: &failureLog{}, metrics: metrics.ofSite("failing")}}
	return f
}

// fail fails n requests in one moment and gives the lines of that level.
func (f *failing) fail(code string, n int, level slog.Level) (lines []string) {
	f.log.Reset()
	for range n {
		f.hd.logFailure(httptest.NewRequest("GET", "/", nil), &httpError{code: code, err: errors.New("cause")}, problems[code].status)
	}
	for line := range strings.Lines(f.log.String()) {
		if strings.Contains(line, "level="+level.String()+" ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// H209: an outage is told at once, and then once in ten seconds with what was
// left out; the rest is there for who looks at DEBUG.
func TestOutageDoesNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newFailing()
		var told []time.Duration
		began := time.Now()
		for range 300 { // 30 s of 50 requests a tenth of a second
			warnings := site.fail(codeServerUnavailable, 50, slog.LevelWarn)
			if len(warnings) > 0 {
				told = append(told, time.Since(began))
			}
			for _, line := range warnings {
				if first := len(told) == 1; first == strings.Contains(line, "suppressed=") || !first && !strings.Contains(line, " suppressed=4999 suppressed_since=") {
					t.Errorf("after %v: %s", time.Since(began), line)
				}
				if !strings.Contains(line, "error_code=authorization_server_unavailable") || !strings.Contains(line, "cause") {
					t.Errorf("the warning says nothing: %s", line)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(told) != 3 || told[0] != 0 || told[1] != 10*time.Second || told[2] != 20*time.Second {
			t.Errorf("warnings after %v", told)
		}
		if n := len(site.fail(codeServerUnavailable, 50, slog.LevelDebug)); n != 49 {
			t.Errorf("%d of 49 lines at DEBUG", n)
		}

		// Another code, and another site, have warnings of their own.
		if n := len(site.fail(codeStoreUnavailable, 5, slog.LevelWarn)); n != 1 {
			t.Errorf("another outage: %d warnings", n)
		}
		if n := len(newFailing().fail(codeServerUnavailable, 5, slog.LevelWarn)); n != 1 {
			t.Errorf("another site: %d warnings", n)
		}
	})
}

// H209: what is no outage differs from one request to the next, and is told.
func TestFailuresThatAreNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newFailing()
		for range 20 {
			if n := len(site.fail(codeTokenUnavailable, 10, slog.LevelWarn)); n != 10 {
				t.Errorf("%d warnings of 10", n)
			}
			if n := len(site.fail(codeTokenUnavailable, 90, slog.LevelWarn)); n != 0 {
				t.Errorf("%d warnings beyond ten a second", n)
			}
			time.Sleep(time.Second)
		}
		if line := site.fail(codeTokenUnavailable, 1, slog.LevelWarn); len(line) != 1 || !strings.Contains(line[0], "suppressed=90 ") {
			t.Errorf("nothing of the ones left out: %v", line)
		}
		if n := len(site.fail(codeForbidden, 3, slog.LevelDebug)); n != 3 {
			t.Errorf("%d of 3 refusals at DEBUG", n)
		}
	})
}

// H209: a site's failures that are left out are counted for it.
func TestSuppressedFailuresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newFailing()
		counter := metrics.limits.WithLabelValues("failing", string(session.LimitLogLines))
		before := valueOf(t, counter)
		site.fail(codeTokenUnavailable, 100, slog.LevelWarn)
		if got := valueOf(t, counter) - before; got != 90 {
			t.Errorf("%v of 90 were counted", got)
		}
	})
}
