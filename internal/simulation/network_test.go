// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-bff/caddy-bff/session"
)

// network is the way from one process to the authorization server.
type network struct{ p *process }

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
)

// RoundTrip implements [http.RoundTripper].
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	p, w := n.p, n.p.w
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	called := time.Now()
	if err := p.gate(ctx); err != nil {
		return nil, err
	}
	mode := w.server.currentMode()
	cut := p.cutFrom(&p.serverCut)
	if mode == modeDown || cut == cutRefused {
		w.refused(p)
		time.Sleep(p.dice("refusal", session.Key{}).between(time.Microsecond, time.Millisecond))
		return nil, errRefused
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	c := w.newCall(p, r.URL.Path, form, called)
	var key session.Key
	if c.sess != nil {
		key = c.sess.key
	}
	d := p.dice(r.URL.Path, key)
	lost := w.reachCall(c, stepCalled)
	if gone := p.gate(ctx); gone != nil {
		return nil, gone
	}
	if mode == modeSilent || cut == cutSilent || lost {
		w.note(p, key, "%s: lost on the way there", r.URL.Path)
		<-ctx.Done()
		w.returned(c, false)
		return nil, ctx.Err()
	}
	answers := make(chan *reply, 1)
	go n.exchange(c, r.URL.Path, form, d, key, answers)
	var got *reply
	select {
	case got = <-answers:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if gone := p.gate(ctx); gone != nil {
		return nil, gone
	}
	if got == nil && err == nil {
		err = errReset
	}
	w.returned(c, err == nil)
	if err != nil {
		w.note(p, key, "%s: no answer: %v", r.URL.Path, err)
		return nil, err
	}
	var content io.Reader = bytes.NewReader(got.body)
	if w.reachCall(c, stepAnswered) { // half of the body
		w.returned(c, got.status != http.StatusOK) // an error's status says that nothing was spent
		c.garbled = true
		content = io.MultiReader(bytes.NewReader(got.body[:len(got.body)/2]), broken{})
	}
	if gone := p.gate(ctx); gone != nil { // stopped in the moment of the answer
		return nil, gone
	}
	return &http.Response{
		StatusCode: got.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: got.header,
		Body: io.NopCloser(content), ContentLength: -1, Request: r,
	}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errReset }

// exchange takes a request to the server and its answer back, whether anybody
// still waits for it or not.
func (n *network) exchange(c *call, path string, form url.Values, d *dice, key session.Key, answers chan<- *reply) {
	p, w := n.p, n.p.w
	storm := w.plan.profile == profileStorm && !w.calm()
	out, work, back := d.between(100*time.Microsecond, 20*time.Millisecond), d.between(time.Millisecond, 50*time.Millisecond), d.between(100*time.Microsecond, 20*time.Millisecond)
	if path == "/token" {
		work = d.between(time.Millisecond, w.latency())
		if storm && d.chance(0.02) {
			work = d.between(5*time.Second, 50*time.Second) // longer than anybody waits
		}
	}
	faults := 0.0
	if !w.calm() {
		faults = w.plan.serverFaults
	}
	time.Sleep(out)
	w.reachCall(c, stepArrived) // its reply is not yet on the way
	if d.chance(faults * 0.25) {
		w.callFault(p, faultServerCall, key, 0)
		w.note(p, key, "%s: lost on the way there", path)
		n.fail(d, answers)
		return
	}
	early := d.chance(0.5) // whether it does its work at the beginning or at the end
	if !early {
		time.Sleep(work)
	}
	mode := w.server.currentMode()
	if d.chance(faults * 0.35) {
		mode = oneOf(d, modeUnavailable, modeUnavailable, modeTooMany, modeInvalidClient, modeHTML)
		w.callFault(p, faultServerCall, key, 0)
	}
	got := w.server.serve(c, path, form, mode)
	w.note(p, key, "%s %s: %d %s", path, tokenName(c.token), got.status, c.result)
	if w.plan.harmlessTwice() && mode == modeWell && d.chance(faults*0.1) {
		w.note(p, key, "%s: delivered twice", path)
		w.server.serve(&call{sess: c.sess, proc: p, revoke: c.revoke, code: c.code, token: c.token, called: c.called}, path, form, modeWell)
	}
	if early {
		time.Sleep(work)
	}
	if w.reachCall(c, stepServed) || d.chance(faults*0.3) {
		w.callFault(p, faultServerCall, key, 0)
		w.note(p, key, "%s: the answer is lost", path)
		n.fail(d, answers)
		return
	}
	time.Sleep(back)
	answers <- got
}

// fail resets the connection, or lets the caller wait.
func (n *network) fail(d *dice, answers chan<- *reply) {
	if d.chance(0.6) {
		answers <- nil
	}
}

// harmlessTwice says that a request which the network delivers twice does no
// harm. Under the other policies nobody can do anything about it.
func (p *plan) harmlessTwice() bool {
	return p.policy == policyNone || p.policy == policySame || p.policy == policyChild || p.policy == policyGrace
}

func tokenName(t *refreshToken) string {
	if t == nil {
		return ""
	}
	return t.value
}

// newCall notes a call of the token or the revocation endpoint.
func (w *world) newCall(p *process, path string, form url.Values, called time.Time) *call {
	c := &call{proc: p, called: called, revoke: path == "/revoke", code: form.Get("grant_type") == "authorization_code"}
	if path != "/token" && path != "/revoke" {
		return c
	}
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	value := form.Get("refresh_token")
	if c.revoke {
		value = form.Get("token")
	}
	c.token = w.server.refresh[value]
	if c.token != nil {
		c.sess = c.token.fam.sess
	} else if !c.code {
		w.note(p, session.Key{}, "%s with an unknown token %q", path, strings.TrimSpace(value))
	}
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	w.history.calls = append(w.history.calls, c)
	if c.sess != nil {
		w.note(p, c.sess.key, "%s %s: called", path, c.token.value)
	}
	return c
}

// returned notes what the caller got.
func (w *world) returned(c *call, whole bool) {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	c.returned = time.Now()
	c.answered = time.Time{}
	if whole {
		c.answered = c.returned
	}
}

// reachCall is reach for the steps of a call.
func (w *world) reachCall(c *call, s step) (lose bool) {
	if c.sess == nil {
		return false
	}
	if c.revoke {
		if s != stepCalled {
			return false
		}
		s = stepRevoked
	}
	return w.reach(c.proc, c.sess.key, s)
}

// latency is what the token endpoint takes at most. One that is slower than
// anybody waits is mended with all the other faults.
func (w *world) latency() time.Duration {
	if w.quiet.Load() && w.plan.profile != profileCalm {
		return min(w.plan.latency, 3*time.Second)
	}
	return w.plan.latency
}
