package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"stoker/exchange"
	"stoker/internal/rawconn"
)

// TransportOptions bound what a Transport does.
type TransportOptions struct {
	// ConnectTimeout bounds the dial; 0: the kernel's own limit.
	ConnectTimeout time.Duration
	// ResponseTimeout bounds the wait for the answer's head, from the moment
	// the request was written whole; 0: none. Interim answers do not extend it.
	ResponseTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next exchange;
	// 0: DefaultIdleTimeout.
	IdleTimeout time.Duration
	// MaxIdle is how many connections may wait; 0: DefaultMaxIdle, negative: none.
	MaxIdle int
}

// Peer is where an upstream is reached, and how it is spoken to.
type Peer struct {
	// Address is "HOST:PORT" or "unix:/PATH".
	Address string
	// Secure is how TLS is spoken; nil: it is not. With HTTP2 it must offer "h2",
	// and nothing else, by ALPN.
	Secure *tls.Config
	// HTTP2 is spoken instead of HTTP/1.1: as TLS agrees upon it, or with prior
	// knowledge (h2c).
	HTTP2 bool
}

const (
	// DefaultIdleTimeout is below the 5 s after which uvicorn and llama-server
	// close: a request written into a connection that is just being closed is
	// lost, and nobody can tell whether it was read.
	DefaultIdleTimeout = 4 * time.Second
	// DefaultMaxIdle is more than engines batch.
	DefaultMaxIdle = 256
)

// Op is what a Transport was doing when an exchange failed.
type Op string

// The ops, by whose fault they are.
const (
	// OpDial: no connection could be made. Nothing was sent.
	OpDial Op = "dial"
	// OpStale: a connection that had been used before was closed by the
	// upstream before any byte of the answer. Most likely the request crossed
	// with the close and nobody read it, but that is not certain: a crash looks
	// the same. Where nothing had been written, Do replaces it and says nothing.
	// In HTTP/2: the upstream says that it has not begun the request.
	OpStale Op = "stale"
	// OpWrite: the request could not be written, and no answer came either.
	OpWrite Op = "write"
	// OpRead: the connection broke or ended before the answer was whole.
	OpRead Op = "read"
	// OpTimeout: no answer's head within ResponseTimeout.
	OpTimeout Op = "timeout"
	// OpMalformed: the answer is not HTTP/1.1 as RFC 9112 has it.
	OpMalformed Op = "malformed"

	// OpClientBody: the request's body could not be read from the client, or
	// its head not be written as HTTP/1.1.
	OpClientBody Op = "client_body"
	// OpClientWrite: the sink did not take the answer.
	OpClientWrite Op = "client_write"
	// OpCanceled: the context ended, or Cut was called; Err is the cause.
	OpCanceled Op = "canceled"
)

// Failure is how an exchange ended that did not end well. The connection it
// used is closed. Who retries, answers the client and blames is the balancer.
type Failure struct { //nolint:errname // read for what it says by the balancer, rarely for being an error
	Op Op
	// Sent: at least one byte of the request was written to an upstream.
	Sent bool
	// Begun: the sink has had a Head.
	Begun bool
	// Unread: what was sent, the upstream has not read to its end, as the kernel
	// says that closed its connection. Not all that was not read is known.
	Unread bool
	// Replayable: Exchange.Body reads the whole body once more, because none of
	// it was read or because it was small and has been put back.
	Replayable bool
	// Err is the error behind it: of the system, an http1.SyntaxError,
	// io.ErrUnexpectedEOF, or the context's cause. Never nil.
	Err error
}

func (f *Failure) Error() string { return fmt.Sprintf("upstream %s: %v", f.Op, f.Err) }

// Unwrap gives the error behind the failure.
func (f *Failure) Unwrap() error { return f.Err }

// Interrupter is a request body whose Read can be cut short from another
// goroutine. Do interrupts a body that it is still reading when the exchange
// has ended otherwise (an early 413, a dead engine, a shutdown), and returns
// once its Read has; without Interrupt that is when the client sends more.
type Interrupter interface {
	// Interrupt makes a Read in progress, and every later one, return an error soon.
	Interrupt()
}

