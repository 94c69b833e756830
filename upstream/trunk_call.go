package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"stoker/exchange"
	"stoker/internal/http1"
)

// ErrNoWebSocket says that the upstream is spoken to in HTTP/2, over which we make no WebSockets.
var ErrNoWebSocket = errors.New("no WebSocket can be made with an upstream over HTTP/2")

var (
	// errNoHead is why an exchange is ended whose answer does not begin in time.
	errNoHead = errors.New("no answer's head in time")
	// errStatus: 101 means nothing in HTTP/2.
	errStatus = http1.SyntaxError("an answer of HTTP/2 with a status that it must not have")
)

// streamCall is one run of Do over HTTP/2.
type streamCall struct {
	parent context.Context // whose end is another matter than that of ctx, see fail
	ctx    context.Context
	cancel context.CancelCauseFunc
	m      *trunks
	x      *exchange.Exchange
	sink   exchange.Sink

	body  *streamBody // nil without one that net/http reads from the client
	small []byte      // a small body, read beforehand
	sent  bool        // see Failure
	begun bool        // see Failure

	mu       sync.Mutex
	clock    *time.Timer // runs while the head is waited for
	answered bool        // no clock must be started any more
}

// do is Transport.Do over HTTP/2. Interim answers and the request's trailers are
// not passed on: net/http gives the former to another goroutine than ours, and wants
// to know the latter's names before the body.
func (m *trunks) do(parent context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	c := &streamCall{parent: parent, m: m, x: x, sink: sink}
	c.ctx, c.cancel = context.WithCancelCause(parent)
	defer c.cancel(context.Canceled)
	m.enter(c)
	defer m.exit(c)
	if failure := c.run(); failure != nil {
		return failure
	}
	return nil
}

// run is the life of an exchange. One that was not begun since its trunk was
// just leaving is sent over another, once: that one is new.
func (c *streamCall) run() *Failure {
	if c.x.WebSocket {
		return c.fail(OpClientBody, ErrNoWebSocket)
	}
	if failure := c.readSmall(); failure != nil {
		return failure
	}
	for again := true; ; again = false {
		if c.ctx.Err() != nil {
			return c.fail(OpCanceled, nil)
		}
		k, err := c.m.take(c.ctx)
		if err != nil {
			return c.fail(OpDial, err)
		}
		failure := c.carry(k)
		leaving := k.conn.Err() != nil
		c.m.release(k)
		if failure == nil || !again || !leaving || failure.Op != OpStale || failure.Sent || !failure.Replayable {
			return failure
		}
	}
}

// readSmall reads a body whole that may have to be sent again, and for which no
// upstream is to wait.
func (c *streamCall) readSmall() *Failure {
	if !isSmall(c.x.Length) {
		return nil
	}
	c.small = make([]byte, c.x.Length)
	if _, err := io.ReadFull(c.x.Body, c.small); err != nil {
		c.small = nil
		return c.fail(OpClientBody, noEOF(err))
	}
	return nil
}

// fail makes a Failure. Whose end of the context it was counts before what came of it.
func (c *streamCall) fail(op Op, err error) *Failure {
	cause := context.Cause(c.ctx)
	switch {
	case c.parent.Err() != nil:
		op, err = OpCanceled, context.Cause(c.parent)
	case errors.Is(cause, errNoHead):
		op, err = OpTimeout, cause
	case cause != nil && op != OpClientWrite && op != OpClientBody:
		op, err = OpCanceled, cause
	}
	f := &Failure{Op: op, Sent: c.sent, Begun: c.begun, Err: err}
	switch {
	case c.begun: // nothing can be
	case c.x.Length == 0:
		f.Replayable = true
	case c.small != nil:
		c.x.Body, f.Replayable = bytes.NewReader(c.small), true
	case isSmall(c.x.Length):
	case c.body == nil:
		f.Replayable = op != OpClientBody
	default:
		if kept, ok := c.body.again(); ok {
			c.x.Body, f.Replayable = bytes.NewReader(kept), true
		}
	}
	return f
}

// carry runs the exchange over k. When it returns, nobody uses the exchange any more.
func (c *streamCall) carry(k *trunk) *Failure {
	request := c.request()
	c.clock, c.answered = nil, false
	defer c.headCame() // whatever came: no clock must go on
	if c.body == nil {
		c.expectHead()
	}
	if c.body != nil {
		// net/http looks at the context between two reads of the body only.
		defer context.AfterFunc(c.ctx, func() { _ = c.body.Close() })()
	}
	before := c.sent
	c.sent = true
	answer, err := k.conn.RoundTrip(request) // its body is closed by settle
	if err != nil {
		c.stopBody()
		c.sent = before || !unbegun(err)
		return c.blame(err)
	}
	c.headCame()
	failure := c.relay(answer)
	c.settle(answer, failure == nil)
	if failure == nil {
		return nil
	}
	// Also where it is an error of HTTP/2: that of the client's own stream, not of the upstream's.
	if c.body != nil && c.body.broken() != nil && (failure.Op == OpRead || failure.Op == OpMalformed) {
		return c.fail(OpClientBody, c.body.broken())
	}
	return failure
}

