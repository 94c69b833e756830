// Package front reads requests from clients and gives each to a handler as an
// exchange. It speaks HTTP/1.1 and HTTP/2 with prior knowledge by means of
// net/http, knows every connection it has, and ends them gently. It knows
// nothing of routes, pools or upstreams.
//
// A connection is in one of these phases; conn.go moves it:
//
//	idle     nothing of a next request has come; may be closed by CloseIdle
//	reading  some bytes of a head have come                        (busy)
//	serving  from the head's end until the answer is on the wire   (busy)
//	streams  HTTP/2: busy while any stream is open
//	gone     closed, or about to be; terminal
//
// What net/http decides and a front must not leave to it is undone here, each
// with its reason: see answer.go and request.go.
package front

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/exchange"
)

const (
	// readHeaderTimeout bounds the time from a request's first byte to the end of its head.
	readHeaderTimeout = 10 * time.Second
	// idleTimeout bounds the wait for the next request on a connection.
	idleTimeout = 75 * time.Second
	// maxHeadBytes bounds a request's head; net/http adds 4 KiB of slack.
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
	// Log gets what a person would act on; nil: nobody is told.
	Log hclog.Logger
}

// Front is the server side of every connection from clients. Its methods may
// be called by anybody at any time.
type Front struct {
	handler   Handler
	observers []Observer
	log       hclog.Logger

	http1 *http.Server
	// http2 serves what http1 found to be HTTP/2. It is a server of its own
	// because http.Server.Shutdown, which alone sends GOAWAY on idle
	// connections, would make an HTTP/1.1 server drop requests whose head ends
	// after it began.
	http2    *http.Server
	handover *handover
	hangups  *hangups

	pool      sync.Pool // of *request
	draining  atomic.Bool
	closed    atomic.Bool
	goroutine sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
	// busy counts connections that are reading or serving, HTTP/2 ones with open streams.
	busy     int
	requests requestList
	// changed is closed and replaced whenever a connection changes its phase
	// during a drain; nil while nobody waits for that.
	changed chan struct{}
}

// New returns a front that serves nothing yet. It needs a descriptor and a
// goroutine until Close.
func New(o Options) (*Front, error) {
	watch, err := newHangups()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	f := &Front{
		handler:   o.Handler,
		observers: o.Observers,
		log:       o.Log,
		handover:  newHandover(),
		hangups:   watch,
		conns:     make(map[*conn]struct{}),
		pool:      sync.Pool{New: func() any { return new(request) }},
	}
	f.http1 = f.newServer(func(p *http.Protocols) { p.SetHTTP1(true) })
	f.http2 = f.newServer(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	f.http2.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
	f.goroutine.Go(func() { f.hangups.run() })
	f.goroutine.Go(func() { _ = f.http2.Serve(f.handover) }) // ends with the handover, and says only that
	return f, nil
}

func (f *Front) newServer(protocols func(*http.Protocols)) *http.Server {
	s := &http.Server{
		Handler:           f,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeadBytes,
		ConnContext:       withConn,
		ConnState:         connState,
		// OPTIONS * is the engine's to answer.
		DisableGeneralOptionsHandler: true,
		// net/http reports what clients do wrong; nobody acts on that.
		ErrorLog: f.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	protocols(s.Protocols)
	return s
}

// Serve accepts connections from l, *net.TCPConn or *net.UnixConn, until l is
// closed; then it returns nil. It may be called for several listeners. It
// closes l when it returns.
func (f *Front) Serve(l net.Listener) error {
	err := f.http1.Serve(&accepting{Listener: l, front: f})
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close cuts whatever is left, with exchange.ErrShutdown, and waits until every
// handler has returned. A gentle end is Drain, CloseIdle, WaitIdle, then Close.
func (f *Front) Close() {
	f.closed.Store(true)
	f.Cut(exchange.ErrShutdown)
	// Errors are those of listeners, which are not ours.
	_ = f.handover.Close()
	_ = f.http1.Close()
	_ = f.http2.Close()
	f.waitGone()
	f.hangups.close()
	f.goroutine.Wait()
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

// accepting gives net/http connections of our own kind.
type accepting struct {
	net.Listener
	front *Front
}

func (a *accepting) Accept() (net.Conn, error) {
	for {
		nc, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c, err := newConn(a.front, nc)
		if err == nil {
			return c, nil
		}
		// The listener is of a kind that we cannot serve; every connection says so.
		a.front.log.Error("connection refused", "error", err)
		_ = nc.Close()
	}
}
