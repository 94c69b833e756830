package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/internal/http1"
	"stoker/internal/steady"
)

// afterRequest handles a connection by saying answer once a request has come,
// and closing it; by a reset if asked to.
func afterRequest(answer string, reset bool) func(net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		io.WriteString(c, answer)
		if tcp, ok := c.(*net.TCPConn); ok && reset {
			tcp.SetLinger(0)
		}
	}
}

func TestAnswersThatFail(t *testing.T) {
	const (
		sized   = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
		big     = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
		chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	tests := []struct {
		name, answer string
		reset        bool
		op           Op
		begun        bool
		body         string
	}{
		{name: "none", op: OpRead},
		{name: "none, reset", reset: true, op: OpRead},
		{name: "half a head", answer: "HTTP/1.1 200 OK\r\nContent-Le", op: OpRead},
		{name: "an interim one only", answer: "HTTP/1.1 103 Early Hints\r\n\r\n", op: OpRead},
		{name: "interim ones without an end", answer: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterims+1), op: OpMalformed},
		{name: "no HTTP", answer: "hello there\r\n", op: OpMalformed},
		{name: "a malformed head", answer: "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", op: OpMalformed},
		{name: "a head without an end", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", http1.MaxHead), op: OpMalformed},
		{name: "101", answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", op: OpMalformed},
		{name: "a sized body cut short", answer: sized + "hello", op: OpRead, begun: true, body: "hello"},
		{name: "a sized body of which nothing came", answer: sized, op: OpRead, begun: true},
		{name: "a spliced body cut short", answer: big + "hello", op: OpRead, begun: true, body: "hello"},
		{name: "a chunk cut short", answer: chunked + "5\r\nhel", op: OpRead, begun: true, body: "hel"},
		{name: "chunks without the last", answer: chunked + "5\r\nhello\r\n", op: OpRead, begun: true, body: "hello"},
		{name: "chunks without the last line", answer: chunked + "5\r\nhello\r\n0\r\n", op: OpRead, begun: true, body: "hello"},
		{name: "a malformed chunk", answer: chunked + "5\r\nhello\r\n+5\r\nhello", op: OpMalformed, begun: true, body: "hello"},
		{name: "until close, reset", answer: "HTTP/1.1 200 OK\r\n\r\nhello", reset: true, op: OpRead, begun: true, body: "hello"},
		{name: "spliced, reset", answer: big + strings.Repeat("hello", 10000), reset: true, op: OpRead, begun: true, body: strings.Repeat("hello", 10000)},
	}
	for _, network := range transports {
		for _, test := range tests {
			if test.reset && network == "unix" {
				continue // has no resets that a test can force
			}
			t.Run(network+"/"+test.name, func(t *testing.T) {
				s := serve(t, network, afterRequest(test.answer, test.reset))
				sink, x := newNotes(t), post([]byte("body"))
				f := asFailure(t, s.transport(t, TransportOptions{}).Do(t.Context(), x, sink), test.op)
				if !f.Sent || f.Begun != test.begun || sink.ended {
					t.Errorf("%+v, ended %v", f, sink.ended)
				}
				// A reset may overtake what was sent before it, but nothing may be made up.
				if body := sink.body.String(); body != test.body && (!test.reset || !strings.HasPrefix(test.body, body)) {
					t.Errorf("body %.100q", body)
				}
				if again, _ := io.ReadAll(x.Body); f.Replayable != !test.begun || f.Replayable && string(again) != "body" {
					t.Errorf("replayable %v, body %q", f.Replayable, again)
				}
				if errors.Is(f, io.EOF) {
					t.Error("a broken answer reads like a clean end")
				}
			})
		}
	}
}

func TestDialFails(t *testing.T) {
	dir := t.TempDir()
	nobody := steady.Reserve(t, "127.0.0.1")
	for _, address := range []string{nobody, "unix:" + filepath.Join(dir, "none"), "no port", "unix:" + strings.Repeat("x", 200)} {
		x := post([]byte("body"))
		f := asFailure(t, NewTransport(address, TransportOptions{}).Do(t.Context(), x, newNotes(t)), OpDial)
		if again, _ := io.ReadAll(x.Body); f.Sent || f.Begun || !f.Replayable || string(again) != "body" {
			t.Errorf("%s: %+v, body %q", address, f, again)
		}
	}
}

// fullListener is a unix socket whose accept queue holds no more.
func fullListener(t *testing.T) (path string, accept func() net.Conn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path, func() net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		return c
	}
}

// connect on a unix socket with a full queue fails at once; a busy engine must
// not look like a dead one.
func TestDialWaitsForAFullUnixQueue(t *testing.T) {
	path, accept := fullListener(t)
	tr := NewTransport("unix:"+path, TransportOptions{ConnectTimeout: 300 * time.Millisecond})
	f := asFailure(t, tr.Do(t.Context(), get(), newNotes(t)), OpDial)
	if !errors.Is(f, syscall.EAGAIN) {
		t.Errorf("full for ever: %v", f)
	}
	tr = NewTransport("unix:"+path, TransportOptions{ConnectTimeout: time.Minute})
	defer tr.Close()
	done := make(chan error)
	go func() { done <- tr.Do(t.Context(), get(), newNotes(t)) }()
	accept().Close() // who filled the queue
	c := accept()
	afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)(c)
	if err := <-done; err != nil {
		t.Errorf("full for a while: %v", err)
	}
	c.Close()
}

