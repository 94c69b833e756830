package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// answersLate answers when any doubt about the client is over, and says whether
// its client was given up before.
func answersLate(late, given chan error) handlerFunc {
	return func(ctx context.Context, x *exchange.Exchange) {
		if x.Body != nil {
			_, _ = io.ReadAll(x.Body)
		}
		stream := strings.HasPrefix(x.Request.Target, "/stream")
		if stream {
			_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
			_ = x.Sink.Flush()
		}
		late <- nil
		for end := time.After(2 * doubtTime); end != nil; {
			select {
			case <-ctx.Done():
				given <- context.Cause(ctx)
				x.Sink.Break(context.Cause(ctx))
				return
			case <-end:
				end = nil
			case <-time.After(doubtTime / 10):
				if stream {
					_, _ = x.Sink.Write([]byte("token "))
					_ = x.Sink.Flush()
				}
			}
		}
		given <- nil
		if stream {
			_ = x.Sink.End(nil)
			return
		}
		respond(x, 200, "late")
	}
}

// A client that has sent all that it wants to send, and says so by closing that
// direction, gets its answer, however long it takes: haproxy does so too.
func TestHalfClosedClientIsAnswered(t *testing.T) {
	late, given := make(chan error, 10), make(chan error, 10)
	fx := start(t, answersLate(late, given))
	for name, tc := range map[string]struct {
		request string
		heads   []int // interim ones, then the final one
	}{
		"GET":          {get("/"), []int{100, 200}},
		"sized body":   {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", []int{100, 200}},
		"chunked body": {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", []int{100, 200}},
		"two requests": {get("/") + get("/"), []int{100, 200, 100, 200}},
		"a stream":     {get("/stream"), []int{200}},
		"HTTP/1.0":     {"GET /stream HTTP/1.0\r\n\r\n", []int{200}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fx.dial(t)
			c.send(t, tc.request)
			if name == "a stream" || name == "HTTP/1.0" {
				wait(t, late, "request") // the doubt comes when the answer has begun
			}
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			for _, want := range tc.heads {
				r, body := c.answer(t, "GET")
				if r.StatusCode != want || want == 200 && !strings.HasSuffix(body, "late") && !strings.HasSuffix(body, "token ") {
					t.Fatalf("%d %q, want %d", r.StatusCode, body, want)
				}
			}
			c.closed(t)
		})
	}
	t.Cleanup(func() {
		for range len(given) {
			if err := <-given; err != nil {
				t.Errorf("given up: %v", err)
			}
		}
	})
}

// The kernel says of a unix socket's peer whether it has left, or only says no more.
func TestHalfClosedUnixSocket(t *testing.T) {
	late, given := make(chan error, 10), make(chan error, 10)
	fx := start(t, answersLate(late, given))
	l := listenOn(t, "unix", filepath.Join(t.TempDir(), "s"))
	served := make(chan error, 1)
	go func() { served <- fx.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	for _, leaves := range []bool{false, true} {
		nc, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(nc)
		c.send(t, get("/"))
		wait(t, late, "request")
		if leaves {
			_ = c.Close()
			if err := wait(t, given, "end"); !errors.Is(err, exchange.ErrClientGone) {
				t.Errorf("cause %v", err)
			}
			continue
		}
		_ = nc.(*net.UnixConn).CloseWrite()
		if r, body := c.answer(t, "GET"); r.StatusCode != http.StatusOK || body != "late" {
			t.Errorf("%d %q", r.StatusCode, body)
		}
		if err := wait(t, given, "end"); err != nil {
			t.Errorf("given up: %v", err)
		}
		_ = c.Close()
	}
}

// Who closes its side first and leaves later is seen to leave when it is written to.
func TestHalfClosedClientLeaves(t *testing.T) {
	late, given := make(chan error, 1), make(chan error, 1)
	fx := start(t, answersLate(late, given))
	c := fx.dial(t)
	c.send(t, get("/stream"))
	wait(t, late, "request")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if _, err := c.in.ReadString(' '); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := wait(t, given, "end"); !errors.Is(err, exchange.ErrClientGone) {
		t.Errorf("cause %v", err)
	}
}

// A doubt about a client is over with its request; what runs of it then Close waits for.
func TestDoubtsEndWithTheirRequests(t *testing.T) {
	asked := make(chan struct{})
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		<-asked
		respond(x, 200, "answered")
	})
	c := fx.dial(t)
	c.send(t, get("/"))
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusContinue {
		t.Fatalf("%d, want 100", r.StatusCode)
	}
	fx.mu.Lock() // which who has asked has held until its clock ran
	clock := fx.requests.first.doubt
	fx.mu.Unlock()
	close(asked)
	if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusOK {
		t.Errorf("%d", r.StatusCode)
	}
	c.closed(t)
	if clock.Stop() {
		fx.goroutine.Done()
		t.Error("the clock of a doubt still runs")
	}
}
