// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

// TestMain looks at what all the other tests have left: memory that is counted
// for ever would be missing in the end. H206.
func TestMain(m *testing.M) {
	code := m.Run()
	held := processMemory.held.Load()
	for range 100 {
		if held == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
		held = processMemory.held.Load()
	}
	if held != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "replay buffers hold %d bytes after the last request\n", held)
		code = 1
	}
	os.Exit(code)
}

// TestReplayBufferFollowsBody: a body holds memory for what was received of it,
// whatever length it declares and whatever the limit allows. PX-08, H206.
func TestReplayBufferFollowsBody(t *testing.T) {
	t.Parallel()
	const declared = 64 << 20
	for _, length := range []int64{declared, -1} {
		pattern := blob(1 << 20)
		src := readerOf(func(p []byte) (int, error) { return copy(p, pattern), nil })
		req := upload(t.Context(), nil, &clientBody{Reader: src}, length)
		b := newReplayBody(req, declared, nil)
		out := *req
		b.attach(&out, 1)
		var received int64
		for _, n := range []int64{1, 99, 4<<10 - 100, 1, 100, 10 << 10, 64 << 10, 1, 1 << 20, 3<<20 + 1} {
			if _, err := io.CopyN(io.Discard, out.Body, n); err != nil {
				t.Fatal(err)
			}
			received += n
			// CopyN reads no further than it is told, so this is exact.
			if held := b.kept.capacity(); held < received || held > received+replayChunk {
				t.Fatalf("declared %d: %d bytes received, %d held", length, received, held)
			}
			if b.kept.size != received {
				t.Fatalf("declared %d: %d bytes received, %d kept", length, received, b.kept.size)
			}
		}
		b.release()
		if held := b.kept.capacity(); held != 0 {
			t.Errorf("declared %d: %d bytes held after the end", length, held)
		}
	}
}

// TestReplayBufferFirstByte is the attack: many clients declare the whole of the
// limit, and send one byte each. H206.
func TestReplayBufferFirstByte(t *testing.T) {
	t.Parallel()
	var held int64
	for range 20 {
		req := upload(t.Context(), nil, &clientBody{Reader: bytes.NewReader([]byte("a"))}, 64<<20)
		b := newReplayBody(req, 64<<20, nil)
		out := *req
		b.attach(&out, 1)
		if _, err := io.ReadFull(out.Body, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		held += b.kept.capacity()
		defer b.release()
	}
	if held != 20*firstChunk {
		t.Errorf("20 bytes hold %d", held)
	}
}

func newBuffer() replayBuffer {
	return replayBuffer{memory: new(replayMemory), bound: DefaultReplayMemory}
}

// TestReplayBuffersAreBoundedTogether: the bodies of all requests hold no more
// than the bound; those beyond it stream, and take part again when there is room.
// Nothing is counted for ever. H206.
func TestReplayBuffersAreBoundedTogether(t *testing.T) {
	t.Parallel()
	const limit, bound = 64 << 10, 1 << 20
	memory := new(replayMemory)
	open := func() *replayBody {
		req := upload(t.Context(), nil, &clientBody{Reader: bytes.NewReader(blob(limit))}, limit)
		b := newReplayBody(req, limit, nil)
		b.kept.memory, b.kept.bound = memory, bound
		out := *req
		b.attach(&out, 1)
		sent, err := io.ReadAll(out.Body)
		if err != nil || !bytes.Equal(sent, blob(limit)) {
			t.Fatalf("%d bytes got through: %v", len(sent), err)
		}
		return b
	}
	var bodies []*replayBody
	kept, streamed := 0, 0
	for range 100 {
		b := open()
		bodies = append(bodies, b)
		if b.noRoom() {
			streamed++
			if b.settle(t.Context()) {
				t.Error("a body that was not kept is sent again")
			}
		} else {
			kept++
		}
		if held := memory.held.Load(); held > bound {
			t.Fatalf("%d bytes held", held)
		}
	}
	if kept != bound/(firstChunk+4*replayChunk) || streamed != 100-kept {
		t.Errorf("%d kept, %d not", kept, streamed)
	}
	for _, b := range bodies {
		b.release()
	}
	if held := memory.held.Load(); held != 0 {
		t.Errorf("%d bytes are left", held)
	}
	if b := open(); b.noRoom() || !b.settle(t.Context()) {
		t.Error("there is room, and it is not used")
	} else {
		b.release()
	}
	if held := memory.held.Load(); held != 0 {
		t.Errorf("%d bytes are left", held)
	}
}

// TestNoRoomIsTold: where there is no room the 401 stands, and somebody is told. H206.
func TestNoRoomIsTold(t *testing.T) { // not in parallel: it takes all there is
	for _, full := range []bool{true, false} {
		taken := int64(0)
		if full {
			taken = DefaultReplayMemory - processMemory.held.Load()
			processMemory.held.Add(taken)
		}
		told := 0
		var results []ReplayResult
		tr := &Transport{
			NoRoom:   func(context.Context) { told++ },
			Replayed: func(_ context.Context, r ReplayResult) { results = append(results, r) },
			Base: roundTrip(func(r *http.Request) (*http.Response, error) {
				_, _ = io.Copy(io.Discard, r.Body)
				_ = r.Body.Close()
				if r.Header.Get("Authorization") == "Bearer token-0" {
					return refusal(), nil
				}
				return answer(200, "fine"), nil
			}),
		}
		resp, err := tr.RoundTrip(upload(t.Context(), &Grant{Source: &generations{}}, &clientBody{Reader: bytes.NewReader(blob(100))}, 100))
		processMemory.held.Add(-taken)
		if err != nil {
			t.Fatal(err)
		}
		if full && (resp.StatusCode != 401 || told != 1 || results[0] != ReplayBodyGone) || !full && (resp.StatusCode != 200 || told != 0 || results[0] != ReplayHealed) {
			t.Errorf("full %t: status %d, told %d times, %v", full, resp.StatusCode, told, results)
		}
	}
}

// TestLargeReplayBuffersHaveRoom: where a replay buffer was made larger, four
// requests can use it. H206.
func TestLargeReplayBuffersHaveRoom(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]int64{1: DefaultReplayMemory, 64 << 10: DefaultReplayMemory, 16 << 20: DefaultReplayMemory, 1 << 30: 4 << 30} {
		b := newReplayBody(upload(t.Context(), nil, &clientBody{Reader: bytes.NewReader(nil)}, 1), limit, nil)
		if b.kept.bound != want {
			t.Errorf("limit %d: bound %d, want %d", limit, b.kept.bound, want)
		}
	}
}

