// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import "sync"

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

// replayBuffer keeps the beginning of a body and gives it out once, in order. It
// grows and shrinks by pieces that are used again for other bodies. The zero
// value is empty.
type replayBuffer struct {
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

// keep appends p.
func (b *replayBuffer) keep(p []byte) {
	for len(p) > 0 {
		switch {
		case b.size == 0:
			b.first = firstChunks.Get().(*[firstChunk]byte)
		case b.size >= firstChunk && (b.size-firstChunk)%replayChunk == 0:
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
		return
	}
	last := (offset-firstChunk)/replayChunk - 1
	replayChunks.Put(b.rest[last])
	b.rest[last] = nil
}

// drop gives everything back. The buffer is empty afterwards.
func (b *replayBuffer) drop() {
	if b.first != nil {
		firstChunks.Put(b.first)
	}
	for _, piece := range b.rest {
		if piece != nil {
			replayChunks.Put(piece)
		}
	}
	*b = replayBuffer{}
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
