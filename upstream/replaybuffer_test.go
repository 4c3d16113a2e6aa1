// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

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
	}
	if held != 20*firstChunk {
		t.Errorf("20 bytes hold %d", held)
	}
}

// TestReplayBufferGivesBackWhileSending: what the replay has sent is not held.
func TestReplayBufferGivesBackWhileSending(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	sent := blob(size)
	var buffer replayBuffer
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
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes came out")
	}
	if n := buffer.take(p); n != 0 {
		t.Errorf("%d bytes too many", n)
	}
	buffer.drop()
	if held := buffer.capacity(); held != 0 {
		t.Errorf("%d bytes held", held)
	}
}

// TestReplayBufferSmallBody: a usual body lies in one piece of the smallest
// size, however it comes.
func TestReplayBufferSmallBody(t *testing.T) {
	t.Parallel()
	var buffer replayBuffer
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
		var buffer replayBuffer
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
