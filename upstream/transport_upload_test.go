package upstream

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// echoSum answers each request with the length and sum of its body, and its trailers.
func echoSum(c net.Conn) {
	answering(func(r *http.Request, body []byte) []byte {
		a := fmt.Sprintf("%v %d %x %v", r.TransferEncoding, len(body), sha256.Sum256(body), r.Trailer)
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(a), a)
	})(c)
}

// dribble reads a few bytes at a time, and in odd sizes.
type dribble struct{ r io.Reader }

func (d dribble) Read(p []byte) (int, error) { return d.r.Read(p[:min(len(p), 7777)]) }

func TestUploadsArriveExactly(t *testing.T) {
	for _, network := range transports {
		for _, size := range []int{1, 1000, smallBody - 1, smallBody, smallBody + 1, 1 << 20} {
			for _, known := range []bool{true, false} {
				t.Run(fmt.Sprint(network, "/", size, "/known ", known), func(t *testing.T) {
					s := serve(t, network, echoSum)
					tr := s.transport(t, TransportOptions{})
					content := randomBytes(size)
					want := fmt.Sprintf("[] %d %x map[]", size, sha256.Sum256(content))
					for range 2 {
						x, sink := post(content), newNotes(t)
						x.Body = dribble{x.Body}
						if !known {
							x.Length = -1
							x.Trailers = func() http1.Fields { return http1.Fields{{Name: "Sum", Value: "1"}} }
							want = fmt.Sprintf("[chunked] %d %x map[Sum:[1]]", size, sha256.Sum256(content))
						}
						if err := tr.Do(t.Context(), x, sink); err != nil {
							t.Fatal(err)
						}
						if got := sink.body.String(); got != want {
							t.Errorf("got %s\nwant %s", got, want)
						}
					}
					if n := s.accepted.Load(); n != 1 {
						t.Errorf("%d connections", n)
					}
				})
			}
		}
	}
}

func TestAnEmptyBodyOfUnknownLength(t *testing.T) {
	s := serve(t, "unix", echoSum)
	x, sink := post(nil), newNotes(t)
	x.Length, x.Body = -1, strings.NewReader("")
	if err := s.transport(t, TransportOptions{}).Do(t.Context(), x, sink); err != nil || !strings.HasPrefix(sink.body.String(), "[chunked] 0 ") {
		t.Errorf("%v, %s", err, sink.body.String())
	}
}

// An upstream that answers while it still reads gets its answer through, piece
// by piece, while the body goes on.
func TestFullDuplex(t *testing.T) {
	s := serve(t, "tcp", func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		word := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, word); err != nil {
				break
			}
			fmt.Fprintf(c, "4\r\n%s\r\n", word)
		}
		io.WriteString(c, "0\r\n\r\n")
		io.Copy(io.Discard, c)
	})
	body, client := io.Pipe()
	x, sink := post(nil), newNotes(t)
	x.Length, x.Body = -1, body
	done := make(chan error)
	go func() { done <- s.transport(t, TransportOptions{}).Do(t.Context(), x, sink) }()
	<-sink.changed // the head
	for _, word := range []string{"ping", "pong", "pang"} {
		io.WriteString(client, word)
		<-sink.changed
		sink.mu.Lock()
		if !strings.HasSuffix(sink.body.String(), word) {
			t.Errorf("got %q after %s", sink.body.String(), word)
		}
		sink.mu.Unlock()
	}
	client.Close()
	if err := <-done; err != nil || sink.body.String() != "pingpongpang" {
		t.Errorf("%v, %q", err, sink.body.String())
	}
}

// stuckBody is a client that sends a little and then nothing; it can be interrupted.
type stuckBody struct {
	first       io.Reader
	interrupted chan struct{}
}

var errInterrupted = errors.New("interrupted")

func (b *stuckBody) Read(p []byte) (int, error) {
	if n, _ := b.first.Read(p); n > 0 {
		return n, nil
	}
	<-b.interrupted
	return 0, errInterrupted
}

func (b *stuckBody) Interrupt() { close(b.interrupted) }