func (c *streamCall) stopBody() {
	if c.body != nil {
		c.body.stop()
	}
}

// settle ends the stream: by RST_STREAM where it is not at its end on both sides.
func (c *streamCall) settle(answer *http.Response, well bool) {
	if !well {
		c.cancel(errAnswered) // first, or Close would wait for an upstream that does not read
	}
	_ = answer.Body.Close() // nothing is left to be learned from it
	c.stopBody()
}

// unbegun says whether the upstream has done nothing about a request, as it says
// itself, or as nothing was sent to it. net/http has no type for two of three; they are told apart
// by their words, and where these change a request is not tried again.
func unbegun(err error) bool {
	if reset, ok := errors.AsType[http2.StreamError](err); ok {
		return reset.Code == http2.ErrCodeRefusedStream
	}
	text := err.Error()
	return strings.Contains(text, "graceful shutdown GOAWAY") || strings.Contains(text, "client conn not usable") ||
		strings.Contains(text, "client conn could not be established")
}

// blame finds out why there is no answer.
func (c *streamCall) blame(err error) *Failure {
	switch {
	case c.body != nil && c.body.broken() != nil:
		return c.fail(OpClientBody, noEOF(c.body.broken()))
	case !c.sent:
		return c.fail(OpStale, err)
	}
	return c.failRead(err)
}

// failRead is about an answer that breaks off, or is none.
func (c *streamCall) failRead(err error) *Failure {
	if reset, ok := errors.AsType[http2.StreamError](err); ok && (reset.Cause == nil || reset.Cause.Error() != "received from peer") {
		return c.fail(OpMalformed, err) // it was net/http that reset the stream
	}
	return c.fail(OpRead, noEOF(err))
}

// request makes net/http's of what is sent, the body included. Its strings are its own:
// the exchange's are views into a buffer that the next request is read into, and a
// connection remembers fields, to send them by their numbers, for as long as it lives.
func (c *streamCall) request() *http.Request {
	x := c.x
	own := http1.Request{Method: strings.Clone(x.Request.Method), Target: strings.Clone(x.Request.Target), Authority: strings.Clone(x.Request.Authority)}
	r := &http.Request{Method: own.Method, URL: locator(&own), Host: own.Authority, Header: header(x.Request.Fields)}
	r.URL.Scheme = "http"
	if c.m.t.secure != nil {
		r.URL.Scheme = "https"
	}
	switch {
	case x.Length == 0:
	case c.small != nil:
		r.ContentLength, r.Body = x.Length, io.NopCloser(bytes.NewReader(c.small))
	default:
		c.body = &streamBody{from: x.Body, whole: c.expectHead}
		r.ContentLength, r.Body = x.Length, c.body
	}
	return r.WithContext(c.ctx)
}

// locator names the target byte for byte: as opaque, which is not parsed, and
// which must not look like an authority.
func locator(r *http1.Request) *url.URL {
	u := &url.URL{Host: r.Authority, Opaque: r.Target}
	if u.Host == "" {
		u.Host = "localhost" // of HTTP/1.0, which need not say
	}
	if strings.HasPrefix(r.Target, "//") {
		u.Opaque = "//" + u.Host + r.Target
	}
	return u
}

// header is a copy of fields as net/http has them. That trailers are passed on is said
// anew: servers of gRPC take nobody who does not say it.
func header(fields http1.Fields) http.Header {
	h := make(http.Header, len(fields)+2)
	h["User-Agent"] = nil // else net/http says one
	for _, f := range fields {
		switch name := textproto.CanonicalMIMEHeaderKey(strings.Clone(f.Name)); name {
		case "Host", "Expect", "Content-Length":
		default:
			h[name] = append(h[name], strings.Clone(f.Value))
		}
	}
	h["Te"] = []string{"trailers"}
	return h
}

// expectHead starts the clock for the answer's head.
func (c *streamCall) expectHead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if limit := c.m.t.options.Load().ResponseTimeout; limit > 0 && !c.answered && c.clock == nil {
		c.clock = time.AfterFunc(limit, func() { c.cancel(errNoHead) })
	}
}

// headCame stops it.
func (c *streamCall) headCame() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	if c.clock != nil {
		c.clock.Stop()
	}
}
