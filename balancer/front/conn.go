package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"stoker/internal/rawconn"
)

const (
	// lingerTime and lingerBytes bound how much of an unwanted request body is
	// read after the answer, see conn.Close.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 8 << 20
)

// phase of a connection; the package comment has the table.
type phase int32

const (
	idle phase = iota
	reading
	serving
	streams
	gone
)

// conn is a client's connection as net/http sees it. net/http's own states do
// not do: they count a half-received head as idle.
type conn struct {
	*rawconn.Conn
	front  *Front
	client netip.AddrPort

	// replay is what the HTTP/1 server had read of an HTTP/2 connection.
	replay []byte
	// phase changes under front.mu.
	phase atomic.Int32
	// ahead: a byte of the next request came while one was being served.
	ahead atomic.Bool
	// hungUp: the client has closed its side.
	hungUp atomic.Bool
	// watched: hungUp will be told. Used by the serving goroutine alone.
	watched bool
	// spoiled: a request's body was not read to its end, so what comes next on
	// this connection is no request.
	spoiled atomic.Bool

	// Guarded by front.mu.
	since time.Time // idle since
	open  bool      // streams: some are open
	now   *request  // HTTP/1: being served
}

func newConn(f *Front, nc net.Conn) (*conn, error) {
	raw, err := rawconn.Wrap(nc)
	if err != nil {
		return nil, fmt.Errorf("accept from %s: %w", nc.LocalAddr(), err)
	}
	c := &conn{Conn: raw, front: f}
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		at := tcp.AddrPort()
		c.client = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return c, nil
}

func (c *conn) is(p phase) bool { return phase(c.phase.Load()) == p }

// Read notices the first byte of a request.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.replay) > 0 {
		n := copy(p, c.replay)
		c.replay = c.replay[n:]
		return n, nil
	}
	if c.spoiled.Load() && !c.is(serving) {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	if n > 0 && !c.received(len(p)) {
		return 0, io.EOF
	}
	return n, asRead(err)
}

// received notes that bytes came into a buffer of the given size. It is false
// when CloseIdle has decided a moment ago that the connection ends.
func (c *conn) received(size int) bool {
	switch phase(c.phase.Load()) {
	case idle:
		return c.front.move(c, reading)
	case serving:
		// Between a body's end and the answer's, net/http watches the
		// connection by reads of one byte; all its other buffers are larger.
		if size == 1 {
			c.ahead.Store(true)
		}
	case gone:
		return false
	case reading, streams:
	}
	return true
}

// asRead gives a failed read the form by which net/http knows a client that
// went away; to any other it answers "400 Bad Request".
func asRead(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return &net.OpError{Op: "read", Net: "client", Err: err}
}

// Write refuses what net/http would say after the answer to a spoiled request:
// it may take the rest of a body for a bad request and answer that too.
func (c *conn) Write(p []byte) (int, error) {
	if c.spoiled.Load() && !c.is(serving) {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

// Close ends the connection. Where the client may still be sending a body that
// nobody wanted, it reads on for a moment: the kernel answers bytes on a closed
// socket with a reset, which also wipes out what the client has not read of the
// answer.
func (c *conn) Close() error {
	if c.spoiled.Swap(false) && !c.front.closed.Load() && !c.is(gone) {
		c.linger()
	}
	return c.Conn.Close()
}

func (c *conn) linger() {
	if c.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = rawconn.Copy(io.Discard, c.Conn, lingerBytes) // however it ends, the connection is closed next
}

// move puts c into another phase and says whether that could be: from gone
// there is no way back.
func (f *Front) move(c *conn, to phase) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moveLocked(c, to)
}

func (f *Front) moveLocked(c *conn, to phase) bool {
	if c.is(gone) {
		return false
	}
	was := c.busy()
	c.phase.Store(int32(to))
	if to == idle {
		c.since = time.Now()
	}
	f.recount(was, c.busy())
	return true
}

// busy says whether c may not be closed. front.mu is held.
func (c *conn) busy() bool {
	switch phase(c.phase.Load()) {
	case reading, serving:
		return true
	case streams:
		return c.open
	case idle, gone:
	}
	return false
}

// recount keeps f.busy, and wakes who waits for a change. f.mu is held.
func (f *Front) recount(was, is bool) {
	switch {
	case is && !was:
		f.busy++
	case was && !is:
		f.busy--
	}
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// whenChanged returns a channel that is closed at the next change. f.mu is held.
func (f *Front) whenChanged() <-chan struct{} {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// connState is net/http's hook, called by the goroutine that serves nc, or by
// the one that accepted it.
func connState(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	f := c.front
	f.mu.Lock()
	defer f.mu.Unlock()
	switch state {
	case http.StateNew:
		f.welcome(c)
	case http.StateActive:
		f.openStreams(c, true)
	case http.StateIdle:
		if c.is(streams) {
			f.openStreams(c, false)
			return
		}
		f.answered(c)
	case http.StateHijacked:
		f.moveLocked(c, streams)
	case http.StateClosed:
		f.moveLocked(c, gone)
		delete(f.conns, c)
		f.hangups.forget(c)
		f.recount(false, false) // gone it may have been before
	}
}

// welcome registers a new connection; an HTTP/2 one is new only to its second
// server. f.mu is held.
func (f *Front) welcome(c *conn) {
	if c.is(streams) {
		return
	}
	f.conns[c] = struct{}{}
	f.moveLocked(c, idle)
	if f.closed.Load() {
		_ = c.Conn.Close() // accepted while Close ran, which has not seen it
	}
}

// openStreams notes whether an HTTP/2 connection has any. f.mu is held.
func (f *Front) openStreams(c *conn, open bool) {
	if !c.is(streams) {
		return
	}
	was := c.busy()
	c.open = open
	f.recount(was, open)
}

// answered is called when an answer is on the wire and its connection stays.
// f.mu is held.
func (f *Front) answered(c *conn) {
	if c.ahead.Swap(false) {
		f.moveLocked(c, reading)
		return
	}
	f.moveLocked(c, idle)
}
