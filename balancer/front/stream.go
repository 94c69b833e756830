package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// stream is a request of HTTP/2, which net/http serves.
type stream struct {
	flight

	from   *http.Request
	answer streamAnswer
	body   streamBody
	fields http1.Fields // room for Request.Fields
	// How begin's provisions are taken back.
	unwatch, unhurry func() bool
	hurried          chan struct{}
}

// ServeHTTP carries one request of HTTP/2; net/http calls it.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn) // withConn put it there
	q := f.newStream(c, w, r)
	q.begin()
	if !f.enter(&q.flight) { // the connection has gone since net/http read the request
		q.end()
		f.forget(q)
		panic(http.ErrAbortHandler)
	}
	f.carry(&q.flight)
	f.observe(&q.flight)
	q.end()
	f.leave(&q.flight)
	whole := q.answer.whole()
	q.judge(whole)
	f.forget(q)
	if !whole {
		panic(http.ErrAbortHandler) // this is how net/http is told to reset the stream
	}
}

// newStream translates r.
func (f *Front) newStream(c *conn, w http.ResponseWriter, r *http.Request) *stream {
	q := f.pool.Get().(*stream)
	q.conn, q.from, q.life = c, r, newLife()
	q.Record.Start = time.Now()
	q.Client = c.client
	q.Request = http1.Request{
		Method:    r.Method,
		Target:    r.RequestURI,
		Authority: r.Host,
		Scheme:    c.scheme(),
		Proto:     r.ProtoMajor*10 + r.ProtoMinor,
		Fields:    appendFields(q.fields, r.Header),
	}
	q.Wrong = wrong(r, len(q.Request.Fields))
	if r.ContentLength != 0 {
		q.Length = r.ContentLength
		q.body.stream = q
		q.Body = &q.body
		q.Trailers = q.trailers
	}
	q.answer = streamAnswer{w: w, stream: q}
	q.Sink = &q.answer
	return q
}

// forget makes q ready for another request. Nobody else has it any more.
func (f *Front) forget(q *stream) {
	fields := q.Request.Fields[:0]
	clear(fields[:cap(fields)])
	*q = stream{fields: fields}
	f.pool.Put(q)
}

// appendFields turns net/http's map back into a list, without framing. Names
// come in canonical spelling and in any order, since net/http keeps neither;
// fields of one name are in the order of arrival.
func appendFields(fields http1.Fields, h http.Header) http1.Fields {
	for name, values := range h {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Host":
			continue
		}
		for _, v := range values {
			fields = append(fields, http1.Field{Name: name, Value: strings.Trim(v, " \t")}) // as HTTP/1.1 will read it
		}
	}
	return fields
}

// wrong says what is wrong with a request that net/http has let pass.
func wrong(r *http.Request, fields int) error {
	d := http1.Downgrade{
		Method: r.Method, Target: r.RequestURI, Authority: r.Host, Hosts: r.Header["Host"],
		Lengths: r.Header["Content-Length"], Length: r.ContentLength, Fields: fields,
	}
	return d.Check()
}

// begin ends the request's life, with its cause, when the client goes away, and
// hurries it when that ends: a stream that waits for its client's window is
// woken by a deadline alone. end must be called.
func (q *stream) begin() {
	life := q.life
	if q.from.Context().Err() != nil { // cancelled before its turn: no engine is to hear of it
		life.end(exchange.ErrClientGone)
	}
	q.unwatch = context.AfterFunc(q.from.Context(), func() { life.end(exchange.ErrClientGone) })
	control, hurried := http.NewResponseController(q.answer.w), make(chan struct{})
	q.hurried = hurried
	q.unhurry = life.AfterFunc(func() {
		defer close(hurried)
		_ = control.SetReadDeadline(time.Now())
		_ = control.SetWriteDeadline(time.Now().Add(cutGrace))
	})
}

// end takes back what begin has provided. The ResponseWriter must not be used
// once the handler has returned.
func (q *stream) end() {
	q.unwatch()
	if !q.unhurry() {
		<-q.hurried
	}
	q.life.over()
}

// streamBody reads a stream's body. A transport may read it in a goroutine of its
// own while it answers. What is left of it is no business of other streams.
type streamBody struct {
	stream      *stream
	interrupted atomic.Bool
}

// Read implements io.Reader. An error that comes of the client's leaving is
// exchange.ErrClientGone.
func (b *streamBody) Read(p []byte) (int, error) {
	if b.interrupted.Load() {
		return 0, errInterrupted
	}
	n, err := b.stream.from.Body.Read(p)
	b.stream.Record.BytesIn += int64(n)
	switch {
	case err == nil, errors.Is(err, io.EOF):
	case b.interrupted.Load():
		err = errInterrupted
	default:
		err = fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
	}
	return n, err
}

// Interrupt makes a Read in progress, and every later one, return an error
// soon. Another goroutine may call it.
func (b *streamBody) Interrupt() {
	b.interrupted.Store(true)
	_ = b.stream.from.Body.Close() // which has nothing to report
}

// trailers are the fields after the body, once it has ended.
func (q *stream) trailers() http1.Fields { return appendFields(nil, q.from.Trailer) }
