package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

const (
	// smallBody is the largest request body that is read whole before a
	// connection is taken and then written together with its head. It can be
	// sent again, and no upstream waits for a slow client.
	smallBody = 64 << 10
	// spliceFrom is how much of a body must be left for moving it inside the
	// kernel to be worth the pipe.
	spliceFrom = 64 << 10
)

var (
	errSwitch = http1.SyntaxError("101 (Switching Protocols) that nobody asked for")
	errEnded  = io.ErrUnexpectedEOF
)

// call is one run of Do.
type call struct {
	ctx  context.Context
	t    *Transport
	x    *exchange.Exchange
	sink exchange.Sink

	request *requestBuffer // nil once the answer has begun
	link    *link
	disarm  func() bool // takes the context's end off the link
	upload  *upload     // nil without a large body

	in      input
	head    http1.ResponseHead
	chunked http1.Chunked

	sent     bool  // see Failure
	begun    bool  // see Failure
	heard    bool  // a byte came over link
	writeErr error // of the request
	dirty    bool  // the sink may hold something back
	sinkErr  error // of a flush
	flush    func() error
}

var calls = sync.Pool{New: func() any {
	c := new(call)
	c.flush = c.flushSink
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
	*c = call{flush: c.flush, chunked: c.chunked, head: http1.ResponseHead{Response: http1.Response{Fields: c.head.Fields[:0]}}}
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
		l, err := c.t.link(c.ctx)
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
	}
	f := &Failure{Op: op, Sent: c.sent, Begun: c.begun, Err: err}
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
	c.link, c.heard, c.writeErr = l, false, nil
	if c.ctx.Done() != nil {
		c.disarm = context.AfterFunc(c.ctx, l.abort)
	}
	failure := c.talk()
	if c.link != nil {
		c.settle(false)
	}
	if c.upload == nil {
		return failure
	}
	c.upload.stop(c.x.Body)
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
	if c.disarm != nil {
		reuse = c.disarm() && reuse
		c.disarm = nil
	}
	if reuse {
		c.t.idle.put(l)
		return
	}
	_ = l.conn.Close()
}