// Transport carries exchanges to one upstream: over HTTP/1.1, one at a time on
// each of as many connections as it takes, or over HTTP/2, see trunks. It is safe
// for use by many goroutines. In HTTP/1.1 it starts none of its own but for a dial, for the upload of
// a large body, and for a tunnel, whose end Do awaits.
type Transport struct {
	network string // "tcp" or "unix"
	address string
	options atomic.Pointer[TransportOptions] // replaced whole
	secure  *tls.Config                      // nil: plain
	dialer  net.Dialer
	idle    idleLinks
	trunks  *trunks // nil: HTTP/1.1

	received atomic.Uint64
}

// NewTransport makes a transport to address, "HOST:PORT" or "unix:/PATH".
// Nothing is dialed before the first exchange.
func NewTransport(address string, o TransportOptions) *Transport {
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	if o.MaxIdle == 0 {
		o.MaxIdle = DefaultMaxIdle
	}
	t := &Transport{network: "tcp", address: address}
	t.options.Store(&o)
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		t.network, t.address = "unix", path
	}
	t.dialer.SetMultipathTCP(false)
	t.dialer.Control = func(_, address string, raw syscall.RawConn) error {
		if t.network != "tcp" {
			return nil
		}
		return rawconn.OnLoopback(address, raw)
	}
	t.idle.init(o.MaxIdle, o.IdleTimeout)
	return t
}

// newPeerTransport is NewTransport to where something else than plain HTTP/1.1 may be spoken.
func newPeerTransport(p Peer, o TransportOptions) *Transport {
	t := NewTransport(p.Address, o)
	t.secure = p.Secure
	if p.HTTP2 {
		t.trunks = newTrunks(t)
	}
	return t
}

// Do carries x over one connection: it sends x.Request and the body, and
// relays the answer to sink: interim heads, head, body, trailers, End. It
// returns nil after a successful sink.End, else a *Failure. It never calls
// sink.Break.
//
//	body up to 64 KiB read ──▶ idle connection or dial ──▶ one write ──▶ head ──▶ body ──▶ End
//	larger or unknown: read and written by a second goroutine meanwhile
//
// A 101 (Switching Protocols) that opens the WebSocket which x asks for makes a
// tunnel of both connections, that lasts until either side ends it: see tunnel.
// sink must be an exchange.Upgrader then. Do returns nil if one side has said Close.
//
// The Response and the fields given to the sink are reused: they are valid
// until Do returns, those of an interim answer until Interim returns.
//
// sink.Flush is called when nothing more can be read from the upstream right
// now, so no event is held back and a burst is flushed once. sink.Splice must
// return the *rawconn.SourceError that rawconn gives it as it is.
//
// When ctx ends, the upstream sees its connection closed at once (HTTP/2: the
// stream reset), whatever Do is waiting for; Do itself returns when its call to sink or x.Body, if it is in
// one, does.
//
// Expect is not sent on: the body is written without waiting, and the front
// has answered 100 by the time it can be read.
func (t *Transport) Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	if t.trunks != nil {
		return t.trunks.do(ctx, x, sink)
	}
	c := newCall(ctx, t, x, sink)
	defer c.free()
	if failure := c.run(); failure != nil {
		x.Record.Waits() // for another upstream, or news of this one
		return failure
	}
	return nil
}

// Progress is the number of bytes received from the upstream so far, on all
// connections: as long as it grows, the upstream is alive.
func (t *Transport) Progress() uint64 { return t.received.Load() }

// Close closes the idle connections and keeps none from now on. Exchanges in
// progress go on, and later ones still work, each over a connection of its
// own: whoever was handed the transport just before it left the pool is served.
func (t *Transport) Close() {
	t.idle.close()
	if t.trunks != nil {
		t.trunks.close()
	}
}

// link finds a connection: the idle one used last, or a new one.
func (t *Transport) link(ctx context.Context, x *exchange.Exchange) (*link, error) {
	if l := t.idle.take(x); l != nil {
		return l, nil
	}
	l, err := t.dialApart(ctx)
	if err != nil {
		return nil, err
	}
	t.idle.mu.Lock()
	defer t.idle.mu.Unlock()
	t.idle.engage(l)
	return l, nil
}

// Cut ends the exchanges in progress at once: their Do fails with OpCanceled and
// cause. It returns how many there were. One that is still being dialed is not
// among them.
func (t *Transport) Cut(cause error) int {
	if t.trunks != nil {
		return t.trunks.cut(cause)
	}
	return t.idle.cut(cause)
}
