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
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/exchange"
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

func TestResponseTimeout(t *testing.T) {
	tests := map[string]struct {
		answer string
		x      func() *exchange.Exchange
	}{
		"silence":                {"", get},
		"half a head":            {"HTTP/1.1 200 OK\r\n", get},
		"interim answers only":   {"HTTP/1.1 102 Processing\r\n\r\n", get},
		"silence after 1 MiB":    {"", func() *exchange.Exchange { return post(make([]byte, 1<<20)) }},
		"silence after a little": {"", func() *exchange.Exchange { return post(make([]byte, 1<<10)) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "tcp", func(c net.Conn) {
				io.WriteString(c, test.answer)
				io.Copy(io.Discard, c)
			})
			tr := s.transport(t, TransportOptions{ResponseTimeout: 50 * time.Millisecond})
			f := asFailure(t, tr.Do(t.Context(), test.x(), newNotes(t)), OpTimeout)
			if !f.Sent || f.Begun {
				t.Errorf("%+v", f)
			}
		})
	}
}

// The limit is for the head; a stream may take as long as it likes, and so may
// the next exchange on the connection.
func TestResponseTimeoutEndsWithTheHead(t *testing.T) {
	for _, length := range []int{0, 1 << 20} {
		steady.WithLimit(t, 60*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
			s := serve(t, "tcp", answeringSlowly(3*limit))
			tr := s.transport(t, TransportOptions{ResponseTimeout: limit})
			for range 2 {
				x := post(make([]byte, length))
				if err := tr.Do(t.Context(), x, newNotes(t)); err != nil {
					t.Errorf("with a body of %d bytes: %v", length, err)
				}
			}
			if n := s.accepted.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// An answer may begin before the upload is over, whose end then starts no clock.
func TestResponseTimeoutIsNotForABodyThatFollowsTheHead(t *testing.T) {
	const limit = 50 * time.Millisecond
	s := serve(t, "tcp", func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
		io.Copy(io.Discard, r.Body)
		time.Sleep(3 * limit) // the thing under test is a clock of the kernel's poller
		io.WriteString(c, "!")
		io.Copy(io.Discard, in)
	})
	body, client := io.Pipe()
	x, sink := post(nil), newNotes(t)
	x.Length, x.Body = -1, body
	sink.onHead = func() { go client.Close() }
	if err := s.transport(t, TransportOptions{ResponseTimeout: limit}).Do(t.Context(), x, sink); err != nil {
		t.Error(err)
	}
}

// answeringSlowly answers with a head at once and the body after a pause.
func answeringSlowly(pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
			time.Sleep(pause) // the thing under test is a clock of the kernel's poller
			io.WriteString(c, "!")
		}
	}
}

// A connection closed while it was idle is replaced without a word.
func TestStaleIdleConnectionIsReplaced(t *testing.T) {
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			closed := make(chan struct{})
			s := serve(t, network, func(c net.Conn) {
				afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)(c)
				c.Close()
				closed <- struct{}{}
			})
			tr := s.transport(t, TransportOptions{})
			for range 3 {
				if err := tr.Do(t.Context(), post([]byte("x")), newNotes(t)); err != nil {
					t.Fatal(err)
				}
				<-closed
			}
		})
	}
}

// A connection closed as the request was being written: whether that was read
// nobody knows, so the balancer must.
func TestStaleConnectionThatWasWrittenToIsReported(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	tests := map[string]struct {
		second string // the answer to the second request
		op     Op
	}{
		"nothing":     {"", OpStale},
		"half a head": {"HTTP/1.1 2", OpRead},
	}
	for _, network := range transports {
		for name, test := range tests {
			t.Run(network+"/"+name, func(t *testing.T) {
				s := serve(t, network, func(c net.Conn) {
					answers := []string{ok, test.second}
					answering(func(*http.Request, []byte) []byte {
						a := answers[0]
						answers = answers[1:]
						if len(answers) > 0 {
							return []byte(a)
						}
						io.WriteString(c, a)
						return nil
					})(c)
				})
				tr := s.transport(t, TransportOptions{})
				if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
					t.Fatal(err)
				}
				x := post([]byte("body"))
				f := asFailure(t, tr.Do(t.Context(), x, newNotes(t)), test.op)
				if again, _ := io.ReadAll(x.Body); !f.Sent || f.Begun || !f.Replayable || string(again) != "body" {
					t.Errorf("%+v, body %q", f, again)
				}
			})
		}
	}
}

// What came from the upstream behind its last answer must not become the next.
func TestUnsolicitedAnswerIsNotTaken(t *testing.T) {
	sent := make(chan struct{})
	s := serve(t, "unix", func(c net.Conn) {
		afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)(c)
		<-sent
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		sent <- struct{}{}
		io.Copy(io.Discard, c)
	})
	tr := s.transport(t, TransportOptions{})
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	sent <- struct{}{}
	<-sent
	sink := newNotes(t)
	go func() { sent <- struct{}{}; <-sent }() // the second connection
	if err := tr.Do(t.Context(), get(), sink); err != nil || sink.body.Len() > 0 {
		t.Errorf("second: %v, body %q", err, sink.body.String())
	}
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestIdleConnectionsAreBoundedAndPruned(t *testing.T) {
	open := make(chan int, 100)
	var together sync.WaitGroup // the first three
	together.Add(3)
	var asked atomic.Int64
	s := serve(t, "unix", func(c net.Conn) {
		open <- 1
		defer func() { open <- -1 }()
		answering(func(*http.Request, []byte) []byte {
			if asked.Add(1) <= 3 {
				together.Done()
				together.Wait()
			}
			return []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})(c)
	})
	tr := s.transport(t, TransportOptions{MaxIdle: 2, IdleTimeout: 50 * time.Millisecond})
	done := make(chan error)
	for range 3 {
		go func() { done <- tr.Do(t.Context(), get(), newNotes(t)) }()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// Each that was opened is closed by us without another exchange.
	for sum, n := 0, 0; n < 6; n++ {
		if sum += <-open; n == 5 && sum != 0 {
			t.Errorf("%d connections left open", sum)
		}
	}

	none := s.transport(t, TransportOptions{MaxIdle: -1})
	if err := none.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	if n := <-open + <-open; n != 0 {
		t.Errorf("kept a connection that it may not keep")
	}
}

func TestCloseClosesIdleConnectionsAndGoesOnServing(t *testing.T) {
	closed := make(chan struct{}, 2)
	s := serve(t, "tcp", func(c net.Conn) {
		answering(func(*http.Request, []byte) []byte { return []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })(c)
		closed <- struct{}{}
	})
	tr := s.transport(t, TransportOptions{})
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	tr.Close()
	<-closed
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Errorf("after Close: %v", err)
	}
	<-closed
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