func TestSinkErrorsAreTheClients(t *testing.T) {
	answers := map[string]string{
		"Interim": "HTTP/1.1 103 Early Hints\r\n\r\n",
		"Head":    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"Write":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"Flush":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
		"Splice":  "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\nhell",
		"End":     "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	}
	for method, answer := range answers {
		t.Run(method, func(t *testing.T) {
			s := serve(t, "tcp", func(c net.Conn) {
				io.WriteString(c, answer)
				io.Copy(io.Discard, c) // ends when the transport closes
			})
			sink := newNotes(t)
			gone := fmt.Errorf("client of %s gone", method)
			sink.fail[method] = gone
			f := asFailure(t, s.transport(t, TransportOptions{MaxIdle: -1}).Do(t.Context(), get(), sink), OpClientWrite)
			if !errors.Is(f, gone) || !f.Sent || f.Begun != (method != "Interim") {
				t.Errorf("%+v", f)
			}
		})
	}
}

// brokenBody fails after some bytes.
type brokenBody struct {
	io.Reader
	err error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

func TestBrokenBodiesAreTheClients(t *testing.T) {
	bad := errors.New("bad chunk")
	tests := []struct {
		name      string
		sent      int
		length    int64
		err, want error
		reached   bool // the upstream
	}{
		{"small", 10, 20, bad, bad, false},
		{"small and short", 10, 20, io.EOF, io.ErrUnexpectedEOF, false},
		{"large", 100 << 10, 200 << 10, bad, bad, true},
		{"large and short", 100 << 10, 200 << 10, io.EOF, io.ErrUnexpectedEOF, true},
		{"of unknown length", 10, -1, bad, bad, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			whole := make(chan bool, 1)
			s := serve(t, "tcp", func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, r.Body)
				whole <- err == nil
			})
			x := post(nil)
			x.Length = test.length
			x.Body = &brokenBody{bytes.NewReader(make([]byte, test.sent)), test.err}
			f := asFailure(t, s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t)), OpClientBody)
			if !errors.Is(f, test.want) || f.Sent != test.reached || f.Begun || f.Replayable {
				t.Errorf("%+v", f)
			}
			if test.reached && <-whole {
				t.Error("half a body looked whole")
			}
			if !test.reached && s.accepted.Load() > 0 {
				t.Error("the upstream was troubled")
			}
		})
	}
	t.Run("while an answer that only the end ends is under way", func(t *testing.T) {
		s := serve(t, "tcp", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello")
			io.Copy(io.Discard, c)
		})
		sink := newNotes(t)
		body, client := io.Pipe()
		sink.onFlush = func() { client.CloseWithError(bad) }
		x := post(nil)
		x.Length, x.Body = -1, body
		f := asFailure(t, s.transport(t, TransportOptions{}).Do(t.Context(), x, sink), OpClientBody)
		if !errors.Is(f, bad) || !f.Begun || sink.ended {
			t.Errorf("%+v, ended %v", f, sink.ended)
		}
	})
	t.Run("a head that would be two requests", func(t *testing.T) {
		x := get()
		x.Request.Fields = http1.Fields{{Name: "A", Value: "b\r\n\r\nGET / HTTP/1.1"}}
		asFailure(t, NewTransport("127.0.0.1:1", TransportOptions{}).Do(t.Context(), x, newNotes(t)), OpClientBody)
	})
}
