package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// smallBody is the largest request body that is read whole before a connection
// is taken and then written together with its head. It can be sent again, and
// no upstream waits for a slow client.
const smallBody = 64 << 10

// maxInterims is how many 1xx answers to one request are passed on. No standard
// says how many there may be; one that sends them for ever would hold its client
// and its place for as long.
const maxInterims = 64

var (
	errSwitch = http1.SyntaxError("101 (Switching Protocols) that nobody asked for")
	errEnded  = io.ErrUnexpectedEOF
	// errInterims: an engine that never comes to its answer.
	errInterims = http1.SyntaxError("more than 64 interim answers to one request")
)

// call is one run of Do.
type call struct {
	errand
	// What is of use to the next call, too.
	in      input
	head    http1.ResponseHead
	chunked http1.Chunked
	// What reads are given, bound once: in.bodyRoom and restNow for a body, in.room
	// and in.rest for a head.
	bodyRoom, headRoom func() []byte
	rest, restHead     func() error
	// gotChunk relays a piece of a chunked body, and says whether that is over: by
	// failure, if it is not nil.
	gotChunk func(n int) bool
}

// errand is what a call has of its exchange alone.
type errand struct {
	ctx  context.Context
	t    *Transport
	x    *exchange.Exchange
	sink exchange.Sink

	request *requestBuffer // nil once the answer has begun
	link    *link
	alarm   alarm   // of the context's end, for the link
	upload  *upload // nil without a large body

	sent bool // see Failure
	// sentBefore is sent without what was written to this link.
	sentBefore bool

	begun    bool  // see Failure
	heard    bool  // a byte came over link
	unread   bool  // see Failure
	writeErr error // of the request
	early    early
	dirty    bool     // the sink may hold something back
	sinkErr  error    // of a flush
	failure  *Failure // of a chunked body, see gotChunk
}

var calls = sync.Pool{New: func() any {
	c := new(call)
	c.bodyRoom, c.rest = c.in.bodyRoom, c.restNow
	c.headRoom, c.restHead = c.in.room, c.in.rest
	c.gotChunk = func(n int) bool { c.in.got(n); return c.chunk() }
	return c
}}

func newCall(ctx context.Context, t *Transport, x *exchange.Exchange, sink exchange.Sink) *call {
	c := calls.Get().(*call)
	c.ctx, c.t, c.x, c.sink = ctx, t, x, sink
	return c
}

// free forgets everything but what is worth keeping for another call.
func (c *call) free() {
	c.in.free()
	if c.request != nil {
		c.request.free()
	}
	c.chunked.Reset()
	clear(c.head.Fields)
	c.errand = errand{} // in place: a call made of what stays would be on the stack first
	c.head = http1.ResponseHead{Response: http1.Response{Fields: c.head.Fields[:0]}}
	calls.Put(c)
}

// run is the life of an exchange. A link that turns out to be stale before a
// byte was written to it is replaced; new ones cannot be stale, so this ends.
func (c *call) run() *Failure {
	if failure := c.compose(); failure != nil {
		return failure
	}
	for {
		if c.ctx.Err() != nil {
			return c.fail(OpCanceled, nil)
		}
		l, err := c.t.link(c.ctx, c.x)
		if err != nil {
			return c.fail(OpDial, err)
		}
		failure := c.carry(l)
		if failure == nil || failure.Op != OpStale || failure.Sent {
			return failure
		}
	}
}

// fail makes a Failure, and puts a small body back where the client may not
// have seen anything yet.
func (c *call) fail(op Op, err error) *Failure {
	if c.ctx.Err() != nil {
		op, err = OpCanceled, context.Cause(c.ctx)
	} else if cause := c.cutBy(); cause != nil && op != OpClientWrite && op != OpClientBody {
		op, err = OpCanceled, cause
	}
	f := &Failure{Op: op, Sent: c.sent, Begun: c.begun, Unread: c.unread && op != OpCanceled, Err: err}
	switch {
	case c.x.Length == 0:
		f.Replayable = true
	case !isSmall(c.x.Length):
		f.Replayable = c.upload == nil && op != OpClientBody
	case c.request != nil && len(c.request.p) == c.request.head+int(c.x.Length):
		c.x.Body = bytes.NewReader(bytes.Clone(c.request.p[c.request.head:]))
		f.Replayable = true
	}
	return f
}

// cutBy is why somebody else has aborted the link, nil if nobody has.
func (c *call) cutBy() error {
	if c.link == nil {
		return nil
	}
	if cause := c.link.cut.Load(); cause != nil {
		return *cause
	}
	return nil
}

func isSmall(length int64) bool { return length > 0 && length <= smallBody }

