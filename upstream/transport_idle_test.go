package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/rawconn"
)

// What can be known of a request that crossed with the upstream's closing of
// its connection, from what the kernel says afterwards.
func TestWhetherAnybodyReadTheRequest(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tc := range []struct {
		name      string
		upstream  func(t *testing.T, c net.Conn, write func())
		tcp, unix bool // unread for sure
	}{
		{"closed before the request came", func(_ *testing.T, c net.Conn, write func()) { _ = c.Close(); write() }, true, false},
		{"closed with the request unread", func(_ *testing.T, c net.Conn, write func()) { write(); _ = c.Close() }, true, true},
		{"read and closed", func(t *testing.T, c net.Conn, write func()) {
			t.Helper()
			write()
			if _, err := io.ReadFull(c, make([]byte, len(request))); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}, false, false},
		{"read but for the end, and closed", func(t *testing.T, c net.Conn, write func()) {
			t.Helper()
			write()
			if _, err := io.ReadFull(c, make([]byte, len(request)-1)); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}, true, true},
	} {
		for network, want := range map[string]bool{"tcp": tc.tcp, "unix": tc.unix} {
			t.Run(tc.name+" "+network, func(t *testing.T) {
				ours, theirs := connected(t, network)
				c := &call{errand: errand{t: &Transport{network: network}, x: &exchange.Exchange{}, request: &requestBuffer{p: []byte(request)}, link: &link{conn: ours}}}
				tc.upstream(t, theirs, func() { _, c.writeErr = ours.Write(c.request.p) })
				if c.writeErr != nil {
					return // a unix socket says so at once: nothing was sent
				}
				_ = ours.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err := ours.Read(make([]byte, 1))
				if !closedByPeer(err) || c.crossed(err) != want {
					t.Errorf("%v: unread %v, want %v", err, c.crossed(err), want)
				}
			})
		}
	}
}

// connected is a connection, ours and the upstream's end.
func connected(t *testing.T, network string) (*rawconn.Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := rawconn.Wrap(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	return ours, theirs
}

// How long connections are used again follows from when the upstream closes them.
func TestIdleTimeOfUpstreamIsLearnt(t *testing.T) {
	var i idleLinks
	i.init(10, 4*time.Second)
	if got := i.patience(time.Now()); got != 4*time.Second {
		t.Errorf("at first %v", got)
	}
	i.learn(2 * time.Second)
	i.learn(3 * time.Second)
	if got := i.patience(time.Now()); got != time.Second {
		t.Errorf("closed after 2 s: used for %v", got)
	}
	i.learn(10 * time.Second)
	if got := i.patience(time.Now()); got != time.Second {
		t.Errorf("closed after 2 s, seen later: used for %v", got)
	}
	i.forget = time.Now().Add(-time.Second)
	if got := i.patience(time.Now()); got != 4*time.Second {
		t.Errorf("long after: %v", got)
	}
}

// TestHangUpIsNoIdleTimeOfTheUpstream: after a client that hung up, or a worker that is
// to leave at once, connections are used again as before.
func TestHangUpIsNoIdleTimeOfTheUpstream(t *testing.T) {
	for _, network := range transports {
		for _, how := range []string{"client", "cut"} {
			t.Run(network+" "+how, func(t *testing.T) {
				asked := make(chan struct{}, 1)
				var silent atomic.Bool
				s := serve(t, network, func(c net.Conn) {
					answering(func(*http.Request, []byte) []byte {
						if silent.Load() {
							asked <- struct{}{}
							_, _ = io.Copy(io.Discard, c) // until it is over
							return nil
						}
						return []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					})(c)
				})
				tr := s.transport(t, TransportOptions{})
				do := func(ctx context.Context) error { return tr.Do(ctx, get(), newNotes(t)) }
				if err := do(t.Context()); err != nil {
					t.Fatal(err)
				}
				silent.Store(true)
				ctx, cancel := context.WithCancelCause(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- do(ctx) }()
				<-asked
				silent.Store(false)
				if how == "client" {
					cancel(exchange.ErrClientGone)
				} else {
					tr.Cut(exchange.ErrDrained)
				}
				asFailure(t, <-ended, OpCanceled)
				cancel(nil)
				for range 4 {
					if err := do(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if n := s.accepted.Load(); n != 2 {
					t.Errorf("%d connections for six requests, of which one was cut", n)
				}
			})
		}
	}
}
