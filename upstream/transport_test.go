package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// transports are the networks that every promise is tested on.
var transports = []string{"tcp", "unix"}

// rawServer is an upstream that does to each connection what a test says,
// without an HTTP library to keep it from misbehaving.
type rawServer struct {
	address  string // as for NewTransport
	accepted atomic.Int64
}

// serve starts a rawServer. At the test's end it waits for all its
// connections, and so for the test's own mistakes.
func serve(tb testing.TB, network string, handle func(c net.Conn)) *rawServer {
	tb.Helper()
	checkGoroutines(tb)
	address, prefix := "127.0.0.1:0", ""
	if network == "unix" {
		address, prefix = filepath.Join(tb.TempDir(), "s"), "unix:"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	s := &rawServer{address: prefix + l.Addr().String()}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			conns.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return s
}

// transport makes one to s, closed before s waits for its connections.
func (s *rawServer) transport(tb testing.TB, o TransportOptions) *Transport {
	tb.Helper()
	t := NewTransport(s.address, o)
	tb.Cleanup(t.Close)
	return t
}

// checkGoroutines fails a test after which more goroutines run than before.
func checkGoroutines(tb testing.TB) {
	tb.Helper()
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		deadline := time.Now().Add(5 * time.Second)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 64<<10)
				tb.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// answering handles connections of which each request is answered by answer.
// A nil answer closes the connection.
func answering(answer func(r *http.Request, body []byte) []byte) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			a := answer(r, body)
			if a == nil {
				return
			}
			c.Write(a)
		}
	}
}

// notes is a sink that writes down what it gets.
type notes struct {
	mu       sync.Mutex
	interims []string
	head     *http1.Response
	status   int
	length   int64
	fields   http1.Fields // a copy, to compare head with at the end
	body     bytes.Buffer
	held     int // bytes written and not yet flushed
	flushes  int
	spliced  int64
	trailers http1.Fields
	ended    bool

	onFlush func()           // called after each
	fail    map[string]error // by method
	to      *rawconn.Conn    // where Splice goes to, if not into body
	onEnd   func()
	onWrite func()
	onHead  func()
	changed chan struct{} // a token after each Flush
	t       testing.TB
}

func newNotes(tb testing.TB) *notes {
	tb.Helper()
	return &notes{t: tb, fail: map[string]error{}, changed: make(chan struct{}, 1000)}
}

func (n *notes) Interim(status int, fields http1.Fields) error {
	n.interims = append(n.interims, fmt.Sprint(status, fields))
	return n.fail["Interim"]
}

func (n *notes) Head(r *http1.Response, length int64) error {
	if n.head != nil {
		n.t.Error("a second Head")
	}
	n.head, n.status, n.length, n.fields = r, r.Status, length, r.Fields.Clone()
	if n.onHead != nil {
		n.onHead()
	}
	return n.fail["Head"]
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.body.Write(p)
	n.held += len(p)
	if n.onWrite != nil {
		n.onWrite()
	}
	return len(p), n.fail["Write"]
}

func (n *notes) Flush() error {
	n.mu.Lock()
	n.held = 0
	n.flushes++
	n.mu.Unlock()
	n.changed <- struct{}{}
	if n.onFlush != nil {
		n.onFlush()
	}
	return n.fail["Flush"]
}

func (n *notes) Splice(src *rawconn.Conn, most int64) (moved int64, err error) {
	if n.held > 0 {
		n.t.Error("Splice while Write's bytes are held back")
	}
	if err := n.fail["Splice"]; err != nil {
		return 0, err
	}
	if n.to != nil {
		moved, err = n.to.Splice(src, most)
	} else {
		moved, err = rawconn.Copy(&n.body, src, most)
	}
	n.spliced += moved
	return moved, err
}

func (n *notes) End(trailers http1.Fields) error {
	if n.ended {
		n.t.Error("a second End")
	}
	if len(n.head.Fields) > 0 {
		n.t.Errorf("the head's fields are still there, though their memory may be another's: %v", n.head.Fields)
	}
	n.ended, n.trailers = true, trailers.Clone()
	if n.onEnd != nil {
		n.onEnd()
	}
	return n.fail["End"]
}

