// Package front reads requests from clients and gives each to a handler as an
// exchange. It speaks HTTP/1.1 by itself, a session for each connection, and HTTP/2
// on the same listeners by means of net/http: with prior knowledge, or as TLS has
// agreed upon it. It knows
// every connection it has, and ends them gently. It knows nothing of routes,
// pools or upstreams.
//
// A connection is in one of these phases; conn.go moves it:
//
//	idle     nothing of a next request has come; may be closed by CloseIdle
//	reading  some bytes of a head have come                        (busy)
//	serving  from the head's end until the answer is on the wire   (busy)
//	streams  HTTP/2: busy while any stream is open
//	gone     closed, or about to be; terminal
//
// A session is one goroutine that reads a head, parses it in place, lends it to
// the handler as views of its buffer, and writes the answer by as few system
// calls as there are moments at which nothing more is to be had:
//
//	await ──▶ begin ──▶ Handler.Serve ──▶ observe ──▶ settle the body ──▶ leave ──▶ flush ──▶ await
//	  │                  │ 101: the connection is lent as a tunnel, and ends after it
//	  │ no HTTP, too slow: refused as JSON                 │ broken, closing, body unread
//	  ▼                                                    ▼
//	linger: read on while the client sends, so that it gets to read the answer, then close
package front

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/exchange"
	"stoker/internal/rawconn"
)

const (
	// maxHeadBytes bounds a request's head in HTTP/2; net/http adds 4 KiB of
	// slack. HTTP/1.1's limits are http1's.
	maxHeadBytes = 16 << 10
	// maxStreams is how many requests one HTTP/2 connection may have at a time.
	maxStreams = 256
)

// Handler carries one request. When it returns, the answer has been ended or
// broken on x.Sink, and nobody uses x any more.
type Handler interface {
	Serve(ctx context.Context, x *exchange.Exchange)
}

// Observer learns of each request once, when it has ended. It must not keep x.
type Observer interface {
	Observe(x *exchange.Exchange)
}

// Options are what a front is made with.
type Options struct {
	Handler   Handler
	Observers []Observer
	// Limits of what clients may take; the zero value is DefaultLimits.
	Limits Limits
	// Shaken, where not nil, is told of each handshake of TLS. It must not wait.
	Shaken func(Handshake)
	// Log gets what a person would act on; nil: nobody is told.
	Log hclog.Logger
}

// Front is the server side of every connection from clients. Its methods may
// be called by anybody at any time.
type Front struct {
	handler   Handler
	observers []Observer
	log       hclog.Logger
	limits    atomic.Pointer[Limits] // replaced whole
	shaken    func(Handshake)
	hsts      atomic.Pointer[string]

	// http2 serves what sessions found to be HTTP/2.
	http2    *http.Server
	handover *handover
	hangups  *rawconn.Watch // of clients
	closer   *rawconn.Closer

	crew      crew
	pool      sync.Pool // of *stream
	draining  atomic.Bool
	closed    atomic.Bool
	goroutine sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
	// peers counts them by address, but for refused ones, which refused counts.
	peers   map[netip.Addr]int
	refused int
	// busy counts connections that are reading or serving, HTTP/2 ones with open streams.
	busy int
	// accepting counts the Serves that run.
	accepting int
	requests  requestList
	late      latecomers
	// handing counts connections on their way to the HTTP/2 server, ending says
	// that none may set out any more.
	handing int
	ending  bool
	// changed is closed and replaced whenever a connection changes its phase
	// during a drain; nil while nobody waits for that.
	changed chan struct{}
}

