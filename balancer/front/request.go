package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// OutcomePanic says that a defect of ours ended the request; its client's
// connection was broken.
const OutcomePanic exchange.Outcome = "panic"

const (
	// drainBytes and drainTime bound what is read of a body that the handler
	// left unread, so that its connection may serve another request.
	drainBytes = 256 << 10
	drainTime  = 100 * time.Millisecond
)

// request is an exchange, from its head's end to its answer's end.
type request struct {
	exchange.Exchange

	conn   *conn
	from   *http.Request
	answer answer
	body   body
	fields http1.Fields // room for Request.Fields
	cancel context.CancelCauseFunc
	// How begin's provisions are taken back; nil where there was no need.
	unwatch, unhurry func() bool
	hurried          chan struct{}

	prev, next *request // in Front.requests
}

// ServeHTTP carries one request; net/http calls it.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn) // withConn put it there
	if isPreface(r) && !c.is(streams) {
		f.handOver(w, c)
		return
	}
	if c.spoiled.Load() {
		panic(http.ErrAbortHandler) // this is the rest of a body
	}
	q := f.newRequest(c, w, r)
	ctx := q.begin()
	f.enter(q)
	f.serve(ctx, q)
	f.observe(q)
	q.settleBody()
	q.end()
	f.leave(q)
	whole := q.answer.whole()
	f.forget(q)
	if !whole {
		// This is how net/http is told to end the connection, or stream, without
		// a clean end.
		panic(http.ErrAbortHandler)
	}
}

// serve calls the handler. A panic there ends this request alone.
func (f *Front) serve(ctx context.Context, q *request) {
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("panic while serving a request; its connection is broken",
				"id", q.Record.ID, "panic", p, "stack", string(debug.Stack()))
			q.Record.Outcome = OutcomePanic
			q.Record.Err = fmt.Errorf("panic: %v", p)
			q.answer.Break(q.Record.Err)
		}
	}()
	f.handler.Serve(ctx, &q.Exchange)
}

func (f *Front) observe(q *request) {
	q.Record.End = time.Now()
	for _, o := range f.observers {
		o.Observe(&q.Exchange)
	}
}

// newRequest translates r.
func (f *Front) newRequest(c *conn, w http.ResponseWriter, r *http.Request) *request {
	q := f.pool.Get().(*request)
	q.conn, q.from = c, r
	q.Record.Start = time.Now()
	q.Client = c.client
	q.Request = http1.Request{
		Method:    r.Method,
		Target:    originForm(r.Method, r.RequestURI),
		Authority: r.Host,
		Scheme:    "http",
		Proto:     r.ProtoMajor*10 + r.ProtoMinor,
		Fields:    appendFields(q.fields, r.Header),
	}
	if r.TLS != nil {
		q.Request.Scheme = "https"
	}
	if r.ContentLength != 0 {
		q.Length = r.ContentLength
		q.body.request = q
		q.Body = &q.body
		q.Trailers = q.trailers
	}
	q.answer = answer{w: w, request: q}
	q.Sink = &q.answer
	return q
}

// forget makes q ready for another request. Nobody else has it any more.
func (f *Front) forget(q *request) {
	fields := q.Request.Fields[:0]
	clear(fields[:cap(fields)])
	*q = request{fields: fields}
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
			fields = append(fields, http1.Field{Name: name, Value: v})
		}
	}
	return fields
}

// originForm is the path and query of a target, byte for byte as the client
// sent it, also when it came in absolute form (RFC 9112 3.2.2). What is neither
// is returned as it is.
func originForm(method, target string) string {
	if strings.HasPrefix(target, "/") {
		return target
	}
	_, rest, absolute := strings.Cut(target, "://")
	if !absolute {
		return target
	}
	at := strings.IndexAny(rest, "/?")
	switch {
	case at < 0 && method == http.MethodOptions:
		return "*"
	case at < 0:
		return "/"
	case rest[at] == '?':
		return "/" + rest[at:]
	default:
		return rest[at:]
	}
}

// begin returns what the request runs under: a context that ends, with a cause,
// when the client goes away or the request is cut. end must be called.
func (q *request) begin() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	q.cancel = cancel
	if q.Request.Proto == 20 {
		q.beginStream(ctx)
		return ctx
	}
	// Without full duplex, an answer that begins before the body's end has been
	// seen makes net/http close the body under the transport that still reads
	// it; 1.7 % of short POST streams were lost so. HTTP/1 always has it.
	_ = http.NewResponseController(q.answer.w).EnableFullDuplex()
	c := q.conn
	if !c.watched {
		c.watched = c.front.hangups.watch(c) == nil
	}
	if !c.watched { // the kernel's memory was short: better late than never
		q.unwatch = context.AfterFunc(q.from.Context(), func() { cancel(exchange.ErrClientGone) })
	}
	return ctx
}

