package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
)

// promptly bounds how long an upstream may not know that its exchange was
// canceled. It takes microseconds, and for ever if nobody tells; the bound allows
// for a machine that is busy with other things, under the race detector.
const promptly = 10 * time.Second

// cancelTests are the places where an exchange may wait. ready is closed by the
// upstream, or by the sink, when the exchange is there.
var cancelTests = []struct {
	name  string
	serve func(c net.Conn, ready func())
	x     func() *exchange.Exchange
	onNth int // the flush that makes it ready, 0 when serve does
	begun bool
}{
	{
		name: "waiting for the head, a silent prefill",
		serve: func(c net.Conn, ready func()) {
			http.ReadRequest(bufio.NewReader(c))
			ready()
		},
		x: get,
	},
	{
		name: "within the head",
		serve: func(c net.Conn, ready func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			ready()
		},
		x: get,
	},
	{
		name: "between events",
		serve: func(c net.Conn, _ func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!\r\n")
		},
		x: get, onNth: 1, begun: true,
	},
	{
		name: "within a sized body",
		serve: func(c net.Conn, _ func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n!")
		},
		x: get, onNth: 1, begun: true,
	},
	{
		name: "within a body until close",
		serve: func(c net.Conn, _ func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n!")
		},
		x: get, onNth: 1, begun: true,
	},
	{
		name: "within a spliced body",
		serve: func(c net.Conn, ready func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 100000))
			ready()
		},
		x: get, begun: true,
	},
	{
		name: "within a spliced body until close",
		serve: func(c net.Conn, ready func()) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 100000))
			ready()
		},
		x: get, begun: true,
	},
	{
		name: "writing what nobody reads",
		serve: func(c net.Conn, ready func()) {
			io.ReadFull(c, make([]byte, 100<<10))
			ready()
			time.Sleep(10 * time.Millisecond) // let the socket fill up
		},
		x: func() *exchange.Exchange { return post(make([]byte, 64<<20)) },
	},
	{
		name: "waiting for the client's body",
		serve: func(c net.Conn, ready func()) {
			io.ReadFull(c, make([]byte, 100<<10))
			ready()
		},
		x: func() *exchange.Exchange {
			x := post(nil)
			x.Length, x.Body = 10<<20, &stuckBody{bytes.NewReader(make([]byte, 100<<10)), make(chan struct{})}
			return x
		},
	},
}

func TestCancelIsSeenByTheUpstream(t *testing.T) {
	ways := []struct {
		name  string
		cause error
		end   func(cancel context.CancelCauseFunc, tr *Transport)
	}{
		{"hang-up", exchange.ErrClientGone, func(cancel context.CancelCauseFunc, _ *Transport) { cancel(exchange.ErrClientGone) }},
		{"cut", exchange.ErrDrained, func(_ context.CancelCauseFunc, tr *Transport) {
			if n := tr.Cut(exchange.ErrDrained); n != 1 {
				t.Errorf("%d exchanges were cut", n)
			}
		}},
	}
	for i := range 2 * len(ways) {
		way, network := ways[i/2], transports[i%2]
		for _, test := range cancelTests {
			t.Run(way.name+"/"+network+"/"+test.name, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				var canceled time.Time
				ready := make(chan struct{})
				seen := make(chan time.Time, 1)
				s := serve(t, network, func(c net.Conn) {
					test.serve(c, func() { close(ready) })
					io.Copy(io.Discard, c)
					seen <- time.Now()
				})
				sink := newNotes(t)
				sink.onFlush = func() {
					if sink.flushes == test.onNth {
						close(ready)
					}
				}
				done := make(chan error)
				tr := s.transport(t, TransportOptions{})
				go func() { done <- tr.Do(ctx, test.x(), sink) }()
				<-ready
				canceled = time.Now()
				way.end(cancel, tr)
				f := asFailure(t, <-done, OpCanceled)
				cancel(nil)
				if !errors.Is(f, way.cause) || !f.Sent || f.Begun != test.begun && test.onNth > 0 || sink.ended {
					t.Errorf("%+v, ended %v", f, sink.ended)
				}
				if took := time.Since(canceled); took > promptly {
					t.Errorf("Do returned after %v", took)
				}
				if took := (<-seen).Sub(canceled); took > promptly {
					t.Errorf("the upstream saw it after %v", took)
				}
				if n := tr.Cut(exchange.ErrDrained); n != 0 {
					t.Errorf("%d exchanges are in progress after the end", n)
				}
			})
		}
	}
}

func TestCancelWhileDialing(t *testing.T) {
	path, _ := fullListener(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(exchange.ErrShutdown) })
	f := asFailure(t, NewTransport("unix:"+path, TransportOptions{}).Do(ctx, get(), newNotes(t)), OpCanceled)
	if !errors.Is(f, exchange.ErrShutdown) || f.Sent || !f.Replayable {
		t.Errorf("%+v", f)
	}
}

// The upstream must see the end even while the sink does not take the answer.
func TestCancelIsSeenWhileTheSinkIsStuck(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	seen, stuck := make(chan struct{}), make(chan struct{})
	s := serve(t, "tcp", func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n!")
		io.Copy(io.Discard, c)
		close(seen)
	})
	sink := newNotes(t)
	sink.onFlush = func() { close(stuck); <-seen }
	done := make(chan error)
	go func() { done <- s.transport(t, TransportOptions{}).Do(ctx, get(), sink) }()
	<-stuck
	cancel(exchange.ErrShutdown)
	asFailure(t, <-done, OpCanceled)
}

// A context that ends just as its exchange has ended well must not reach the
// connection's next exchange.
func TestALateCancelDoesNotPoisonTheConnection(t *testing.T) {
	s := serve(t, "unix", answering(func(*http.Request, []byte) []byte {
		return []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	}))
	tr := s.transport(t, TransportOptions{})
	for i := range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		sink := newNotes(t)
		switch i % 4 {
		case 0: // as the last byte is relayed
			sink.onHead = func() { go cancel() }
		case 1: // after the connection was given back
			sink.onEnd = cancel
		case 2:
			sink.onEnd = func() { go cancel() }
		case 3: // any time
			go cancel()
		}
		err := tr.Do(ctx, get(), sink)
		if err != nil {
			asFailure(t, err, OpCanceled)
		}
		// Nobody cancels the next one.
		if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		cancel()
	}
}

// The same with the race forced: the context ends while the last bytes are being
// relayed, and its function comes to act only during the next exchange.
func TestALinkWhoseAbortIsUnderWayIsNotUsedAgain(t *testing.T) {
	s := serve(t, "unix", answering(func(*http.Request, []byte) []byte {
		return []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
	}))
	tr := s.transport(t, TransportOptions{})
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	l := tr.idle.links[0]
	act, acted := make(chan struct{}), make(chan struct{})
	l.abort = func() {
		defer close(acted)
		<-act
		l.conn.Abort()
	}
	ctx, cancel := context.WithCancel(t.Context())
	sink := newNotes(t)
	sink.onWrite = cancel
	if err := tr.Do(ctx, get(), sink); err != nil || !sink.ended {
		t.Errorf("an exchange that was whole: %v", err)
	}
	next := newNotes(t)
	next.onHead = func() { close(act); <-acted }
	if err := tr.Do(t.Context(), get(), next); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
