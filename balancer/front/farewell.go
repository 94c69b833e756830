package front

import (
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// farewell tells an HTTP/2 client to begin no more streams, before net/http says
// which one was the last (RFC 9113 6.8): its GOAWAY names the last one that it
// has seen, and drops without a word what was on its way just then. So ours goes
// out first, which names the last that there could ever be, and net/http's when
// what was on its way has come.
//
// Ours has to go between two frames of net/http's, which are therefore followed
// as they are written.
type farewell struct {
	// on: this is HTTP/2, also when it has gone and net/http still writes.
	on atomic.Bool
	mu sync.Mutex // held while writing

	head   [frameHead]byte // of the frame being written
	got    int             // of head
	left   int             // of the frame's rest
	begun  bool            // SETTINGS, which must come first, are out
	inside bool            // the next frame must continue this one's fields
	wanted bool
	said   bool // by either
	// told is told of each frame.
	told func(http2.FrameType)
}

const frameHead = 9 // bytes of length, type, flags and stream

// goAway is GOAWAY with the highest stream there can be, and no error.
var goAway = []byte{0, 0, 8, byte(http2.FrameGoAway), 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0}

// Write is net/http's, and the session's for what it refuses.
func (c *conn) Write(p []byte) (int, error) {
	if !c.farewell.on.Load() {
		return c.wire.Write(p)
	}
	w := &c.farewell
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := c.wire.Write(p)
	w.follow(p[:n])
	if err != nil {
		return n, err
	}
	return n, c.sayGoAway()
}

// sayGoAway writes ours if it is time. The lock is held.
func (c *conn) sayGoAway() error {
	if !c.farewell.due() {
		return nil
	}
	c.farewell.said = true
	_, err := c.wire.Write(goAway)
	return err
}

// due says whether ours may and should go out now.
func (w *farewell) due() bool { return w.wanted && !w.said && w.between() }

// between says whether a frame of our own may be written now.
func (w *farewell) between() bool { return w.begun && !w.inside && w.got == 0 && w.left == 0 }

// follow notes what of which frame was written.
func (w *farewell) follow(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(w.left, len(p))
			w.left -= n
			p = p[n:]
			continue
		}
		n := copy(w.head[w.got:], p)
		w.got += n
		p = p[n:]
		if w.got < frameHead {
			return
		}
		w.got = 0
		w.frame()
	}
}

// frame takes a whole frame head.
func (w *farewell) frame() {
	h := &w.head
	w.left = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	w.begun = true
	kind := http2.FrameType(h[3])
	if kind == http2.FrameHeaders || kind == http2.FrameContinuation || kind == http2.FramePushPromise {
		w.inside = !http2.Flags(h[4]).Has(http2.FlagHeadersEndHeaders)
	}
	w.said = w.said || kind == http2.FrameGoAway
	if w.told != nil {
		w.told(kind)
	}
}

// sayFarewell tells the client of an HTTP/2 connection, now or when what is
// being written to it has been.
func (c *conn) sayFarewell() {
	c.farewell.mu.Lock()
	defer c.farewell.mu.Unlock()
	c.farewell.wanted = true
	_ = c.sayGoAway() // who cannot be written to will see the end
}

// sayFarewells tells the clients of all HTTP/2 connections. One that is just
// writing to a client that does not read keeps nobody else waiting.
func (f *Front) sayFarewells() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.is(streams) {
			f.goroutine.Go(c.sayFarewell)
		}
	}
}
