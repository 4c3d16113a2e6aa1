// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// errDetached is what the first attempt reads once the body belongs to the
// replay.
var errDetached = errors.New("request body was taken over by the replay")

// readOnBuffer is the size in bytes of one read that settle makes.
const readOnBuffer = 4 << 10

// replayBody is the request body of a client, read by up to two attempts one
// after the other. While the answer to the first attempt is open it keeps what
// it reads, up to limit; a body that turns out longer is let go and streams.
//
// Only one goroutine reads src at a time, and the lock is never held over that
// read: [replayBody.release] must not wait for a slow client, as an answer may
// come before the body has ended (bidirectional streams).
type replayBody struct {
	src        io.ReadCloser
	srcTrailer http.Header // filled by src when it returns io.EOF
	dropped    func(string) bool
	length     int64 // declared, -1 if unknown
	limit      int64
	awaited    bool // the client waits for 100 (Continue) before it sends

	mu      sync.Mutex
	idle    sync.Cond // signalled when reading becomes false
	reading bool
	attempt int  // the attempt that may read: 1 or 2
	keeping bool // what is read is kept
	kept    replayBuffer
	read    int64 // taken from src
	err     error // how src ended
	trailer http.Header
	closing bool // close src when the read under way returns
	closed  bool // the attempt has closed its body
	shut    bool // src was closed
	settled bool // given up on, or released
	resent  bool // the replay has been begun
	// crowdedOut: there was no memory to keep it in.
	crowdedOut bool

	first attemptBody
}

// newReplayBody wraps the body of req. A limit of zero or less keeps nothing.
func newReplayBody(req *http.Request, limit int64, reserved func(string) bool) *replayBody {
	b := &replayBody{
		src:        req.Body,
		srcTrailer: req.Trailer,
		dropped:    reserved,
		length:     req.ContentLength,
		limit:      limit,
		attempt:    1,
		keeping:    limit > 0 && req.ContentLength <= limit,
		kept:       replayBuffer{memory: &processMemory, bound: max(DefaultReplayMemory, 4*limit)},
	}
	if b.length == 0 {
		b.length = -1 // net/http: zero with a body is unknown
	}
	if !b.keeping {
		b.awaited = strings.EqualFold(strings.TrimSpace(headerLine(req.Header, "Expect")), "100-continue")
	}
	b.idle.L = &b.mu
	return b
}

// attach makes out send the body as the given attempt (1 or 2), with a trailer
// section of its own: the first attempt may still be writing its.
func (b *replayBody) attach(out *http.Request, attempt int) {
	a, source := &b.first, b.srcTrailer
	if attempt > 1 {
		a = new(attemptBody)
		b.mu.Lock()
		b.resent = true
		if b.trailer != nil {
			source = b.trailer
		}
		b.mu.Unlock()
	}
	a.body, a.attempt = b, attempt
	if source != nil {
		a.trailer = b.filtered(source)
		out.Trailer = a.trailer
	}
	out.Body = a
}

// filtered returns a copy of a trailer section without fields that a client must
// not send there.
func (b *replayBody) filtered(h http.Header) http.Header {
	t := make(http.Header, len(h))
	for name, values := range h {
		if !reservedTrailer(name) && (b.dropped == nil || !b.dropped(name)) {
			t[name] = slices.Clone(values)
		}
	}
	return t
}

// attemptBody is the body as one attempt reads it.
type attemptBody struct {
	body    *replayBody
	attempt int
	trailer http.Header // of the outgoing request; filled at the end
}

// Read implements io.Reader.
func (a *attemptBody) Read(p []byte) (int, error) {
	n, err := a.body.readAs(a.attempt, p)
	if err == io.EOF && a.trailer != nil {
		// The transport writes the trailer section after this read, in the same
		// goroutine.
		clear(a.trailer)
		maps.Copy(a.trailer, a.body.ended())
		a.trailer = nil
	}
	return n, err
}

// Close implements io.Closer. The client's body stays open while a replay may
// still need it.
func (a *attemptBody) Close() error { return a.body.closeAs(a.attempt) }

// ended returns the trailer section that came at the end of the body.
func (b *replayBody) ended() http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trailer
}

func (b *replayBody) readAs(attempt int, p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case attempt != b.attempt:
			return 0, errDetached
		case b.closed:
			return 0, http.ErrBodyReadAfterClose
		case attempt > 1 && b.kept.taken < b.kept.size:
			return b.kept.take(p), nil
		case b.err != nil:
			return 0, b.err
		case attempt > 1 && b.wholeLocked():
			return 0, io.EOF
		case !b.reading:
			n, err := b.readLocked(p)
			if attempt != b.attempt {
				return 0, errDetached // kept for the replay
			}
			return n, err
		}
		b.idle.Wait()
	}
}

