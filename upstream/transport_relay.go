package upstream

import (
	"errors"
	"io"
	"math"

	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// spliceFrom is how much of a body must be left for moving it inside the
// kernel to be worth the pipe.
const spliceFrom = 64 << 10

// relayHead begins the answer.
func (c *call) relayHead() *Failure {
	c.request.free() // from here on no second attempt is possible
	c.request = nil
	length := c.head.Length
	if c.head.Status == 204 {
		length = 0
	}
	c.begun, c.dirty = true, true
	err := c.sink.Head(&c.head.Response, length)
	c.x.Record.Hold(c.x.Record.FirstByte)
	clear(c.head.Fields) // the buffer that they view may go
	c.head.Fields, c.head.Reason = c.head.Fields[:0], ""
	if err != nil {
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
		if n >= spliceFrom && spliceable(c.link.conn) != nil {
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
	if c.chunk() {
		return c.failure
	}
	if conn := spliceable(c.link.conn); conn != nil {
		return c.relayOn(conn)
	}
	for {
		if err := c.read(); err != nil {
			return c.failRead(err)
		}
		if c.chunk() {
			return c.failure
		}
	}
}

// relayOn is the rest of relayChunks within one read.
func (c *call) relayOn(conn *rawconn.Conn) *Failure {
	if !c.link.watched {
		c.t.idle.ends.add(c.link, conn)
	}
	c.x.Record.Waits()
	if err := conn.ReadOn(c.bodyRoom, c.gotChunk, c.rest); err != nil {
		return c.failRead(err)
	}
	return c.failure
}

// chunk relays what has been read of a chunked body, and says whether that was the
// end: of the body, or by a failure.
func (c *call) chunk() (over bool) {
	body, used, err := c.chunked.Decode(c.in.unread())
	c.in.start += used
	if c.failure = c.write(body); c.failure != nil {
		return true
	}
	if err != nil {
		c.failure = c.fail(OpMalformed, err)
		return true
	}
	return c.chunked.Done()
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
		if c.in.full && spliceable(c.link.conn) != nil {
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
	return c.ctx.Err() != nil || c.cutBy() != nil || c.upload != nil && c.upload.aborted.Load()
}

// read reads more of the body, once. All that was read before has been relayed.
func (c *call) read() error {
	c.x.Record.Waits()
	n, err := c.link.conn.ReadLazily(c.bodyRoom, c.rest)
	c.in.got(n)
	return err
}

// restNow runs when the upstream has nothing more to say right now: what it has
// said is flushed, and no buffer is held until there is more.
func (c *call) restNow() error {
	if err := c.flushSink(); err != nil {
		return err
	}
	c.in.free()
	return nil
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

// flushSink puts on the wire what the sink may hold back.
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
	c.x.Record.Waits()
	moved, err := c.sink.Splice(spliceable(c.link.conn), n)
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
