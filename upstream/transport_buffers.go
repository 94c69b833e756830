package upstream

import "sync"

// Sizes of what an exchange reads and writes with. A small answer, and the
// events of a stream, never need more than smallBuffer, and thousands of
// streams may be open; a bulky answer gets a largeBuffer as soon as it shows.
const (
	smallBuffer = 4 << 10
	// largeBuffer holds the largest head that http1 takes.
	largeBuffer = 64 << 10
	// leastWindow is the least room behind a head that is worth reading a body into.
	leastWindow = 1 << 10
	// maxKept is the largest request buffer that is kept for the next one.
	maxKept = smallBody + 16<<10
)

// Caches of buffers. Being arrays behind pointers, they go in and out without
// an allocation.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	// requestBuffers hold a head and a small body.
	requestBuffers = sync.Pool{New: func() any { return new(requestBuffer) }}
)

type requestBuffer struct {
	p    []byte
	head int // length of the head; the body follows
}

func (b *requestBuffer) free() {
	if cap(b.p) > maxKept {
		return
	}
	b.p, b.head = b.p[:0], 0
	requestBuffers.Put(b)
}

// input is what was read from the upstream and not yet relayed. The head's
// fields view the buffer it was parsed in; the body is read into what is left of
// it while that does. While nothing comes, nothing is held.
type input struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte // for a head that small does not hold
	bulk  *[largeBuffer]byte // for a body that comes in large pieces

	buf    []byte // the one in use
	start  int    // first byte not yet consumed
	end    int    // behind the last byte read
	window []byte // where the body is read into
	full   bool   // the last read filled it
}

func (in *input) free() {
	if in.small != nil {
		smallBuffers.Put(in.small)
	}
	if in.large != nil {
		largeBuffers.Put(in.large)
	}
	if in.bulk != nil {
		largeBuffers.Put(in.bulk)
	}
	*in = input{}
}

// rest lets go of everything while nothing comes.
func (in *input) rest() error { in.free(); return nil }

// unread is what was read and not yet consumed.
func (in *input) unread() []byte { return in.buf[in.start:in.end] }

// room returns where to read more of a head to: behind what is unread, which
// is moved when it has to be.
func (in *input) room() []byte {
	switch {
	case in.buf == nil:
		in.small = smallBuffers.Get().(*[smallBuffer]byte)
		in.buf = in.small[:]
	case in.end < len(in.buf):
	case in.start > 0 || in.large != nil:
		in.end = copy(in.buf, in.unread())
		in.start = 0
	default:
		in.large = largeBuffers.Get().(*[largeBuffer]byte)
		in.end = copy(in.large[:], in.unread())
		in.start, in.buf = 0, in.large[:]
	}
	return in.buf[in.end:]
}

// bodyRoom returns where to read more of a body to. What was read there before
// has been relayed.
func (in *input) bodyRoom() []byte {
	if in.window == nil {
		if in.buf == nil {
			in.small = smallBuffers.Get().(*[smallBuffer]byte)
			in.buf = in.small[:]
		}
		in.window = in.buf[in.start:]
	}
	if in.bulk == nil && (in.full || len(in.window) < leastWindow) {
		in.bulk = largeBuffers.Get().(*[largeBuffer]byte)
		in.window = in.bulk[:]
	}
	return in.window
}

// got says that n bytes were read to what bodyRoom returned.
func (in *input) got(n int) {
	in.buf, in.start, in.end = in.window, 0, n
	in.full = n > 0 && n == len(in.window)
}