// talk is the exchange proper.
func (c *call) talk() *Failure {
	if failure := c.send(); failure != nil {
		return failure
	}
	if failure := c.receiveHead(); failure != nil {
		return failure
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

// send writes the head and a small body, or starts the upload of a large one.
// An error is not the end: an upstream may answer, and close, before it has
// read everything.
func (c *call) send() *Failure {
	n, err := c.link.conn.Write(c.request.p)
	c.sent = c.sent || n > 0
	if err != nil {
		c.writeErr = err
		if n == 0 && c.link.reused {
			return c.fail(OpStale, err)
		}
		return nil
	}
	if c.x.Length < 0 || c.x.Length > smallBody {
		c.upload = startUpload(c.x, c.link.conn, c.t.options.ResponseTimeout)
		return nil
	}
	c.expectHead()
	return nil
}

// expectHead starts the clock for the answer. With an upload, that does so at its end.
func (c *call) expectHead() {
	if limit := c.t.options.ResponseTimeout; limit > 0 {
		_ = c.link.conn.SetReadDeadline(time.Now().Add(limit)) // fails on a closed connection only, as the read will
	}
}

// headCame stops it.
func (c *call) headCame() {
	switch {
	case c.t.options.ResponseTimeout == 0:
	case c.upload != nil:
		c.upload.headCame()
	default:
		_ = c.link.conn.SetReadDeadline(time.Time{})
	}
}

// receiveHead reads up to the final head, passing on interim ones.
func (c *call) receiveHead() *Failure {
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
		if c.head.Status == 101 {
			return c.fail(OpMalformed, errSwitch)
		}
		if err := c.sink.Interim(c.head.Status, c.head.Fields); err != nil {
			return c.fail(OpClientWrite, err)
		}
		seen = 0
	}
}

// readHead reads more of a head, once.
func (c *call) readHead() *Failure {
	n, err := c.link.conn.Read(c.in.room())
	if n > 0 {
		c.in.end += n
		c.heard = true
		return nil
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.fail(OpTimeout, err)
	case c.link.reused && !c.heard && closedByPeer(err):
		return c.fail(OpStale, noEOF(err))
	case c.writeErr != nil:
		return c.fail(OpWrite, c.writeErr)
	default:
		return c.fail(OpRead, noEOF(err))
	}
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

// relayHead begins the answer.
func (c *call) relayHead() *Failure {
	c.request.free() // from here on no second attempt is possible
	c.request = nil
	length := c.head.Length
	if c.head.Status == 204 {
		length = 0
	}
	c.begun, c.dirty = true, true
	if err := c.sink.Head(&c.head.Response, length); err != nil {
		return c.fail(OpClientWrite, err)
	}
	return nil
}

func (c *call) relayBody() *Failure {
	switch c.head.Framing {
	case http1.Sized:
		return c.relaySized(c.head.Length)
	case http1.Chunks:
		return c.relayChunks()
	case http1.UntilClose:
		return c.relayUntilClose()
	case http1.NoBody:
	}
	return nil
}

// relaySized relays a body of n bytes.
func (c *call) relaySized(n int64) *Failure {
	for {
		data := c.in.unread()
		data = data[:min(int64(len(data)), n)]
		if failure := c.write(data); failure != nil {
			return failure
		}
		c.in.start += len(data)
		n -= int64(len(data))
		if n == 0 {
			return nil
		}
		if n >= spliceFrom {
			moved, failure := c.splice(n)
			if failure == nil && moved < n {
				failure = c.fail(OpRead, errEnded)
			}
			return failure
		}
		if err := c.read(); err != nil {
			return c.failRead(err)
		}
	}
}

// relayChunks relays a chunked body, and keeps its trailers.
func (c *call) relayChunks() *Failure {
	for {
		body, used, err := c.chunked.Decode(c.in.unread())
		c.in.start += used
		if failure := c.write(body); failure != nil {
			return failure
		}
		if err != nil {
			return c.fail(OpMalformed, err)
		}
		if c.chunked.Done() {
			return nil
		}
		if err := c.read(); err != nil {
			return c.failRead(err)
		}
	}
}

// relayUntilClose relays a body that ends with the connection: inside the
// kernel once it has proved to be bulky, since a stream of events may come
// this way too.
func (c *call) relayUntilClose() *Failure {
	for {
		if failure := c.write(c.in.unread()); failure != nil {
			return failure
		}
		c.in.start = c.in.end
		if c.in.full {
			_, failure := c.splice(math.MaxInt64)
			return failure
		}
		err := c.read()
		if errors.Is(err, io.EOF) && !c.aborted() {
			return nil
		}
		if err != nil {
			return c.failRead(err)
		}
	}
}

// aborted says whether it was us who cut the connection, for the context's end
// or the client's broken body. That reads as EOF, and an answer that only EOF
// ends would look whole.
func (c *call) aborted() bool {
	return c.ctx.Err() != nil || c.upload != nil && c.upload.aborted.Load()
}

// read reads more of the body, once. All that was read before has been relayed.
func (c *call) read() error {
	room := c.in.bodyRoom()
	n, err := c.link.conn.ReadIdle(room, c.flush)
	c.in.buf, c.in.start, c.in.end = room, 0, n
	c.in.full = n == len(room)
	return err
}

func (c *call) failRead(err error) *Failure {
	if c.sinkErr != nil {
		return c.fail(OpClientWrite, c.sinkErr)
	}
	return c.fail(OpRead, noEOF(err))
}

func (c *call) write(p []byte) *Failure {
	if len(p) == 0 {
		return nil
	}
	c.dirty = true
	if _, err := c.sink.Write(p); err != nil {
		return c.fail(OpClientWrite, err)
	}
	return nil
}

// flushSink runs when the upstream has nothing more to say right now.
func (c *call) flushSink() error {
	if !c.dirty {
		return nil
	}
	c.dirty = false
	c.sinkErr = c.sink.Flush()
	return c.sinkErr
}

// splice moves up to n bytes of the body, fewer when the upstream ends.
func (c *call) splice(n int64) (int64, *Failure) {
	if err := c.flushSink(); err != nil {
		return 0, c.fail(OpClientWrite, err)
	}
	moved, err := c.sink.Splice(c.link.conn, n)
	if err == nil && moved < n && c.aborted() {
		return moved, c.fail(OpRead, errEnded)
	}
	var source *rawconn.SourceError
	switch {
	case errors.As(err, &source):
		return moved, c.fail(OpRead, source.Err)
	case err != nil:
		return moved, c.fail(OpClientWrite, err)
	}
	return moved, nil
}
