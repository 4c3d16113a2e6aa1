// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package caddymodule

import (
	"sync"
	"time"
)

// failureLog says which failures are worth a warning, by error code or message. An
// outage fails every request in the same way: one warning in ten seconds tells as
// much. Other failures differ, and stay visible up to ten a second. The zero value
// is ready; it is safe for concurrent use.
type failureLog struct {
	mu    sync.Mutex
	codes map[string]*failureWindow
}

// failureWindow is the time since the first warning of some.
type failureWindow struct {
	began      time.Time
	warnings   int
	suppressed int
}

// failureLimit gives how many warnings of an error code there may be in a window.
func failureLimit(code string) (warnings int, window time.Duration) {
	switch code {
	case codeServerUnavailable, codeStoreUnavailable, codeKeyMismatch:
		return 1, 10 * time.Second
	}
	return 10, time.Second
}

// allow reports whether a failure with that error code gets a warning. If it
// does, suppressed is how many since a moment did not.
func (l *failureLog) allow(code string, now time.Time) (ok bool, suppressed int, since time.Time) {
	limit, window := failureLimit(code)
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.codes[code]
	if w == nil || now.Sub(w.began) >= window {
		if w != nil {
			suppressed, since = w.suppressed, w.began
		}
		if l.codes == nil {
			l.codes = make(map[string]*failureWindow)
		}
		l.codes[code] = &failureWindow{began: now, warnings: 1}
		return true, suppressed, since
	}
	if w.warnings == limit {
		w.suppressed++
		return false, 0, time.Time{}
	}
	w.warnings++
	return true, 0, time.Time{}
}
