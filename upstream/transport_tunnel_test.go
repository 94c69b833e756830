package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/websocket"
)

// upgrader is a sink whose client's connection becomes a tunnel.
type upgrader struct {
	*notes
	onUpgrade func()
	client    exchange.Tunnel
}

func (u *upgrader) Upgrade(*http1.Response) (exchange.Tunnel, error) {
	u.head = new(http1.Response)
	u.onUpgrade()
	return u.client, nil
}

// leaver is a client that says something and leaves, or is read no more.
type leaver struct {
	says *bytes.Reader
	end  error // nil: io.EOF
	got  bytes.Buffer
}

func (l *leaver) ReadLazily(room func() []byte, _ func() error) (int, error) {
	n, err := l.says.Read(room())
	if err != nil && l.end != nil {
		err = l.end
	}
	return n, err
}

func (l *leaver) Write(p []byte) (int, error) { return l.got.Write(p) }

func (l *leaver) Splice(src *rawconn.Conn, n int64) (int64, error) {
	return rawconn.Copy(&l.got, src, n)
}

func (l *leaver) CloseWrite() error { return nil }

func (l *leaver) Interrupt() {}

func (l *leaver) IdleLimit() time.Duration { return 0 }

// endable is a context that tells at once, and not soon, who is to be told of its end.
type endable struct {
	context.Context
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	hook func()
}

func newEndable(tb testing.TB) *endable {
	tb.Helper()
	ctx, cancel := context.WithCancelCause(tb.Context())
	return &endable{Context: ctx, cancel: cancel}
}

// AfterFunc keeps one f.
func (e *endable) AfterFunc(f func()) (stop func() bool) {
	if e.Err() != nil {
		f()
		return func() bool { return false }
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hook = f
	return func() bool { return e.take() != nil }
}

// take takes what AfterFunc was given.
func (e *endable) take() func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	hook := e.hook
	e.hook = nil
	return hook
}

func (e *endable) end(cause error) {
	e.cancel(cause)
	if hook := e.take(); hook != nil {
		hook()
	}
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// socket asks for a WebSocket.
func socket() *exchange.Exchange {
	x := get()
	x.WebSocket = true
	x.Request.Fields = http1.Fields{{Name: "Sec-WebSocket-Key", Value: wsKey}}
	return x
}

// listening is an engine that opens a WebSocket, and tells what it has heard over it.
func listening(tb testing.TB, network string) (s *rawServer, heard <-chan []byte) {
	tb.Helper()
	all := make(chan []byte, 1)
	return serve(tb, network, func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			tb.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
			websocket.Accept(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
		rest, _ := io.ReadAll(in)
		all <- rest
	}), all
}

// What ends the exchange in the moment in which the client has learnt that there is
// a tunnel, and Do has not got it yet, ends it as it would a moment later.
func TestWhatIsSaidAsTheTunnelOpensIsNotLost(t *testing.T) {
	shut := []byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xe8}
	for _, tc := range []struct {
		name         string
		says         []byte
		how          func(ctx *endable, tr *Transport)
		engine, told []byte
		failure      Op // empty: none
	}{
		{"the client says Close and leaves", shut, func(ctx *endable, _ *Transport) { ctx.end(exchange.ErrClientGone) }, shut, nil, ""},
		{"the client leaves", nil, func(ctx *endable, _ *Transport) { ctx.end(exchange.ErrClientGone) }, nil, nil, OpCanceled},
		{"a shutdown", nil, func(ctx *endable, _ *Transport) { ctx.end(exchange.ErrShutdown) }, nil, websocket.GoingAway("server is shutting down"), OpCanceled},
		{"the worker is cut off", nil, func(_ *endable, tr *Transport) { tr.Cut(exchange.ErrDrained) }, nil, websocket.GoingAway("worker is being stopped"), OpCanceled},
		{"the worker is to be stopped", shut, func(_ *endable, tr *Transport) { tr.Dismiss(exchange.ErrDrained) }, shut, websocket.GoingAway("worker is being stopped"), OpCanceled},
	} {
		for _, network := range transports {
			t.Run(tc.name+"/"+network, func(t *testing.T) {
				s, heard := listening(t, network)
				tr := s.transport(t, TransportOptions{})
				ctx := newEndable(t)
				client := &leaver{says: bytes.NewReader(slices.Clone(tc.says))}
				err := tr.Do(ctx, socket(), &upgrader{notes: newNotes(t), client: client, onUpgrade: func() { tc.how(ctx, tr) }})
				if tc.failure != "" {
					asFailure(t, err, tc.failure)
				} else if err != nil {
					t.Error(err)
				}
				if got := <-heard; !bytes.Equal(got, tc.engine) {
					t.Errorf("the engine heard %q, want %q", got, tc.engine)
				}
				if got := client.got.Bytes(); !bytes.Equal(got, tc.told) {
					t.Errorf("the client was told %q, want %q", got, tc.told)
				}
				if n := tr.Tunnels(); n != 0 {
					t.Errorf("%d tunnels are left", n)
				}
			})
		}
	}
}

// A front that cuts its requests lets nobody read from their clients any more, and
// a context between its own and Do's may end later than that reading does.
func TestClientThatIsCutIsToldThoughItsContextEndsLate(t *testing.T) {
	s, heard := listening(t, "tcp")
	ctx := newEndable(t)
	client := &leaver{says: bytes.NewReader(nil), end: os.ErrDeadlineExceeded}
	soon := func() { time.AfterFunc(50*time.Millisecond, func() { ctx.end(exchange.ErrShutdown) }) }
	err := s.transport(t, TransportOptions{}).Do(ctx, socket(), &upgrader{notes: newNotes(t), client: client, onUpgrade: soon})
	if f := asFailure(t, err, OpCanceled); !errors.Is(f, exchange.ErrShutdown) {
		t.Error(f)
	}
	if got, want := client.got.Bytes(), websocket.GoingAway("server is shutting down"); !bytes.Equal(got, want) {
		t.Errorf("the client was told %q, want %q", got, want)
	}
	<-heard
}
