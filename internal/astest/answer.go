// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package astest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Answer is a scripted answer. With neither Status nor Body the endpoint acts on
// the request and answers as usual, within what the other fields say; with one
// of them it answers just that and acts on nothing.
//
// What happens, in order: OnRequest, CutUnread, Gate, Delay, Hang, Cut, acting
// on the request, DelayReply, CutReply, and the answer (TruncateAt, Drip).
// Gate and Delay go on when the client has left: the server acts on the request
// all the same. (In a synctest bubble the test has to last as long as they do.)
type Answer struct {
	Status int         // [200, when there is a Body]
	Header http.Header // of the answer, also of a usual one
	Body   string

	OnRequest func(Request)   // called when the request has arrived
	Gate      <-chan struct{} // waits until it is closed or gives a value

	Delay      time.Duration // before acting on the request
	Hang       bool          // never answers; ends when the client leaves
	CutUnread  bool          // cuts the connection without reading the request body
	Cut        bool          // cuts the connection after reading, before acting
	DelayReply time.Duration // after acting, before the answer
	CutReply   bool          // cuts the connection after acting: the answer is lost
	TruncateAt int           // cuts the connection after so many bytes of the body
	Drip       time.Duration // sends the body byte by byte, this long apart

	// Times is how often the answer is given; -1: until ClearScript. [1]
	Times int
}

// JSON makes an Answer with a JSON body.
func JSON(status int, body any) Answer {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return Answer{Status: status, Body: string(data), Header: http.Header{"Content-Type": {"application/json"}}}
}

// OAuthError makes an error Answer of the token endpoint (RFC 6749 section 5.2).
func OAuthError(status int, code string) Answer {
	return JSON(status, map[string]string{"error": code})
}

// Script queues answers for an endpoint; when the queue is empty the endpoint
// behaves as usual.
func (s *Server) Script(endpoint string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range answers {
		if a.Times == 0 {
			a.Times = 1
		}
		s.scripts[endpoint] = append(s.scripts[endpoint], &a)
	}
}

// ClearScript drops what is queued for an endpoint.
func (s *Server) ClearScript(endpoint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.scripts, endpoint)
}

// nextAnswer takes the next scripted answer, if there is one.
func (s *Server) nextAnswer(endpoint string) (a Answer, queued bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.scripts[endpoint]
	if len(queue) == 0 {
		return Answer{}, false
	}
	next := queue[0]
	if next.Times > 0 {
		if next.Times--; next.Times == 0 {
			s.scripts[endpoint] = queue[1:]
		}
	}
	return *next, true
}

// tokenAnswer asks the option of that name.
func (s *Server) tokenAnswer(endpoint string, rec *Request) Answer {
	s.mu.Lock()
	own := s.opts.TokenAnswer
	s.mu.Unlock()
	if endpoint != Token || own == nil {
		return Answer{}
	}
	if a := own(s.snapshot(rec)); a != nil {
		return *a
	}
	return Answer{}
}

func (a Answer) canned() bool { return a.Status != 0 || a.Body != "" }

func (a Answer) response() *response {
	res := &response{status: a.Status, header: maps.Clone(a.Header), body: []byte(a.Body)}
	if res.status == 0 {
		res.status = http.StatusOK
	}
	return res
}

// adorn adds the scripted header to a usual answer.
func (a Answer) adorn(res *response) {
	for name, values := range a.Header {
		if res.header == nil {
			res.header = http.Header{}
		}
		res.header[name] = values
	}
}

// response is an answer before it is sent.
type response struct {
	status int
	header http.Header
	body   []byte
}

func jsonResponse(status int, body any) *response {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &response{status: status, body: data, header: http.Header{
		"Content-Type": {"application/json"}, "Cache-Control": {"no-store"},
	}}
}

func oauthError(status int, code, description string) *response {
	return jsonResponse(status, map[string]string{"error": code, "error_description": description})
}

func redirect(location string) *response {
	return &response{status: http.StatusFound, header: http.Header{"Location": {location}, "Cache-Control": {"no-store"}}}
}

// write sends the response the way a wants it; cut aborts the connection.
func (r *response) write(ctx context.Context, w http.ResponseWriter, a Answer, cut func()) {
	h := w.Header()
	maps.Copy(h, r.header)
	if h.Get("Content-Encoding") == "" && len(r.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	w.WriteHeader(r.status)
	body := r.body
	if a.TruncateAt > 0 && a.TruncateAt < len(body) {
		body = body[:a.TruncateAt]
	}
	flush := func() { _ = http.NewResponseController(w).Flush() }
	if a.Drip > 0 {
		flush()
		for i := range body {
			pause(ctx, a.Drip)
			if _, err := w.Write(body[i : i+1]); err != nil {
				return
			}
			flush()
		}
	} else {
		_, _ = bytes.NewReader(body).WriteTo(w)
	}
	if len(body) < len(r.body) {
		flush()
		cut()
	}
}

// pause waits, but not for a client that has left.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