// TestReplayBufferGivesBackWhileSending: what the replay has sent is not held.
func TestReplayBufferGivesBackWhileSending(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	sent := blob(size)
	buffer := newBuffer()
	buffer.keep(sent)
	got := make([]byte, 0, size)
	p := make([]byte, 1000)
	for len(got) < size {
		n := buffer.take(p)
		if n == 0 {
			t.Fatalf("stops after %d bytes", len(got))
		}
		got = append(got, p[:n]...)
		if held, left := buffer.capacity(), int64(size-len(got)); held > left+replayChunk+firstChunk {
			t.Fatalf("%d bytes are left and %d held", left, held)
		}
		if held, counted := buffer.capacity(), buffer.memory.held.Load(); held != counted {
			t.Fatalf("%d bytes held, and %d are counted", held, counted)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came out")
	}
	if n := buffer.take(p); n != 0 {
		t.Errorf("%d bytes too many", n)
	}
	buffer.drop()
	if held, counted := buffer.capacity(), buffer.memory.held.Load(); held != 0 || counted != 0 {
		t.Errorf("%d bytes held, and %d are counted", held, counted)
	}
}

// TestReplayBufferSmallBody: a usual body lies in one piece of the smallest
// size, however it comes.
func TestReplayBufferSmallBody(t *testing.T) {
	t.Parallel()
	buffer := newBuffer()
	for range firstChunk {
		buffer.keep([]byte{'x'})
	}
	if held := buffer.capacity(); held != firstChunk {
		t.Errorf("%d bytes hold %d", firstChunk, held)
	}
	buffer.drop()
}

// FuzzReplayBuffer: what was kept comes out, in any portions, once.
func FuzzReplayBuffer(f *testing.F) {
	f.Add(10, 3, 2)
	f.Add(firstChunk, firstChunk, 1000)
	f.Add(firstChunk+1, 1, firstChunk)
	f.Add(firstChunk+3*replayChunk+5, replayChunk, replayChunk+1)
	f.Fuzz(func(t *testing.T, size, in, out int) {
		if size < 0 || size > 200<<10 || in <= 0 || in > 200<<10 || out <= 0 || out > 200<<10 || size/in > 1<<14 || size/out > 1<<14 {
			t.Skip()
		}
		sent := blob(size)
		buffer := newBuffer()
		for rest := sent; len(rest) > 0; {
			n := min(in, len(rest))
			buffer.keep(rest[:n])
			rest = rest[n:]
		}
		got, err := io.ReadAll(iotest.DataErrReader(readerOf(func(p []byte) (int, error) {
			n := buffer.take(p[:min(out, len(p))])
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		})))
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came out of %d, %v", len(got), size, err)
		}
		buffer.drop()
	})
}
