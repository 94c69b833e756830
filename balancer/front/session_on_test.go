package front

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// startOn is a front whose records nobody has to read, with a unix socket, too.
func startOn(t *testing.T) (fx *fixture, dial func(network string) *client) {
	t.Helper()
	fx = startAs(t, echo, func(f *Front) { f.observers = nil })
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- fx.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := wait(t, served, "Serve's end"); err != nil {
			t.Error(err)
		}
	})
	return fx, func(network string) *client {
		addr := fx.addr
		if network == "unix" {
			addr = l.Addr().String()
		}
		nc, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(nc)
		for range 2 { // from the second on it is watched
			c.send(t, get("/"))
			c.answer(t, "GET")
		}
		return c
	}
}

// TestEndIsSeenWhileServedOn: who closes together with the last bytes, or in any
// moment after, is not waited for. Nothing tells of such an end a second time.
func TestEndIsSeenWhileServedOn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, how := range []string{"close", "half", "reset", "after the answer"} {
			t.Run(network+" "+how, func(t *testing.T) {
				fx, dial := startOn(t)
				for i := range 400 {
					endWhileServedOn(t, dial(network), how, i)
				}
				fx.until(t, "no connection is waited for", func() bool { return len(fx.conns) == 0 })
			})
		}
	}
}

func endWhileServedOn(t *testing.T, c *client, how string, i int) {
	t.Helper()
	defer func() { _ = c.Close() }()
	c.send(t, get("/last"))
	for range i % 40 * 50 { // another moment each time
		_ = time.Now()
	}
	switch how {
	case "half":
		_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		for { // a doubt may be asked about
			r, body := c.answer(t, "GET")
			if r.StatusCode == http.StatusContinue {
				continue
			}
			if !strings.HasPrefix(body, "GET /last") {
				t.Fatalf("round %d: %d %q", i, r.StatusCode, body)
			}
			break
		}
		c.closed(t)
	case "after the answer":
		c.answer(t, "GET")
	case "reset":
		if l, tcp := c.Conn.(interface{ SetLinger(sec int) error }); tcp {
			_ = l.SetLinger(0)
		}
	}
}

// TestAllFormsWhileServedOn: whatever comes on a connection that has served before,
// however it is cut, is answered as on a new one, and the connection goes on.
func TestAllFormsWhileServedOn(t *testing.T) {
	const post = "POST /p HTTP/1.1\r\nHost: a\r\n"
	large := strings.Repeat("x", 100_000)
	forms := []struct {
		name   string
		pieces []string
		bodies []string // how the echoed answers end
	}{
		{"one", []string{get("/1")}, []string{"[] "}},
		{"two at once", []string{get("/1") + get("/2")}, []string{"[] ", "[] "}},
		{"one and a half", []string{get("/1") + "GET /2 HT", "TP/1.1\r\nHost: a\r\n\r\n"}, []string{"[] ", "[] "}},
		{"a head in pieces", []string{"G", "ET /1 HTTP/1.1\r", "\nHost: a\r\n\r", "\n"}, []string{"[] "}},
		{"an empty line before", []string{"\r\n", get("/1")}, []string{"[] "}},
		{"a body", []string{post + "Content-Length: 3\r\n\r\nabc"}, []string{"abc []"}},
		{"a body in pieces", []string{post + "Content-Length: 3\r\n\r\na", "bc"}, []string{"abc []"}},
		{"a body and more", []string{post + "Content-Length: 3\r\n\r\nabc" + get("/2")}, []string{"abc []", "[] "}},
		{"a chunked body", []string{post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "0\r\n\r\n"}, []string{"abc []"}},
		{"a large body", []string{post + "Content-Length: 100000\r\n\r\n" + large[:2000], large[2000:]}, []string{large + " []"}},
		{"a head that fills the buffer", []string{"GET /1 HTTP/1.1\r\nHost: a\r\nA: " + large[:smallInput] + "\r\n\r\n"}, []string{"}] "}},
		{"what ends with the buffer", []string{fill(smallInput)}, []string{"}] "}},
		{"a body that is expected", []string{post + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", "abc"}, []string{"", "abc []"}},
	}
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			fx, dial := startOn(t)
			c := dial(network)
			for round := range 20 {
				for _, tc := range forms {
					for i, piece := range tc.pieces {
						c.send(t, piece)
						if i < len(tc.pieces)-1 && round == 0 {
							time.Sleep(time.Millisecond) // so that most come apart once; they need not
						}
					}
					for _, want := range tc.bodies {
						if _, body := c.answer(t, "GET"); !strings.HasSuffix(body, want) {
							t.Fatalf("%s: got %q, want %q at its end", tc.name, body, want)
						}
					}
				}
			}
			fx.mu.Lock()
			for c := range fx.conns {
				if !c.raw.Watched() {
					t.Error("the connection is not watched, so that nothing was shown")
				}
			}
			fx.mu.Unlock()
			c.send(t, "GET / HTTP/1.1\r\n Host: a\r\n\r\n")
			if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusBadRequest {
				t.Errorf("a bad head is answered by %d", r.StatusCode)
			}
			c.closed(t)
		})
	}
}

// fill is a request of n bytes.
func fill(n int) string {
	const before, after = "GET /1 HTTP/1.1\r\nHost: a\r\nA: ", "\r\n\r\n"
	return before + strings.Repeat("x", n-len(before)-len(after)) + after
}

// TestIdleEndsWhileServedOn: idle connections are closed while requests come on them,
// and nobody waits for anybody for ever.
func TestIdleEndsWhileServedOn(t *testing.T) {
	for i := range 20 {
		fx, dial := startOn(t)
		var clients sync.WaitGroup
		for n := range 20 {
			c := dial([]string{"tcp", "unix"}[n%2])
			clients.Go(func() {
				defer c.Close()
				for {
					if _, err := c.Write([]byte(get("/"))); err != nil {
						return
					}
					line, err := c.in.ReadString('\n')
					if err != nil {
						return
					}
					if !strings.HasPrefix(line, "HTTP/1.1 200") {
						t.Errorf("got %q", line)
						return
					}
					for line != "\r\n" && err == nil {
						line, err = c.in.ReadString('\n')
					}
					if _, err := c.in.Discard(len("GET / a.test 11 len=0 [] ")); err != nil {
						return
					}
				}
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := fx.CloseIdle(ctx, time.Duration(i)*time.Millisecond); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		cancel()
		clients.Wait()
	}
}

// TestIdleTimeWhileServedOn: who brings nothing more for so long has to go.
func TestIdleTimeWhileServedOn(t *testing.T) {
	fx, dial := startOn(t)
	limits := *fx.limits.Load()
	for _, network := range []string{"tcp", "unix"} {
		fx.SetLimits(limits)
		c := dial(network)
		short := limits
		short.Idle = 100 * time.Millisecond
		fx.SetLimits(short) // from the next wait on
		c.send(t, get("/"))
		c.answer(t, "GET")
		c.closed(t)
	}
}