func (n *notes) Break(error) { n.t.Error("a transport calls Break") }

// get is a plain request.
func get() *exchange.Exchange {
	return &exchange.Exchange{Request: http1.Request{Method: "GET", Target: "/", Authority: "test"}}
}

// post is a request with a body of known length.
func post(body []byte) *exchange.Exchange {
	x := get()
	x.Request.Method = "POST"
	x.Length, x.Body = int64(len(body)), bytes.NewReader(body)
	return x
}

// asFailure demands a *Failure with an op, and checks what all of them promise.
func asFailure(tb testing.TB, err error, op Op) *Failure {
	tb.Helper()
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Op != op || f.Err == nil {
		tb.Fatalf("Do = %v, want a Failure %s", err, op)
	}
	return f
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{2})
	r.Read(p)
	return p
}

// answerTests are answers that are relayed, and as what.
var answerTests = []struct {
	name, method, raw string
	closes            bool // the server closes after it, in the same moment
	status            int
	length            int64
	body              string
	interims          []string
	trailers          http1.Fields
	reused            bool
	behind            bool // bytes follow that nobody asked for; cut, they may come too late to be noticed
}{
	{name: "sized", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", status: 200, length: 5, body: "hello", reused: true},
	{name: "empty", raw: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, reused: true},
	{name: "chunked", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", status: 200, length: -1, body: "hello!", reused: true},
	{
		name: "chunked with trailers", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nSum: 1\r\n\r\n", status: 200, length: -1, body: "hello",
		trailers: http1.Fields{{Name: "Sum", Value: "1"}}, reused: true,
	},
	{name: "until close", raw: "HTTP/1.1 200 OK\r\n\r\nhello", closes: true, status: 200, length: -1, body: "hello"},
	{name: "until close, HTTP/1.0", raw: "HTTP/1.0 200 OK\r\n\r\nhello", closes: true, status: 200, length: -1, body: "hello"},
	{name: "until close, empty", raw: "HTTP/1.1 200 OK\r\n\r\n", closes: true, status: 200, length: -1},
	{name: "sized and closed at once", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", closes: true, status: 200, length: 5, body: "hello"},
	{name: "chunked and closed at once", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", closes: true, status: 200, length: -1, body: "hello"},
	{name: "Connection: close", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", status: 200, length: 5, body: "hello"},
	{name: "HTTP/1.0 kept alive", raw: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", status: 200, length: 5, body: "hello"},
	{name: "HEAD", method: "HEAD", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, length: 5},
	{name: "HEAD of nothing", method: "HEAD", raw: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, reused: true},
	{name: "204", raw: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, reused: true},
	{name: "304", raw: "HTTP/1.1 304 Not Modified\r\n\r\n", status: 304, length: -1, reused: true},
	{name: "304 with a length", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", status: 304, length: 7},
	{
		name: "interim answers first", raw: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", status: 200, length: 1, body: "!",
		interims: []string{"100 []", "103 [{Link a}]"}, reused: true,
	},
	{
		name: "many interim answers", raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("a", 1000)+"\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", status: 200, length: 1, body: "!",
		interims: slices.Repeat([]string{"103 [{Link " + strings.Repeat("a", 1000) + "}]"}, 20), reused: true,
	},
	{name: "large head", raw: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20000) + "\r\nContent-Length: 5\r\n\r\nhello", status: 200, length: 5, body: "hello", reused: true},
	{name: "largest head", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: " + strings.Repeat("x", http1.MaxHead-len("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \r\n\r\n")) + "\r\n\r\nhello", status: 200, length: 5, body: "hello", reused: true},
	{name: "head that fills the small buffer", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: " + strings.Repeat("x", smallBuffer-len("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: \r\n\r\n")) + "\r\n\r\nhello", status: 200, length: 5, body: "hello", reused: true},
	{name: "40 KiB", raw: "HTTP/1.1 200 OK\r\nContent-Length: 40960\r\n\r\n" + strings.Repeat("0123456789abcdef", 2560), status: 200, length: 40960, body: strings.Repeat("0123456789abcdef", 2560), reused: true},
	{name: "40 KiB chunk", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na000\r\n" + strings.Repeat("0123456789abcdef", 2560) + "\r\n0\r\n\r\n", status: 200, length: -1, body: strings.Repeat("0123456789abcdef", 2560), reused: true},
	{name: "40 KiB until close", raw: "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("0123456789abcdef", 2560), closes: true, status: 200, length: -1, body: strings.Repeat("0123456789abcdef", 2560)},
	{name: "bytes behind the answer", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n", status: 200, length: 5, body: "hello", behind: true},
	{name: "body after 204", raw: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", status: 204, behind: true},
	{name: "body after HEAD", method: "HEAD", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, length: 5, behind: true},
}

// pieces are ways to cut an answer; a byte at a time is for short ones.
var pieces = map[string]int{"whole": 1 << 20, "by 1000 bytes": 1000, "bytewise": 1}

func TestAnswersAreRelayed(t *testing.T) {
	for _, network := range transports {
		for _, test := range answerTests {
			for how, size := range pieces {
				if size == 1 && (test.behind || len(test.raw) > 10000) {
					continue
				}
				t.Run(network+"/"+test.name+"/"+how, func(t *testing.T) {
					closed := make(chan struct{}, 2)
					s := serve(t, network, func(c net.Conn) {
						in := bufio.NewReader(c)
						for {
							if _, err := http.ReadRequest(in); err != nil {
								return
							}
							for piece := range slices.Chunk([]byte(test.raw), size) {
								c.Write(piece)
							}
							if test.closes {
								c.Close()
								closed <- struct{}{}
								return
							}
						}
					})
					tr := s.transport(t, TransportOptions{})
					for range 2 { // the second shows what the first left behind
						sink := newNotes(t)
						x := get()
						if test.method != "" {
							x.Request.Method = test.method
						}
						if err := tr.Do(t.Context(), x, sink); err != nil {
							t.Fatal(err)
						}
						if test.closes {
							<-closed
						}
						if !sink.ended || sink.status != test.status || sink.length != test.length || sink.body.String() != test.body {
							t.Errorf("ended %v, status %d, length %d, body %.50q", sink.ended, sink.status, sink.length, sink.body.String())
						}
						if !slices.Equal(sink.interims, test.interims) || !slices.Equal(sink.trailers, test.trailers) {
							t.Errorf("interims %.100q, trailers %v", sink.interims, sink.trailers)
						}
					}
					if n := s.accepted.Load(); n != 2 && !test.reused || n != 1 && test.reused {
						t.Errorf("%d connections, reuse %v", n, test.reused)
					}
				})
			}
		}
	}
}

func TestRequestIsWrittenAsParsed(t *testing.T) {
	got := make(chan string, 1)
	s := serve(t, "unix", func(c net.Conn) {
		buf := make([]byte, 1<<10)
		n, _ := c.Read(buf)
		got <- string(buf[:n])
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	x := post([]byte("{}"))
	x.Request.Target = "/v1/x?q=%7E"
	x.Request.Fields = http1.Fields{{Name: "b", Value: "1"}, {Name: "Expect", Value: "100-continue"}, {Name: "A", Value: "2"}}
	if err := s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t)); err != nil {
		t.Fatal(err)
	}
	const want = "POST /v1/x?q=%7E HTTP/1.1\r\nHost: test\r\nb: 1\r\nA: 2\r\nContent-Length: 2\r\n\r\n{}"
	if g := <-got; g != want {
		t.Errorf("first packet %q\nwant %q", g, want)
	}
}

// The server sends an event only after the last one was flushed: whatever
// holds one back hangs.
func TestEventsAreFlushedAsTheyCome(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			sink := newNotes(t)
			s := serve(t, network, func(c net.Conn) {
				http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, head)
				for range 5 {
					<-sink.changed
					io.WriteString(c, "3\r\nab\n\r\n")
				}
				<-sink.changed
				io.WriteString(c, "0\r\n\r\n")
			})
			if err := s.transport(t, TransportOptions{}).Do(t.Context(), get(), sink); err != nil {
				t.Fatal(err)
			}
			if sink.flushes != 6 || sink.body.String() != strings.Repeat("ab\n", 5) {
				t.Errorf("%d flushes, body %q", sink.flushes, sink.body.String())
			}
		})
	}
}

func TestABurstIsFlushedOnce(t *testing.T) {
	sink := newNotes(t)
	s := serve(t, "unix", func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+strings.Repeat("3\r\nab\n\r\n", 100))
		<-sink.changed
		io.WriteString(c, strings.Repeat("3\r\nab\n\r\n", 100)+"0\r\n\r\n")
	})
	if err := s.transport(t, TransportOptions{}).Do(t.Context(), get(), sink); err != nil {
		t.Fatal(err)
	}
	if sink.flushes != 1 || sink.body.Len() != 600 {
		t.Errorf("%d flushes, %d bytes", sink.flushes, sink.body.Len())
	}
}

// The whole way of a large answer, spliced onto a client's socket.
func TestTenMiBThroughSplice(t *testing.T) {
	content := randomBytes(10 << 20)
	heads := map[string]string{
		"sized":       fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content)),
		"until close": "HTTP/1.1 200 OK\r\n\r\n",
	}
	for _, network := range transports {
		for name, head := range heads {
			t.Run(network+"/"+name, func(t *testing.T) {
				s := serve(t, network, func(c net.Conn) {
					http.ReadRequest(bufio.NewReader(c))
					io.WriteString(c, head)
					c.Write(content)
				})
				received := make(chan []byte, 1)
				client := serve(t, "tcp", func(c net.Conn) {
					p, _ := io.ReadAll(c)
					received <- p
				})
				toClient, err := net.Dial("tcp", client.address)
				if err != nil {
					t.Fatal(err)
				}
				sink := newNotes(t)
				if sink.to, err = rawconn.Wrap(toClient); err != nil {
					t.Fatal(err)
				}
				// What was read with the head is written in front, as a real sink does.
				sink.onFlush = func() {
					sink.to.Write(sink.body.Bytes())
					sink.body.Reset()
				}
				tr := s.transport(t, TransportOptions{})
				if err := tr.Do(t.Context(), get(), sink); err != nil {
					t.Fatal(err)
				}
				sink.to.Close()
				if !bytes.Equal(<-received, content) {
					t.Error("what arrived differs")
				}
				if sink.spliced < 9<<20 {
					t.Errorf("only %d bytes were spliced", sink.spliced)
				}
				if want := uint64(len(head) + len(content)); tr.Progress() != want {
					t.Errorf("Progress = %d, want %d", tr.Progress(), want)
				}
			})
		}
	}
}

func TestHundredAtOnce(t *testing.T) {
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			s := serve(t, network, answering(func(r *http.Request, body []byte) []byte {
				return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nX-Path: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", r.URL.Path, len(body), body)
			}))
			tr := s.transport(t, TransportOptions{})
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() {
					for j := range 10 {
						x, sink := post(randomBytes(1+i*300+j)), newNotes(t)
						x.Request.Target = fmt.Sprintf("/%d/%d", i, j)
						if err := tr.Do(t.Context(), x, sink); err != nil {
							t.Error(err)
							return
						}
						if sink.fields.Get("x-path") != x.Request.Target || !bytes.Equal(sink.body.Bytes(), randomBytes(1+i*300+j)) {
							t.Errorf("%s got the answer of %s", x.Request.Target, sink.fields.Get("x-path"))
						}
					}
				})
			}
			all.Wait()
			if n := s.accepted.Load(); n > 100 {
				t.Errorf("%d connections for 100 at a time", n)
			}
		})
	}
}

func TestDoOnAnEndedContextTouchesNobody(t *testing.T) {
	s := serve(t, "unix", func(net.Conn) {})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(exchange.ErrClientGone)
	f := asFailure(t, s.transport(t, TransportOptions{}).Do(ctx, get(), newNotes(t)), OpCanceled)
	if !errors.Is(f, exchange.ErrClientGone) || f.Sent || f.Begun || s.accepted.Load() != 0 {
		t.Errorf("%+v, %d connections", f, s.accepted.Load())
	}
}
