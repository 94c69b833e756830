package balancer

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"stoker/exchange"
	"stoker/internal/jsonfield"
	"stoker/upstream"
)

// ahead is a request's body, read before its way is known, and the reader of it
// for whom it is sent on to. The memory is given back as soon as all of it was
// sent, not at the answer's end: streams take minutes, and prompts are large.
type ahead struct {
	asked bool
	value jsonfield.Value // the model's
	err   error

	// total is what all hold together, taken this one's part of it, in bytes.
	total *atomic.Int64
	taken int64

	buf *[]byte // nil: nothing was read, or it has all been sent
	// What is still to be sent: before, in place of, and after what was replaced.
	parts [3][]byte
	// What the exchange had.
	body   io.Reader
	length int64
	held   bool
	// rest of the body that was not read, since it was too large; nil: all was.
	rest io.Reader
}

const (
	// usualBody is the first room for a body, usualAhead the largest that is kept
	// for another.
	usualBody  = 4 << 10
	usualAhead = 64 << 10
)

var aheadBuffers = sync.Pool{New: func() any {
	buf := make([]byte, 0, usualBody)
	return &buf
}}

// readAhead reads the whole body and puts what was read in its place. A body
// whose end says that it is whole gets a length, if it had none, so that it can
// be sent again where nothing of it was.
func (a *attempt) readAhead() error {
	x := a.x
	now := a.table
	most := now.anyBody() // where the route is not known yet; the read may tell it
	if a.route != nil {
		most = now.bodyOf(a.route)
	}
	if err := a.limit(x, most); err != nil {
		return err
	}
	if x.Length > now.maxAhead {
		return errAheadTooLarge
	}
	h := &a.ahead
	h.body, h.length, h.held = x.Body, x.Length, true
	h.buf = aheadBuffers.Get().(*[]byte)
	if err := h.fill(x, now); err != nil {
		return err
	}
	if x.Length < 0 && (x.Trailers == nil || len(x.Trailers()) == 0) {
		x.Length, x.Trailers = int64(len(*h.buf)), nil
	}
	h.parts[0] = *h.buf
	x.Body = h
	if x.Length == 0 {
		x.Body = nil
	}
	return nil
}

// fill reads up to the body's end.
func (h *ahead) fill(x *exchange.Exchange, now *table) error {
	data := *h.buf
	defer func() { *h.buf = data }()
	h.take(int64(cap(data)))
	for x.Length < 0 || int64(len(data)) < x.Length {
		if len(data) == cap(data) {
			before := cap(data)
			data = grow(data, x.Length)
			if h.take(int64(cap(data)-before)) > now.aheadMemory {
				return errAheadFull
			}
		}
		room := data[len(data):cap(data)]
		if x.Length >= 0 {
			room = room[:min(int64(len(room)), x.Length-int64(len(data)))]
		}
		n, err := x.Body.Read(room)
		data = data[:len(data)+n]
		switch {
		case int64(len(data)) > now.maxAhead:
			return errAheadTooLarge
		case err == nil:
		case errors.Is(err, io.EOF) && x.Length < 0, int64(len(data)) == x.Length:
			return nil
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
			fallthrough
		default:
			return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
		}
	}
	return nil
}

// take adds to what is held, and returns how much all hold together.
func (h *ahead) take(n int64) int64 {
	h.taken += n
	return h.total.Add(n)
}

// grow makes room for as much as has come already, four times of it where that
// much is announced: what a client merely says that it will send costs nothing.
func grow(data []byte, length int64) []byte {
	size := int64(cap(data)) * 2
	if length > size {
		size = min(length, size*2)
	}
	return append(make([]byte, 0, size), data...)
}

// data is the body as it came.
func (h *ahead) data() []byte { return *h.buf }

// replace puts other bytes in the place of some.
func (h *ahead) replace(start, end int, by []byte) {
	data := *h.buf
	h.parts = [3][]byte{data[:start], by, data[end:]}
}

// size is how long the body is as it is sent.
func (h *ahead) size() int64 {
	n := 0
	for i := range h.parts {
		n += len(h.parts[i])
	}
	return int64(n)
}

// Read implements io.Reader.
func (h *ahead) Read(p []byte) (int, error) {
	n, left := 0, false
	for i := range h.parts {
		moved := copy(p[n:], h.parts[i])
		h.parts[i] = h.parts[i][moved:]
		n += moved
		left = left || len(h.parts[i]) > 0
	}
	if left {
		return n, nil
	}
	h.release()
	switch {
	case h.rest == nil:
		return n, io.EOF
	case n > 0:
		return n, nil
	}
	return h.rest.Read(p)
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (h *ahead) Interrupt() { interrupt(h.rest) }

// release gives the memory back.
func (h *ahead) release() {
	if h.buf == nil {
		return
	}
	if cap(*h.buf) <= usualAhead {
		*h.buf = (*h.buf)[:0]
		aheadBuffers.Put(h.buf)
	}
	h.buf, h.parts = nil, [3][]byte{}
	h.total.Add(-h.taken)
	h.taken = 0
}

// end leaves the exchange as it was.
func (h *ahead) end(x *exchange.Exchange) {
	if h.held {
		x.Body, x.Length = h.body, h.length
	}
	h.release()
}
