package front

import (
	"sync"

	"stoker/internal/http1"
)

// Sizes of what a session reads with: nearly all heads and many bodies fit into
// the small one; the large one holds the largest head.
const (
	smallInput = 4 << 10
	largeInput = 36 << 10
)

// A large buffer must hold any head that http1 takes.
const _ = uint(largeInput - http1.MaxRequestHead - 1)

var (
	smallInputs = sync.Pool{New: func() any { return new([smallInput]byte) }}
	largeInputs = sync.Pool{New: func() any { return new([largeInput]byte) }}
)

// input is what was read from a client and not yet used. A request's head stays
// where it was parsed, since its fields are views of it, until next.
type input struct {
	small *[smallInput]byte
	large *[largeInput]byte

	buf        []byte // small, large, or what extra was
	start, end int
	// extra is what a body's reader has read of the next request, where buf has
	// no room for it.
	extra []byte
}

// unread is what was read and not used.
func (in *input) unread() []byte { return in.buf[in.start:in.end] }

// room returns where to read more of a head to: behind what is unread, which
// is moved when it has to be.
func (in *input) room() []byte {
	switch {
	case in.buf == nil:
		in.small = smallInputs.Get().(*[smallInput]byte)
		in.buf = in.small[:]
	case in.end < len(in.buf):
	case in.start > 0:
		in.end = copy(in.buf, in.unread())
		in.start = 0
	default:
		rest := in.unread()
		large := largeInputs.Get().(*[largeInput]byte)
		n := copy(large[:], rest)
		in.free()
		in.large, in.buf, in.end = large, large[:], n
	}
	return in.buf[in.end:]
}

// take moves unread bytes to p.
func (in *input) take(p []byte) int {
	n := copy(p, in.unread())
	in.start += n
	return n
}

// putBack takes back what was read of the next request; nothing is unread.
func (in *input) putBack(p []byte) {
	if len(p) <= len(in.buf)-in.end {
		in.start = in.end
		in.end += copy(in.buf[in.end:], p)
		return
	}
	in.extra = append([]byte(nil), p...)
}

// next makes ready for the next request; the last one's head is gone then.
func (in *input) next() {
	switch {
	case len(in.extra) > 0:
		rest := in.extra
		in.free()
		in.buf, in.end = rest, len(rest)
	case in.start < in.end:
	case in.small == nil:
		in.free()
	default:
		in.start, in.end = 0, 0
	}
}

func (in *input) free() {
	if in.small != nil {
		smallInputs.Put(in.small)
	}
	if in.large != nil {
		largeInputs.Put(in.large)
	}
	*in = input{}
}
