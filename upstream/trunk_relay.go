package upstream

import (
	"errors"
	"io"
	"net/http"

	"stoker/internal/http1"
)

// relay passes an answer on, up to and with its trailers.
func (c *streamCall) relay(answer *http.Response) *Failure {
	if answer.StatusCode < 200 {
		return c.fail(OpMalformed, errStatus)
	}
	length := answer.ContentLength
	if answer.StatusCode == http.StatusNoContent {
		length = 0
	}
	c.begun = true
	head := http1.Response{Status: answer.StatusCode, Fields: http1.StripHopByHop(fieldsOf(answer.Header))}
	err := c.sink.Head(&head, length)
	head.Fields = nil
	if err != nil {
		return c.fail(OpClientWrite, err)
	}
	if length < 0 && c.x.Request.Method != http.MethodHead {
		// It may be long until something follows: a head by itself means much to
		// a client of gRPC. One that ends with its head must go out with its end.
		if err := c.sink.Flush(); err != nil {
			return c.fail(OpClientWrite, err)
		}
	}
	if failure := c.relayStream(answer.Body); failure != nil {
		return failure
	}
	c.stopBody() // an answer may end before the request does
	if err := c.sink.End(http1.StripHopByHop(fieldsOf(answer.Trailer))); err != nil {
		return c.fail(OpClientWrite, err)
	}
	return nil
}

// relayStream passes a body on. While nothing comes, no buffer is held: reading
// nothing waits until there is something, or else costs only the memory.
func (c *streamCall) relayStream(body io.Reader) *Failure {
	for {
		_, err := body.Read(nil)
		if err == nil {
			var failure *Failure
			if err, failure = c.relayPiece(body); failure != nil {
				return failure
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		default:
			return c.failRead(err)
		}
	}
}

// relayPiece passes on what is there, and flushes when that was all.
func (c *streamCall) relayPiece(body io.Reader) (error, *Failure) { //nolint:staticcheck // ST1008: the error is the reader's, and no failure of this
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	n, err := body.Read(buf[:])
	if n == 0 {
		return err, nil
	}
	if _, err := c.sink.Write(buf[:n]); err != nil {
		return nil, c.fail(OpClientWrite, err)
	}
	if n < len(buf) && err == nil {
		if err := c.sink.Flush(); err != nil {
			return nil, c.fail(OpClientWrite, err)
		}
	}
	return err, nil
}

// fieldsOf turns net/http's map back into a list, without framing.
func fieldsOf(h http.Header) http1.Fields {
	fields := make(http1.Fields, 0, len(h))
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, http1.Field{Name: name, Value: v})
		}
	}
	return fields
}
