package balancer

import (
	"errors"
	"io"

	"stoker/balancer/continuation"
	"stoker/exchange"
)

// heldBody is a request's body, read whole where that is possible, and the reader
// of it for who is sent it once.
type heldBody struct {
	from   io.Reader
	length int64
	budget *continuation.Budget
	taken  int64
	data   []byte
	at     int
	whole  bool
}

// fill reads up to the body's end, if that comes before most bytes and there is
// memory for it.
func (h *heldBody) fill(x *exchange.Exchange, most int64) (whole bool, err error) {
	if x.Length > most {
		return false, nil
	}
	for !h.whole {
		if len(h.data) == cap(h.data) {
			size := max(2*int64(cap(h.data)), usualBody)
			if x.Length > size {
				size = min(x.Length, 2*size)
			} else if x.Length >= 0 {
				size = x.Length
			}
			if size > most || !h.budget.Take(size-int64(cap(h.data))) {
				return false, nil
			}
			h.taken += size - int64(cap(h.data))
			h.data = append(make([]byte, 0, size), h.data...)
		}
		room := h.data[len(h.data):cap(h.data)]
		if x.Length >= 0 {
			room = room[:min(int64(len(room)), x.Length-int64(len(h.data)))]
		}
		n, err := x.Body.Read(room)
		h.data = h.data[:len(h.data)+n]
		switch {
		case errors.Is(err, io.EOF) && x.Length < 0, int64(len(h.data)) == x.Length:
			h.whole = true
		case errors.Is(err, io.EOF):
			return false, io.ErrUnexpectedEOF
		case err != nil:
			return false, err
		}
	}
	return true, nil
}

// Read implements io.Reader.
func (h *heldBody) Read(p []byte) (int, error) {
	n := copy(p, h.data[h.at:])
	h.at += n
	switch {
	case n > 0:
		return n, nil
	case h.whole:
		return 0, io.EOF
	}
	return h.from.Read(p)
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (h *heldBody) Interrupt() { interrupt(h.from) }

func (h *heldBody) release() {
	h.budget.Give(h.taken)
	h.taken = 0
}