// compose makes what is written first: the head, and a small body.
func (c *call) compose() *Failure {
	b := requestBuffers.Get().(*requestBuffer)
	c.request = b
	var err error
	b.p, err = http1.AppendRequest(b.p[:0], &c.x.Request, c.x.Length)
	if err != nil {
		return c.fail(OpClientBody, err)
	}
	b.head = len(b.p)
	if !isSmall(c.x.Length) {
		return nil
	}
	b.p = slices.Grow(b.p, int(c.x.Length))
	n, err := io.ReadFull(c.x.Body, b.p[b.head:b.head+int(c.x.Length)])
	b.p = b.p[:b.head+n]
	if err != nil {
		return c.fail(OpClientBody, noEOF(err))
	}
	return nil
}

// carry runs the exchange over l and decides what becomes of l.
func (c *call) carry(l *link) *Failure {
	c.link, c.heard, c.unread, c.writeErr, c.early = l, false, false, nil, early{}
	c.alarm = onEnd(c.ctx, l.abort)
	failure := c.talk()
	if c.link != nil {
		c.settle(false)
	}
	if c.upload == nil {
		return failure
	}
	c.upload.stop(c.x.Body)
	if failure != nil && c.breaksUnread(failure) {
		c.unread, failure.Unread = true, true
	}
	if failure != nil && c.upload.err != nil {
		return c.blameUpload(failure)
	}
	return failure
}

// settle ends the use of the link: it goes back to the idle ones, or is closed.
// A context that ends just now must not hit the link's next exchange: if its
// function cannot be taken off any more, the link is lost.
func (c *call) settle(reuse bool) {
	l := c.link
	c.link = nil
	reuse = c.alarm.stop() && reuse
	if reuse {
		now := c.x.Record.Now()
		c.x.Record.Hold(now) // what is left takes no time, see talk
		c.t.idle.put(l, now)
		return
	}
	c.t.idle.drop(l)
}

// talk is the exchange proper.
func (c *call) talk() *Failure {
	if failure := c.send(); failure != nil {
		return failure
	}
	if failure := c.receiveHead(); failure != nil {
		return failure
	}
	if c.head.Status == http.StatusSwitchingProtocols {
		return c.dig()
	}
	if failure := c.relayHead(); failure != nil {
		return failure
	}
	if failure := c.relayBody(); failure != nil {
		return failure
	}
	reuse := !c.head.Close && c.writeErr == nil && len(c.in.unread()) == 0 && (c.upload == nil || c.upload.finished())
	c.settle(reuse) // before the client learns that it may send the next
	var trailers http1.Fields
	if c.head.Framing == http1.Chunks {
		trailers = c.chunked.Trailers
	}
	if err := c.sink.End(trailers); err != nil {
		return c.fail(OpClientWrite, err)
	}
	return nil
}

// send writes the head and a small body, or starts the upload of a large one, if
// the link is still good. An error is not the end: an upstream may answer, and close,
// before it has read everything.
func (c *call) send() *Failure {
	large := c.x.Length < 0 || c.x.Length > smallBody
	if plain := spliceable(c.link.conn); plain != nil && !large {
		return c.ask(plain)
	}
	if c.link.reused {
		if err := c.link.conn.CheckIdle(); err != nil {
			return c.stale(err)
		}
	}
	if failure := c.wrote(c.link.conn.Write(c.request.p)); failure != nil || c.writeErr != nil {
		return failure
	}
	if large {
		c.upload = startUpload(c.x, c.link.conn, c.t.options.Load().ResponseTimeout)
		return nil
	}
	c.expectHead()
	return nil
}

// ask sends a small request, and reads the beginning of the answer.
func (c *call) ask(conn *rawconn.Conn) *Failure {
	c.expectHead()
	a := conn.Ask(c.request.p, c.link.reused, c.headRoom, c.restHead)
	if a.Stale != nil {
		return c.stale(a.Stale)
	}
	failure := c.wrote(a.Written, a.WriteErr)
	if c.writeErr == nil {
		c.early = early{true, a.N, a.Err}
	}
	return failure
}

// early is what was read of an answer before anybody asked for it.
type early struct {
	set bool
	n   int
	err error
}

// stale ends the use of a link that is not good any more. Nothing was written.
func (c *call) stale(err error) *Failure {
	if closedByPeer(err) {
		c.learn()
	}
	c.sentBefore = c.sent
	return c.fail(OpStale, noEOF(err))
}

// learn notes that the upstream has closed a connection that was idle. Our own
// cutting of one looks the same: a client that hung up once made that nobody's
// connection was used again for ten seconds.
func (c *call) learn() {
	if c.ctx.Err() == nil && c.cutBy() == nil {
		c.t.idle.learn(c.link.idled)
	}
}