// A refusal reaches the client although its upload is not over, and the rest of
// that is not waited for.
func TestEarlyRefusalIsRelayed(t *testing.T) {
	const refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!"
	handlers := map[string]func(c net.Conn){
		"that keeps reading": func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, refusal)
			io.Copy(io.Discard, c)
		},
		"that closes its direction": func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, refusal)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		},
	}
	for name, handle := range handlers {
		for _, length := range []int64{10 << 20, -1} {
			t.Run(fmt.Sprint(name, "/", length), func(t *testing.T) {
				s := serve(t, "tcp", handle)
				tr := s.transport(t, TransportOptions{})
				for range 2 {
					x, sink := post(nil), newNotes(t)
					body := &stuckBody{bytes.NewReader(randomBytes(100 << 10)), make(chan struct{})}
					x.Length, x.Body = length, body
					sink.onEnd = func() {
						select {
						case <-body.interrupted:
							t.Error("the body was cut before the answer was whole")
						default:
						}
					}
					if err := tr.Do(t.Context(), x, sink); err != nil || sink.status != 413 || sink.body.String() != "no!" {
						t.Fatalf("%v, %d %q", err, sink.status, sink.body.String())
					}
				}
				if n := s.accepted.Load(); n != 2 {
					t.Errorf("%d connections: one with half a request was used again", n)
				}
			})
		}
	}
}

// An upstream that dies under an upload is to blame, and the client's stuck
// body is not waited for.
func TestUpstreamDiesUnderAnUpload(t *testing.T) {
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			s := serve(t, network, func(c net.Conn) { io.ReadFull(c, make([]byte, 10)) })
			x := post(nil)
			x.Length, x.Body = 10<<20, &stuckBody{bytes.NewReader(randomBytes(5 << 20)), make(chan struct{})}
			err := s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t))
			f, ok := errors.AsType[*Failure](err)
			if !ok || f.Op != OpRead && f.Op != OpWrite || !f.Sent || f.Begun || f.Replayable {
				t.Errorf("%v (%+v)", err, f)
			}
		})
	}
}

// An upstream that dies while the client has not sent the rest of its body is to
// blame too: the client was once told that its body was not HTTP.
func TestUpstreamDiesWhileTheClientSendsNothing(t *testing.T) {
	for _, network := range transports {
		for _, length := range []int64{10 << 20, -1} {
			t.Run(fmt.Sprint(network, "/", length), func(t *testing.T) {
				const sent = 1000
				s := serve(t, network, func(c net.Conn) {
					r, err := http.ReadRequest(bufio.NewReader(c))
					if err == nil {
						_, _ = io.ReadFull(r.Body, make([]byte, sent))
					}
				})
				x := post(nil)
				x.Length, x.Body = length, &stuckBody{bytes.NewReader(randomBytes(sent)), make(chan struct{})}
				err := s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t))
				f, ok := errors.AsType[*Failure](err)
				if !ok || f.Op != OpRead || !f.Sent || f.Begun || f.Replayable {
					t.Errorf("%v (%+v)", err, f)
				}
			})
		}
	}
}

// mover is a body in which everything may be moved. What is, it writes itself.
type mover struct {
	*bytes.Reader
	moved int64
	fail  error
}

func (m *mover) Move(dst *rawconn.Conn, n int64) (int64, error) {
	if m.fail != nil {
		return 0, m.fail
	}
	n = min(n, 100_000)
	m.moved += n
	return io.CopyN(struct{ io.Writer }{dst}, m.Reader, n)
}

// A large body is moved, but for its last piece, and what breaks there is the client's fault.
func TestUploadsAreMoved(t *testing.T) {
	s := serve(t, "tcp", echoSum)
	tr := s.transport(t, TransportOptions{})
	content := randomBytes(1 << 20)
	x, sink := post(content), newNotes(t)
	body := &mover{Reader: bytes.NewReader(content)}
	x.Body = body
	if err := tr.Do(t.Context(), x, sink); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("[] %d %x map[]", len(content), sha256.Sum256(content)); sink.body.String() != want || body.moved < 500_000 || body.moved > int64(len(content)-16<<10) {
		t.Errorf("got %s\nwant %s, %d moved", sink.body.String(), want, body.moved)
	}
	x, sink = post(content), newNotes(t)
	x.Body = &mover{Reader: bytes.NewReader(content), fail: &rawconn.SourceError{Err: exchange.ErrClientGone}}
	if f, ok := errors.AsType[*Failure](tr.Do(t.Context(), x, sink)); !ok || f.Op != OpClientBody || !errors.Is(f, exchange.ErrClientGone) {
		t.Errorf("%v", f)
	}
}
