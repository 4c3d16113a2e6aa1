// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"sync"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// history is what can be seen of a run from outside: what browsers were
// answered, what reached the authorization server, what the store accepted,
// which access token was relayed, and what went wrong when.
type history struct {
	mu       sync.Mutex
	requests []*request
	calls    []*call
	writes   []*write
	relays   []*relay
	faults   []*fault
	loops    []string // processes that asked the store in a circle

	healed, ended time.Time // when the faults ended, and the requests
}

func (h *history) asked(r *request) *request {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r)
	return r
}

func (h *history) answered(r *request, out outcome, reason session.Reason, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.end, r.outcome, r.reason, r.err = time.Now(), out, reason, err
}

func (h *history) wrote(x *write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, x)
}

func (h *history) relayed(r *relay) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.relays = append(h.relays, r)
}

func (h *history) wasBusy(p *process, key session.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loops = append(h.loops, fmt.Sprintf("%s loaded the record %x more than %d times within a second, at %v", p.name, key[:2], busy, time.Since(p.w.start)))
}

// request is one request of a browser.
type request struct {
	sess       *sess
	proc       *process
	kind       requestKind
	began, end time.Time // end is zero while there is no answer
	outcome    outcome
	reason     session.Reason // of outcomeEnded
	err        error
}

type requestKind string

const (
	requestToken  requestKind = "request"
	requestForced requestKind = "forced refresh"
	requestLogout requestKind = "logout"
)

type outcome string

const (
	outcomeOK          outcome = "ok"
	outcomeEnded       outcome = "ended"       // EndedError
	outcomeNone        outcome = "no session"  // ErrNoSession
	outcomeUnavailable outcome = "unavailable" // for the moment
	outcomeLimited     outcome = "limited"     // asked too often
	outcomeReset       outcome = "reset"       // the process is gone
	outcomeHungUp      outcome = "hung up"     // the browser did not wait
	outcomeUnexpected  outcome = "unexpected"  // an error that should not be
)

// call is one call of the token or the revocation endpoint.
type call struct {
	sess     *sess // nil: unknown
	proc     *process
	revoke   bool
	code     bool          // an authorization code, not a refresh token
	token    *refreshToken // what was presented
	intent   time.Time     // the store accepted the attempt that it belongs to; found out by the checker
	called   time.Time     // the process made the call
	arrived  time.Time     // zero: it never did
	result   callResult
	child    *refreshToken // of callGranted: what the answer carries, or the presented one
	garbled  bool          // half of the answer was lost, so that nobody knows what kind of an error it was
	answered time.Time     // the process got the answer; zero: never
	returned time.Time     // the process got anything, be it an error; zero: never
}

type callResult string

const (
	callUnserved callResult = ""        // it did not arrive
	callGranted  callResult = "granted" // with tokens
	callRefused  callResult = "refused" // invalid_grant
	callUnwell   callResult = "unwell"  // an error that spends nothing
	callRevoked  callResult = "revoked" // of the revocation endpoint
)

// write is a change that the store accepted.
type write struct {
	at        time.Time
	proc      *process // nil: from outside
	sess      *sess    // nil: a login's claim, or not known
	key       session.Key
	kind      step
	old, next *session.Record // old is nil: created
}

// relay is a request that a resource server got.
type relay struct {
	at    time.Time
	began time.Time // of the browser's request
	sess  *sess
	proc  *process
	token string
}

type faultKind string

const (
	faultCrash      faultKind = "crash"
	faultPause      faultKind = "pause"
	faultStore      faultKind = "partition from the store"
	faultServer     faultKind = "partition from the authorization server"
	faultStoreCall  faultKind = "store call"
	faultServerCall faultKind = "server call"
	faultServerDown faultKind = "authorization server"
)

// fault is something that went wrong for a while, with one process or with all.
type fault struct {
	h        *history
	proc     *process // nil: all
	key      session.Key
	kind     faultKind
	from, to time.Time // to is zero while it lasts, and for ever after a crash
}

func (w *world) fault(p *process, kind faultKind) *fault {
	f := &fault{h: &w.history, proc: p, kind: kind, from: time.Now()}
	w.history.mu.Lock()
	w.history.faults = append(w.history.faults, f)
	w.history.mu.Unlock()
	return f
}

// callFault notes a call that went wrong; it counts until the call returns.
func (w *world) callFault(p *process, kind faultKind, key session.Key, lasts time.Duration) {
	f := w.fault(p, kind)
	f.key, f.to = key, f.from.Add(lasts)
}

func (f *fault) over() {
	f.h.mu.Lock()
	f.to = time.Now()
	f.h.mu.Unlock()
}

// overlap is for how long a fault lasted between two moments.
func (f *fault) overlap(from, to time.Time) time.Duration {
	if f.from.After(from) {
		from = f.from
	}
	if !f.to.IsZero() && f.to.Before(to) {
		to = f.to
	}
	return max(to.Sub(from), 0)
}