// wrote notes how a write of the request went.
func (c *call) wrote(n int, err error) *Failure {
	c.sentBefore, c.sent = c.sent, c.sent || n > 0
	if err == nil {
		return nil
	}
	c.writeErr = err
	if n == 0 && c.link.reused {
		return c.fail(OpStale, err)
	}
	return nil
}

// expectHead starts the clock for the answer. With an upload, that does so at its end.
func (c *call) expectHead() {
	if limit := c.t.options.Load().ResponseTimeout; limit > 0 {
		_ = c.link.conn.SetReadDeadline(time.Now().Add(limit)) // fails on a closed connection only, as the read will
	}
}

// headCame stops it.
func (c *call) headCame() {
	switch {
	case c.t.options.Load().ResponseTimeout == 0:
	case c.upload != nil:
		c.upload.headCame()
	default:
		_ = c.link.conn.SetReadDeadline(time.Time{})
	}
}

// receiveHead reads up to the final head, or that of a 101, passing on interim ones.
func (c *call) receiveHead() *Failure {
	interims := 0
	for seen := 0; ; {
		n, err := http1.ParseResponse(c.in.unread(), seen, c.x.Request.Method, &c.head)
		if err != nil {
			return c.fail(OpMalformed, err)
		}
		if n == 0 {
			seen = len(c.in.unread())
			if failure := c.readHead(); failure != nil {
				return failure
			}
			continue
		}
		c.in.start += n
		if c.head.Status >= 200 {
			c.headCame()
			return nil
		}
		if c.head.Status == http.StatusSwitchingProtocols {
			return nil // see talk
		}
		if interims++; interims > maxInterims {
			return c.fail(OpMalformed, errInterims)
		}
		if err := c.sink.Interim(c.head.Status, c.head.Fields); err != nil {
			return c.fail(OpClientWrite, err)
		}
		seen = 0
	}
}

// readHead reads more of a head, once.
func (c *call) readHead() *Failure {
	var n int
	var err error
	switch {
	case c.early.set:
		n, err, c.early = c.early.n, c.early.err, early{}
	case len(c.in.unread()) == 0:
		n, err = c.link.conn.ReadLazily(c.headRoom, c.restHead) // a long prefill holds no buffer
	default:
		n, err = c.link.conn.Read(c.in.room())
	}
	if n > 0 {
		c.in.end += n
		c.heard = true
		return nil
	}
	c.unread = !c.heard && c.isUnread(err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.fail(OpTimeout, err)
	case c.link.reused && !c.heard && closedByPeer(err):
		if c.crossed(err) { // else it may as well have died of it
			c.learn()
			c.sent = c.sentBefore
		}
		return c.fail(OpStale, noEOF(err))
	case c.writeErr != nil:
		return c.fail(OpWrite, c.writeErr)
	default:
		return c.fail(OpRead, noEOF(err))
	}
}

// isUnread says whether the upstream has ended without having read the request to
// its end. Of one in chunks no more may be left than the end of the last, unless
// the kernel over there has not even taken more than that; and what of a large one was
// sent shows when that ends, see breaksUnread.
func (c *call) isUnread(err error) bool {
	switch {
	case !closedByPeer(err):
		return false
	case c.x.Length < 0:
		u := c.upload
		return u != nil && c.t.network == "tcp" && u.over() && u.err == nil && c.link.conn.Unacknowledged() > u.tail
	case c.writeErr != nil:
		return closedByPeer(c.writeErr)
	case c.upload != nil:
		return errors.Is(err, syscall.ECONNRESET)
	}
	return c.crossed(err)
}

// breaksUnread is isUnread for a large request whose connection has broken, and of
// which not all could be sent.
func (c *call) breaksUnread(f *Failure) bool {
	broke := errors.Is(f.Err, errEnded) || closedByPeer(f.Err)
	whole := c.x.Length < 0 && c.upload.ending.Load() // all but the end of the last chunk may have been sent
	return broke && (f.Op == OpRead || f.Op == OpStale) && !c.heard && !whole && c.upload.op == OpWrite
}

// crossed says whether it is certain that nobody has read the request to its end,
// as it crossed with the upstream's closing of an idle connection. The kernel
// that closes tells: by a reset, if something had come and was not read; else by a FIN,
// which also says what had come, and if that was nothing of the request, what comes
// later is for nobody. A unix socket that ends without a reset may have been read.
func (c *call) crossed(err error) bool {
	switch {
	case c.upload != nil, c.writeErr != nil:
		return false
	case errors.Is(err, syscall.ECONNRESET):
		return true
	}
	return errors.Is(err, io.EOF) && c.t.network == "tcp" && c.link.conn.Unacknowledged() >= len(c.request.p)
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// noEOF gives the end of a stream that should have gone on its proper name.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errEnded
	}
	return err
}
