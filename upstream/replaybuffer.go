// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync"
	"sync/atomic"
)

// Sizes of the pieces of a replay buffer, in bytes. Most API requests fit into
// the first; no body holds more than the size of one piece beyond what came of
// it, whatever length it declares.
const (
	firstChunk  = 4 << 10
	replayChunk = 16 << 10
)

var (
	firstChunks  = sync.Pool{New: func() any { return new([firstChunk]byte) }}
	replayChunks = sync.Pool{New: func() any { return new([replayChunk]byte) }}
)

// DefaultReplayMemory is how many bytes the replay buffers of all requests hold
// together, in this process. Where a transport has larger ones, it is four of them.
const DefaultReplayMemory = 64 << 20

// replayMemory counts what replay buffers hold. It is safe for concurrent use.
type replayMemory struct{ held atomic.Int64 }

// take counts n bytes more, unless that would be more than bound.
func (m *replayMemory) take(n, bound int64) bool {
	if m.held.Add(n) <= bound {
		return true
	}
	m.held.Add(-n)
	return false
}

// processMemory is that of all transports.
var processMemory replayMemory

// replayBuffer keeps the beginning of a body and gives it out once, in order. It
// grows and shrinks by pieces that are used again for other bodies. The zero
// value is empty, and may hold nothing.
type replayBuffer struct {
	memory *replayMemory
	bound  int64 // of memory

	first *[firstChunk]byte
	rest  []*[replayChunk]byte
	size  int64 // how much was kept
	taken int64 // how much of it was given out
}

// chunk returns the piece with the byte at offset, and where in it that is.
func (b *replayBuffer) chunk(offset int64) (piece []byte, at int) {
	if offset < firstChunk {
		return b.first[:], int(offset)
	}
	offset -= firstChunk
	return b.rest[offset/replayChunk][:], int(offset % replayChunk)
}

// keep appends p. It reports false, and may have kept a part, when there is no
// memory for it.
func (b *replayBuffer) keep(p []byte) bool {
	for len(p) > 0 {
		switch {
		case b.size == 0:
			if !b.memory.take(firstChunk, b.bound) {
				return false
			}
			b.first = firstChunks.Get().(*[firstChunk]byte)
		case b.size >= firstChunk && (b.size-firstChunk)%replayChunk == 0:
			if !b.memory.take(replayChunk, b.bound) {
				return false
			}
			if b.rest == nil {
				b.rest = make([]*[replayChunk]byte, 0, DefaultReplayBuffer/replayChunk)
			}
			b.rest = append(b.rest, replayChunks.Get().(*[replayChunk]byte))
		}
		piece, at := b.chunk(b.size)
		n := copy(piece[at:], p)
		b.size += int64(n)
		p = p[n:]
	}
	return true
}

// take moves kept bytes to p and returns how many; 0 when there are no more, or
// p is empty. Nothing may be kept after the first take.
func (b *replayBuffer) take(p []byte) int {
	var n int
	for n < len(p) && b.taken < b.size {
		piece, at := b.chunk(b.taken)
		stop := min(len(piece), at+int(b.size-b.taken))
		moved := copy(p[n:], piece[at:stop])
		n += moved
		b.taken += int64(moved)
		if at+moved == len(piece) {
			b.freeBefore(b.taken)
		}
	}
	return n
}

// freeBefore gives back the piece that ends at offset.
func (b *replayBuffer) freeBefore(offset int64) {
	if offset == firstChunk {
		firstChunks.Put(b.first)
		b.first = nil
		b.memory.held.Add(-firstChunk)
		return
	}
	last := (offset-firstChunk)/replayChunk - 1
	replayChunks.Put(b.rest[last])
	b.rest[last] = nil
	b.memory.held.Add(-replayChunk)
}

// drop gives everything back. The buffer is empty afterwards.
func (b *replayBuffer) drop() {
	if held := b.capacity(); held > 0 {
		b.memory.held.Add(-held)
	}
	if b.first != nil {
		firstChunks.Put(b.first)
	}
	for _, piece := range b.rest {
		if piece != nil {
			replayChunks.Put(piece)
		}
	}
	*b = replayBuffer{memory: b.memory, bound: b.bound}
}

// capacity returns how many bytes of memory are held.
func (b *replayBuffer) capacity() int64 {
	var held int64
	if b.first != nil {
		held += firstChunk
	}
	for _, piece := range b.rest {
		if piece != nil {
			held += replayChunk
		}
	}
	return held
}
