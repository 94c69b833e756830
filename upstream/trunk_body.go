package upstream

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// streamBody is a request's body as net/http's client reads it, in a goroutine
// of its own, which may outlive the exchange: after stop it touches nobody's
// body any more. What is small is kept, so that it can be sent again.
type streamBody struct {
	from io.Reader
	// whole is called when the body has been read to its end.
	whole func()

	stopping atomic.Bool
	ended    atomic.Bool // the end was read

	mu   sync.Mutex // held while reading
	over bool
	kept []byte
	lost bool // kept is not all that was read
	// err is why the client's body could not be read; nil: it could.
	err error
}

// Read implements io.Reader.
func (b *streamBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over || b.stopping.Load():
		return 0, errAnswered
	case b.ended.Load():
		return 0, io.EOF
	}
	n, err := b.from.Read(p)
	b.keep(p[:n])
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
		b.whole()
		err = io.EOF
	case !b.stopping.Load():
		b.err = err
	}
	return n, err //nolint:wrapcheck // it is the client's
}

func (b *streamBody) keep(p []byte) {
	if b.lost || len(b.kept)+len(p) > smallBody {
		b.kept, b.lost = nil, true
		return
	}
	b.kept = append(b.kept, p...)
}

// Close is called by net/http's client when the rest is of no use. It must not wait.
func (b *streamBody) Close() error {
	if !b.stopping.Swap(true) && !b.ended.Load() {
		if i, ok := b.from.(Interrupter); ok {
			i.Interrupt()
		}
	}
	return nil
}

// stop waits until nobody reads the client's body any more, nor will.
func (b *streamBody) stop() {
	_ = b.Close() // it has nothing to report
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
}

// broken is why the client's body could not be read. To be called after stop.
func (b *streamBody) broken() error { return b.err }

// again is the whole body, if it was read whole and kept. To be called after stop.
func (b *streamBody) again() ([]byte, bool) { return b.kept, b.ended.Load() && !b.lost }