// New returns a front that serves nothing yet. It needs two descriptors and
// goroutines until Close.
func New(o Options) (*Front, error) {
	watch, err := rawconn.NewWatch()
	if err != nil {
		return nil, err
	}
	closer, err := rawconn.NewCloser()
	if err != nil {
		watch.Close()
		return nil, err
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	f := &Front{
		handler:   o.Handler,
		shaken:    o.Shaken,
		observers: o.Observers,
		log:       o.Log,
		handover:  newHandover(),
		hangups:   watch,
		closer:    closer,
		conns:     make(map[*conn]struct{}),
		peers:     make(map[netip.Addr]int),
		pool:      sync.Pool{New: func() any { return new(stream) }},
	}
	if o.Limits.Head == 0 {
		o.Limits = DefaultLimits()
	}
	f.SetLimits(o.Limits)
	f.http2 = f.newServer()
	f.goroutine.Go(func() { _ = f.http2.Serve(f.handover) }) // ends with the handover, and says only that
	return f, nil
}

// newServer makes the server for HTTP/2.
func (f *Front) newServer() *http.Server {
	s := &http.Server{
		Handler:           f,
		Protocols:         new(http.Protocols),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: f.limits.Load().Head,
		IdleTimeout:       f.limits.Load().Idle,
		MaxHeaderBytes:    maxHeadBytes,
		ConnContext:       withConn,
		ConnState:         connState,
		// OPTIONS * is the engine's to answer.
		DisableGeneralOptionsHandler: true,
		// net/http reports what clients do wrong; nobody acts on that.
		ErrorLog: f.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// Serve accepts connections from l, *net.TCPConn or *net.UnixConn, until l is
// closed; then it returns nil. It may be called for several listeners. It
// closes l when it returns.
func (f *Front) Serve(l net.Listener) error {
	return f.ServeAs(l, func() Manner { return Manner{} })
}

// Manner is how a connection begins.
type Manner struct {
	// TLS is how it is secured; nil: it is plain.
	TLS *tls.Config
	// Proxies are who connects for others; nil: nobody does.
	Proxies *Proxies
}

// ServeAs is Serve of connections that begin in another manner, which is asked
// for with each of them. It must not wait.
func (f *Front) ServeAs(l net.Listener, manner func() Manner) error {
	f.accepts(1)
	defer f.accepts(-1)
	defer func() { _ = l.Close() }() // most often closed already
	var wait backoff
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			f.admit(nc, manner())
		case errors.Is(err, net.ErrClosed):
			return nil
		case !isTemporary(err):
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		default:
			// Most often descriptors have run out. Those who wait are not lost.
			f.log.Error("cannot accept connections; trying again", "listener", l.Addr(), "error", err)
			time.Sleep(wait.next())
		}
	}
}

// accepts counts those who accept.
func (f *Front) accepts(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepting += n
	f.recount(false, false)
}

// backoff is the wait after failed accepts.
type backoff time.Duration

func (b *backoff) next() time.Duration {
	*b = min(max(2*(*b), backoff(5*time.Millisecond)), backoff(time.Second))
	return time.Duration(*b)
}

// isTemporary says whether accept may succeed later: the connection went away
// before it was accepted, or descriptors or memory are short.
func isTemporary(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// admit serves a new connection.
func (f *Front) admit(nc net.Conn, m Manner) {
	c, err := newConn(f, nc, m)
	if err != nil {
		// The listener is of a kind that we cannot serve; every connection says so.
		f.log.Error("connection refused", "error", err)
		_ = nc.Close()
		return
	}
	if c.announced, err = m.Proxies.announces(c.client); err == nil {
		err = f.welcome(c)
	}
	if err != nil {
		f.turnAway(c, err)
		return
	}
	f.serve(c)
}

// turnAway closes a connection that cannot be served, at once. What it says
// fits into an empty socket's buffer, so that nobody waits here; a client that
// has already sent its request may see a reset instead.
func (f *Front) turnAway(c *conn, err error) {
	if !errors.Is(err, net.ErrClosed) {
		f.observeRefusal(c, err, time.Now())
	}
	// With TLS it could not be said without a handshake, which takes two.
	if c.tls == nil && !errors.Is(err, net.ErrClosed) {
		_, _ = c.Write(refusalOf(err).append(nil, err.Error()))
		_ = c.CloseWrite()
	}
	_ = c.Close()
}

// Connections is how many there are, of HTTP/1.1 and 2.
func (f *Front) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// Close cuts whatever is left, with exchange.ErrShutdown, and waits until every
// handler has returned. A gentle end is Drain, CloseIdle, WaitIdle, then Close.
func (f *Front) Close() {
	f.closed.Store(true)
	f.Cut(exchange.ErrShutdown)
	f.abort()
	// Errors are those of listeners, which are not ours.
	_ = f.handover.Close()
	_ = f.http2.Close()
	f.waitGone()
	f.crew.close()
	f.hangups.Close()
	f.goroutine.Wait()
	f.closer.End()
}

// abort ends every session's connection; the sessions close them.
func (f *Front) abort() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if !c.is(streams) {
			c.Abort()
		}
	}
}

// waitGone waits until no connection and so no handler is left.
func (f *Front) waitGone() {
	for {
		f.mu.Lock()
		left, changed := len(f.conns)+f.requests.length, f.whenChanged()
		f.mu.Unlock()
		if left == 0 {
			return
		}
		<-changed
	}
}
