package front

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"stoker/internal/rawconn"
)

const (
	// lingerTime is for how long what a client still sends is read after the last
	// answer, see conn.linger; who sends less than lingerLeast in each of lingerQuiet
	// slices in a row has ended.
	lingerTime  = 30 * time.Second
	lingerSlice = 500 * time.Millisecond
	lingerQuiet = 4
	lingerLeast = 4 << 10
	// lingerBytes are read before it is looked at the clock.
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

// conn is a client's connection: a session's, or, once it has turned out to be
// HTTP/2, net/http's.
type conn struct {
	wire
	front  *Front
	client netip.AddrPort
	// clientText is client's address as text, made by the first request.
	clientText string

	// replay is what a session had read of an HTTP/2 connection.
	replay []byte
	// phase changes under front.mu.
	phase atomic.Int32
	// heard: bytes came while it was idle, and will make it busy in a moment.
	heard atomic.Bool
	// hurried: the deadlines are set for good, see hurry.
	hurried atomic.Bool
	// by says which versions of HTTP may be spoken. Used by the session alone.
	by version
	// refused: it is one too many, and will be told this.
	refused error
	// announced: it begins with who the client is.
	announced bool

	// readDeadline is as last set by who reads.
	readDeadline time.Time
	pace         pace
	farewell     farewell
	flood        floodWatch
	// peer is what it is counted by; not valid: it is not.
	peer netip.Addr

	// Guarded by front.mu.
	hungUp bool // the client has closed its side
	lost   bool // and does not read any more either
	// watched: hungUp will be told. late: it is in front.late. used: it has had a request.
	watched, late, used bool
	hangupID            uint64    // with hangups; 0: none
	since               time.Time // idle since
	open                bool      // streams: some are open
	// handing: on its way to the HTTP/2 server.
	handing bool
	now     *flight // HTTP/1.1: being served
	tunnel  bool    // now has taken it over for good
}

// newConn makes a connection of nc.
func newConn(f *Front, nc net.Conn, m Manner) (*conn, error) {
	raw, err := rawconn.Wrap(nc)
	if err != nil {
		return nil, fmt.Errorf("accept from %s: %w", nc.LocalAddr(), err)
	}
	c := &conn{wire: wire{raw: raw}, front: f}
	if m.TLS != nil {
		c.secure(m.TLS)
	}
	if at := raw.Peer(); at.IsValid() {
		c.client = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	c.pace.conn = c
	raw.SetPacer(&c.pace)
	return c, nil
}

// address is the client's as text; "" where it has none.
func (c *conn) address() string {
	if c.clientText == "" && c.client.IsValid() {
		c.clientText = c.client.Addr().String()
	}
	return c.clientText
}

func (c *conn) is(p phase) bool { return phase(c.phase.Load()) == p }

// Read gives net/http what has been read before, first, and stops it where the
// client asks for too much.
func (c *conn) Read(p []byte) (int, error) {
	if c.flood.told.Load() { // what has come by now is still there to be read, however the socket was shut
		return 0, errFlood
	}
	var n int
	var err error
	if len(c.replay) > 0 {
		n = copy(p, c.replay)
		c.replay = c.replay[n:]
	} else {
		n, err = c.wire.Read(p)
	}
	if n > 0 && c.farewell.on.Load() && !c.flood.follow(p[:n]) {
		c.calm()
		return 0, errFlood
	}
	return n, err
}

// readUntil bounds reads by t, or up to slack earlier: moving a timer for each
// request costs more than the precision is worth.
func (c *conn) readUntil(t time.Time, slack time.Duration) {
	if early := t.Sub(c.readDeadline); early >= 0 && early <= slack {
		return
	}
	c.readDeadline = t
	_ = c.SetReadDeadline(t) // fails on a closed connection only, as the read will
}

// awaitNext bounds the wait for a request.
func (c *conn) awaitNext() {
	limit := c.front.limits.Load().Idle
	c.readUntil(c.since.Add(limit), limit/16)
}

// resetOnClose lets Close reset the connection. A unix socket knows no reset;
// there is no other way to tell.
func (c *conn) resetOnClose() {
	_ = c.control(func(fd int) {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// linger lets the client have the whole answer when it may still be sending:
// the kernel answers bytes on a closed socket with a reset, which also wipes
// out what the client has not read yet, and many a client reads nothing before it
// has sent all. So it says that nothing more will come, and reads on while the
// client sends, before the connection is closed. Nobody waits for who sends as
// good as nothing, nor much for a connection that is one too many, nor in a drain.
func (c *conn) linger() {
	if c.CloseWrite() != nil {
		return
	}
	quiet := 0
	for until := time.Now().Add(lingerTime); time.Now().Before(until); {
		if c.SetReadDeadline(time.Now().Add(lingerSlice)) != nil {
			return
		}
		n, err := c.discard(lingerBytes)
		switch {
		case n == lingerBytes:
			quiet = 0
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return // it has ended, too
		case n >= lingerLeast:
			quiet = 0
		default:
			quiet++
		}
		if quiet == lingerQuiet || c.refused != nil || c.front.draining.Load() {
			return
		}
	}
}

// move puts c into another phase and says whether that could be: from gone
// there is no way back.
func (f *Front) move(c *conn, to phase) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moveLocked(c, to)
}

// rest is move to idle at a moment that is known already: a look at the clock
// is not free for a small request.
func (f *Front) rest(c *conn, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.is(gone) {
		return false
	}
	f.restLocked(c, at)
	return true
}

// restLocked makes c, which is not gone, idle since then.
func (f *Front) restLocked(c *conn, since time.Time) {
	was := c.busy()
	c.phase.Store(int32(idle))
	c.heard.Store(false)
	c.since = since
	f.recount(was, c.busy())
}

func (f *Front) moveLocked(c *conn, to phase) bool {
	if c.is(gone) {
		return false
	}
	if to == idle {
		f.restLocked(c, time.Now())
		return true
	}
	was := c.busy()
	c.phase.Store(int32(to))
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

// welcome registers a new connection, unless the front is closed. One that is
// too many is marked so; when there are too many of those, it is not registered.
func (f *Front) welcome(c *conn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed.Load() {
		return net.ErrClosed
	}
	c.refused = f.tooMany(c)
	if c.refused != nil && f.refused >= maxRefused {
		return c.refused
	}
	f.conns[c] = struct{}{}
	f.count(c, 1)
	f.moveLocked(c, idle)
	return nil
}

// tooMany says whether c is a connection too many, and of whom. f.mu is held.
func (f *Front) tooMany(c *conn) error {
	if !c.client.IsValid() {
		return nil // a unix socket's peer: the host's own
	}
	if limit := f.limits.Load().Conns; limit > 0 && len(f.conns)-f.refused >= limit {
		return errTooMany
	}
	if c.announced {
		return nil // whose it is will be known when it is introduced
	}
	return f.tooManyOfOne(c)
}

// tooManyOfOne says whether c's client, by whom it is counted from now on, has
// one too many. f.mu is held.
func (f *Front) tooManyOfOne(c *conn) error {
	limits := f.limits.Load()
	c.peer = limits.peerOf(c.client.Addr())
	if c.peer.IsValid() && limits.ConnsPerAddress > 0 && f.peers[c.peer] >= limits.ConnsPerAddress {
		return errTooManyOfOne
	}
	return nil
}

// count adds one connection, or takes it away. f.mu is held.
func (f *Front) count(c *conn, n int) {
	switch {
	case c.refused != nil:
		f.refused += n
	case !c.peer.IsValid():
	case f.peers[c.peer]+n == 0:
		delete(f.peers, c.peer)
	default:
		f.peers[c.peer] += n
	}
}

// bye forgets a connection that was closed.
func (f *Front) bye(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moveLocked(c, gone)
	if _, known := f.conns[c]; known {
		delete(f.conns, c)
		f.count(c, -1)
	}
	f.endHandover(c)
	f.hangups.Forget(c.hangupID)
	f.recount(false, false) // gone it may have been before
}

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// connState is net/http's hook for HTTP/2, called by the goroutine that serves
// nc.
func connState(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	switch state {
	case http.StateActive, http.StateIdle:
		c.front.openStreams(c, state == http.StateActive)
	case http.StateClosed:
		c.front.bye(c)
	case http.StateNew, http.StateHijacked:
	}
}

// openStreams notes whether an HTTP/2 connection has any.
func (f *Front) openStreams(c *conn, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.is(streams) {
		return
	}
	f.endHandover(c)
	was := c.busy()
	c.open = open
	f.recount(was, open)
}