// readLocked reads from the client once. It gives the lock up meanwhile.
func (b *replayBody) readLocked(p []byte) (int, error) {
	b.reading = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.reading = false
	b.read += int64(n)
	if b.keeping && n > 0 {
		b.keepLocked(p[:n])
	}
	if err != nil {
		b.err = err
		if err == io.EOF && b.srcTrailer != nil {
			b.trailer = b.filtered(b.srcTrailer)
		}
	}
	if b.closing && !b.shut {
		b.shut = true
		b.mu.Unlock()
		_ = b.src.Close()
		b.mu.Lock()
	}
	b.idle.Broadcast()
	return n, err
}

// keepLocked appends to the replay buffer, or lets it go when the body is longer
// than the limit.
func (b *replayBody) keepLocked(p []byte) {
	if b.kept.size+int64(len(p)) > b.limit {
		b.keeping = false
		b.kept.drop()
		return
	}
	if !b.kept.keep(p) {
		b.keeping, b.crowdedOut = false, true
		b.kept.drop()
	}
}

// untouchedLocked reports whether the client has not begun to send the body,
// since nobody has told it to. It can then be sent again whatever its size.
func (b *replayBody) untouchedLocked() bool {
	return b.awaited && b.attempt == 1 && !b.settled && b.read == 0 && !b.reading && b.err == nil && !b.shut
}

// wholeLocked reports whether the body has been read to its end.
func (b *replayBody) wholeLocked() bool {
	return b.err == io.EOF || b.length > 0 && b.read >= b.length
}

func (b *replayBody) closeAs(attempt int) error {
	b.mu.Lock()
	if attempt != b.attempt || b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	if b.keeping || b.untouchedLocked() {
		b.mu.Unlock()
		return nil // release or the replay closes it
	}
	if attempt > 1 {
		b.kept.drop()
	}
	shut := b.shut
	b.shut = true
	b.mu.Unlock()
	if shut {
		return nil
	}
	return b.src.Close()
}

// settle takes the body away from the first attempt and reads on from the client
// up to the limit, until ctx ends. It reports whether the whole of the body can
// be sent again.
func (b *replayBody) settle(ctx context.Context) bool {
	b.mu.Lock()
	if !b.keeping {
		defer b.mu.Unlock()
		if b.untouchedLocked() {
			b.attempt, b.closed = 2, false
			return true
		}
		return false
	}
	b.attempt, b.closed = 2, false
	if !b.reading && (b.wholeLocked() || b.err != nil) {
		defer b.mu.Unlock()
		return b.replayableLocked()
	}
	b.mu.Unlock()

	done := make(chan bool, 1)
	go func() { done <- b.readOn() }()
	select {
	case whole := <-done:
		return whole
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		b.settled = true
		return false
	}
}

// readOn reads what is left of the body into the replay buffer.
func (b *replayBody) readOn() bool {
	p := make([]byte, readOnBuffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for b.reading {
			b.idle.Wait()
		}
		if b.settled || !b.keeping || b.err != nil || b.wholeLocked() {
			return b.replayableLocked()
		}
		_, _ = b.readLocked(p)
	}
}

// replayableLocked decides over the body that settle has read, and ends keeping.
func (b *replayBody) replayableLocked() bool {
	whole := b.keeping && !b.settled && b.wholeLocked()
	b.keeping = false
	return whole
}

// release ends all hopes of a replay: the buffer goes, what was not forwarded is
// forwarded. It waits for nobody but src.Close.
func (b *replayBody) release() {
	b.mu.Lock()
	b.settled, b.keeping = true, false
	if b.resent {
		b.mu.Unlock()
		return // the replay reads and closes it like any other body
	}
	b.kept.drop()
	// A body that was taken from the first attempt, for a replay that never was,
	// has nobody else to close it.
	owed := !b.shut && (b.closed || b.attempt > 1)
	if owed && b.reading {
		b.closing, owed = true, false
	}
	b.shut = b.shut || owed
	b.mu.Unlock()
	if owed {
		_ = b.src.Close()
	}
}

// noRoom reports whether the body was let go for other requests' sake.
func (b *replayBody) noRoom() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.crowdedOut
}

// unread reports whether part of the body is still to come from the client.
func (b *replayBody) unread() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.wholeLocked()
}