// beginStream does that for HTTP/2, where net/http knows when a stream ends. A
// stream that waits for its client's window is woken by a deadline alone.
func (q *request) beginStream(ctx context.Context) {
	cancel := q.cancel
	q.unwatch = context.AfterFunc(q.from.Context(), func() { cancel(exchange.ErrClientGone) })
	control, hurried := http.NewResponseController(q.answer.w), make(chan struct{})
	q.hurried = hurried
	q.unhurry = context.AfterFunc(ctx, func() {
		defer close(hurried)
		_ = control.SetReadDeadline(time.Now())
		_ = control.SetWriteDeadline(time.Now().Add(cutGrace))
	})
}

// end takes back what begin has provided. The ResponseWriter must not be used
// once the handler has returned.
func (q *request) end() {
	if q.unwatch != nil {
		q.unwatch()
	}
	if q.unhurry != nil && !q.unhurry() {
		<-q.hurried
	}
	q.cancel(nil)
}

// leave ends a request of HTTP/1 whose client has gone.
func (q *request) leave() {
	q.cancel(exchange.ErrClientGone)
	q.conn.hurry()
}

// enter registers q. A client that hung up before is noticed here.
func (f *Front) enter(q *request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests.add(q)
	if q.conn.is(streams) {
		return
	}
	f.moveLocked(q.conn, serving)
	q.conn.now = q
	if q.conn.hungUp.Load() {
		q.leave()
	}
}

// leave forgets q; the connection is busy until net/http has written all.
func (f *Front) leave(q *request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests.remove(q)
	q.conn.now = nil
	f.recount(false, false)
}

// requestList is every request in flight.
type requestList struct {
	first  *request
	length int
}

func (l *requestList) add(q *request) {
	q.next = l.first
	if l.first != nil {
		l.first.prev = q
	}
	l.first = q
	l.length++
}

func (l *requestList) remove(q *request) {
	if q.prev == nil {
		l.first = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	}
	l.length--
}

// errInterrupted is what an interrupted body says.
var errInterrupted = errors.New("body is not wanted any more")

// body reads a request's body and says what became of it. A transport may read
// it in a goroutine of its own while it answers.
type body struct {
	request     *request
	ended       atomic.Bool // io.EOF was returned
	failed      atomic.Bool // it broke off or is no HTTP
	interrupted atomic.Bool
}

// Read implements io.Reader. An error that comes of the client's leaving is
// exchange.ErrClientGone; of the others, the request itself is wrong.
func (b *body) Read(p []byte) (int, error) {
	if b.interrupted.Load() {
		return 0, errInterrupted
	}
	n, err := b.request.from.Body.Read(p)
	b.request.Record.BytesIn += int64(n)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
	case b.interrupted.Load():
		err = errInterrupted
	default:
		b.failed.Store(true)
		if left(err) || b.request.Request.Proto == 20 {
			err = fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
		}
	}
	return n, err
}

// Interrupt makes a Read in progress, and every later one, return an error
// soon. Another goroutine may call it.
func (b *body) Interrupt() {
	b.interrupted.Store(true)
	if b.request.Request.Proto == 20 {
		_ = b.request.from.Body.Close() // which has nothing to report
		return
	}
	_ = b.request.conn.SetReadDeadline(time.Now()) // fails on a closed connection only
}

// over says whether nothing of the body is left on the connection. When it was
// interrupted in the very moment of its end, net/http's watch for a hang-up has
// taken the deadline for one, and every later request would be born cancelled.
func (b *body) over() bool { return b.ended.Load() && !b.interrupted.Load() }

// left says whether reading failed because the connection did.
func left(err error) bool {
	var network net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// trailers are the fields after the body, once it has ended.
func (q *request) trailers() http1.Fields { return appendFields(nil, q.from.Trailer) }

// settleBody makes sure that what the handler left of a body is not taken for
// the next request on the connection. A small rest is read; else the connection
// ends after the answer. In HTTP/2 a stream's end is no business of the others.
func (q *request) settleBody() {
	if q.Body == nil || q.body.over() || q.Request.Proto == 20 {
		return
	}
	if q.answer.whole() {
		wrong := q.body.failed.Load() || q.body.interrupted.Load()
		if !wrong && q.from.Header.Get("Expect") == "" && q.readRest() {
			return
		}
		q.conn.spoiled.Store(true)
	}
	// net/http reads on, before it closes the connection: a client that waits for
	// its answer would wait for ever, and not see that it is broken.
	_ = q.conn.SetReadDeadline(time.Now())
}

// readRest reads a small rest of the body and says whether it has ended. The
// client has all of the answer before, but perhaps its end.
func (q *request) readRest() bool {
	if q.answer.Flush() != nil || q.conn.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return false
	}
	_, _ = io.CopyN(io.Discard, q.from.Body, drainBytes+1)
	// Only a body that has ended says so again.
	n, err := q.from.Body.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, io.EOF)
}
