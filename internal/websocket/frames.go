package websocket

import "encoding/binary"

// Sizes of a frame's head: the first two bytes, the length that follows, the mask.
const (
	leastHead = 2
	maskBytes = 4
	maxHead   = leastHead + 8 + maskBytes
)

const (
	opcodeBits  = 0x0f
	opcodeClose = 0x8
	finBit      = 0x80
	maskBit     = 0x80
	lengthBits  = 0x7f
	length16    = 126
	length64    = 127
)

// Frames follows the bytes of one direction from frame to frame. The zero value
// stands before the first. Whatever comes counts as frames, also from who speaks
// something else: it is the other end that objects.
type Frames struct {
	head   [maxHead]byte
	got    int   // bytes of head
	left   int64 // bytes of the payload still to come
	ending bool  // the frame is a Close
	closed bool
	lost   bool
}

// Follow takes the next bytes.
func (f *Frames) Follow(p []byte) {
	for len(p) > 0 {
		p = p[f.Next(p):]
	}
}

// Next takes the next bytes up to the end of a frame and returns how many of p
// these were; at least one.
func (f *Frames) Next(p []byte) int {
	if f.lost {
		return len(p)
	}
	used := 0
	for f.left == 0 && used < len(p) {
		f.head[f.got] = p[used]
		f.got++
		used++
		if f.got < f.headBytes() {
			continue
		}
		f.begin()
		if f.lost {
			return len(p)
		}
		if f.left == 0 {
			f.end()
			return used
		}
	}
	n := int(min(f.left, int64(len(p)-used)))
	f.Skip(int64(n))
	return used + n
}

// Skip takes n bytes of a payload, which somebody else has moved; no more than Left.
func (f *Frames) Skip(n int64) {
	if n == 0 {
		return
	}
	f.left -= n
	if f.left == 0 {
		f.end()
	}
}

// Left is how much of the present frame's payload is still to come.
func (f *Frames) Left() int64 { return f.left }

// Between says whether another frame could be put in here.
func (f *Frames) Between() bool { return f.got == 0 && !f.lost }

// Closed says whether a whole Close frame has passed, after which this direction
// has nothing more to say.
func (f *Frames) Closed() bool { return f.closed }

// headBytes is how long the head is, as far as is known.
func (f *Frames) headBytes() int {
	if f.got < leastHead {
		return leastHead
	}
	n := leastHead
	switch f.head[1] & lengthBits {
	case length16:
		n += 2
	case length64:
		n += 8
	}
	if f.head[1]&maskBit != 0 {
		n += maskBytes
	}
	return n
}

// begin reads a whole head.
func (f *Frames) begin() {
	length := uint64(f.head[1] & lengthBits)
	switch length {
	case length16:
		length = uint64(binary.BigEndian.Uint16(f.head[leastHead:]))
	case length64:
		length = binary.BigEndian.Uint64(f.head[leastHead:])
	}
	f.ending = f.head[0]&opcodeBits == opcodeClose
	f.left = int64(length)
	f.lost = f.left < 0
}

func (f *Frames) end() {
	f.closed = f.closed || f.ending
	f.got, f.ending = 0, false
}

// goingAway is the status code of who ends, and means no harm (RFC 6455 7.4.1).
const goingAway = 1001

// maxControl is the longest payload of a control frame.
const maxControl = 125

// GoingAway is a server's Close frame of status 1001, with a reason that is cut
// where a frame has no room for it.
func GoingAway(reason string) []byte {
	reason = reason[:min(len(reason), maxControl-2)]
	frame := []byte{finBit | opcodeClose, byte(2 + len(reason))}
	frame = binary.BigEndian.AppendUint16(frame, goingAway)
	return append(frame, reason...)
}
