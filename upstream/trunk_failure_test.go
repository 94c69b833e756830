package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"stoker/internal/steady"
)

func TestHTTP2ClientsFaults(t *testing.T) {
	seen := make(chan error, 10)
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		_, err := io.Copy(w, r.Body)
		seen <- err
	})
	errTest := errors.New("no more")
	// A front's own error of HTTP/2 is no word of the upstream's.
	for _, broken := range []error{errTest, fmt.Errorf("client went away: %w", http2.StreamError{StreamID: 33, Code: http2.ErrCodeCancel})} {
		x, to, _ := stream("/")
		n := newNotes(t)
		n.onHead = func() { go to.CloseWithError(broken) }
		go fmt.Fprint(to, "half")
		if f := asFailure(t, tr.Do(t.Context(), x, n), OpClientBody); !errors.Is(f.Err, broken) {
			t.Errorf("%v", f.Err)
		}
		if err := <-seen; err == nil {
			t.Error("half a request looks whole to the upstream")
		}
	}
	for _, method := range []string{"Head", "Write", "Flush", "End"} {
		n := newNotes(t)
		n.fail[method] = errTest
		if f := asFailure(t, tr.Do(t.Context(), sending("/", []byte("x"), 1), n), OpClientWrite); !errors.Is(f.Err, errTest) {
			t.Errorf("%s: %v", method, f.Err)
		}
	}
	x := asking("GET", "/")
	x.WebSocket = true
	if f := asFailure(t, tr.Do(t.Context(), x, newNotes(t)), OpClientBody); !errors.Is(f.Err, ErrNoWebSocket) || f.Sent {
		t.Errorf("%+v", f)
	}
}

func TestHTTP2DialFails(t *testing.T) {
	tr := newPeerTransport(Peer{Address: steady.Reserve(t, "127.0.0.1"), HTTP2: true}, TransportOptions{})
	defer tr.Close()
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			f := asFailure(t, tr.Do(t.Context(), sending("/", []byte("x"), -1), newNotes(t)), OpDial)
			if f.Sent || !f.Replayable {
				t.Errorf("%+v", f)
			}
		})
	}
	wait.Wait()

	s, _ := newHTTP2(t, "tls", func(http.ResponseWriter, *http.Request) {})
	s.TLS.NextProtos = []string{"http/1.1"}
	one := httptest.NewTLSServer(http.NotFoundHandler()) // without HTTP/2
	defer one.Close()
	tr = newPeerTransport(Peer{Address: one.Listener.Addr().String(), HTTP2: true, Secure: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}, TransportOptions{})
	defer tr.Close()
	if f := asFailure(t, tr.Do(t.Context(), asking("GET", "/"), newNotes(t)), OpDial); !errors.Is(f.Err, errNoHTTP2) {
		t.Errorf("%v", f.Err)
	}
}

// framed is a server of HTTP/2 that answers each request's head as a test says.
type framed struct {
	*http2.Framer
	conn net.Conn
	hp   *hpack.Encoder
	buf  bytes.Buffer
}

// head writes HEADERS of names and values.
func (f *framed) head(id uint32, end bool, fields ...string) {
	f.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.hp.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.buf.Bytes(), EndStream: end, EndHeaders: true})
}

// serveFrames calls handle for each request, when it has come whole, of each
// connection; false ends that.
func serveFrames(tb testing.TB, handle func(f *framed, conn int64, id uint32) bool) *Transport {
	tb.Helper()
	var conns atomic.Int64
	s := serve(tb, "tcp", func(c net.Conn) {
		f := &framed{Framer: http2.NewFramer(c, c), conn: c}
		f.hp = hpack.NewEncoder(&f.buf)
		number := conns.Add(1)
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if frame.Header().Flags.Has(http2.FlagDataEndStream) && (frame.Header().Type == http2.FrameHeaders || frame.Header().Type == http2.FrameData) &&
				!handle(f, number, frame.Header().StreamID) {
				return
			}
		}
	})
	tr := newPeerTransport(Peer{Address: s.address, HTTP2: true}, TransportOptions{})
	tb.Cleanup(tr.Close)
	return tr
}

// TestHTTP2Failures: what an upstream may do wrong, and what it says of a request
// that it has not begun.
func TestHTTP2Failures(t *testing.T) {
	well := func(f *framed, id uint32) { f.head(id, true, ":status", "200") }
	half := func(f *framed, id uint32) {
		f.head(id, false, ":status", "200", "content-type", "application/grpc")
		f.WriteData(id, false, []byte("half"))
	}
	for _, c := range []struct {
		name   string
		handle func(f *framed, conn int64, id uint32) bool
		op     Op // "": none
		unsent bool
		begun  bool
	}{
		{name: "GOAWAY before the request", handle: func(f *framed, conn int64, id uint32) bool {
			if conn > 1 {
				well(f, id)
				return true
			}
			f.WriteGoAway(0, http2.ErrCodeNo, nil)
			return true
		}},
		{name: "GOAWAY again and again", handle: func(f *framed, _ int64, _ uint32) bool {
			f.WriteGoAway(0, http2.ErrCodeNo, nil)
			return true
		}, op: OpStale, unsent: true},
		{name: "GOAWAY behind the request", handle: func(f *framed, _ int64, id uint32) bool {
			f.WriteGoAway(id, http2.ErrCodeNo, nil)
			well(f, id)
			return true
		}},
		{name: "refused", handle: func(f *framed, _ int64, id uint32) bool {
			f.WriteRSTStream(id, http2.ErrCodeRefusedStream)
			return true
		}, op: OpStale, unsent: true},
		{name: "reset", handle: func(f *framed, _ int64, id uint32) bool {
			f.WriteRSTStream(id, http2.ErrCodeInternal)
			return true
		}, op: OpRead},
		{name: "closed", handle: func(*framed, int64, uint32) bool { return false }, op: OpRead},
		{name: "GOAWAY behind the request, and closed", handle: func(f *framed, _ int64, id uint32) bool {
			f.WriteGoAway(id, http2.ErrCodeNo, nil)
			return false
		}, op: OpRead},
		{name: "reset within", handle: func(f *framed, _ int64, id uint32) bool {
			half(f, id)
			f.WriteRSTStream(id, http2.ErrCodeCancel)
			return true
		}, op: OpRead, begun: true},
		{name: "closed within", handle: func(f *framed, _ int64, id uint32) bool { half(f, id); return false }, op: OpRead, begun: true},
		{name: "no status", handle: func(f *framed, _ int64, id uint32) bool { f.head(id, true, "a", "b"); return true }, op: OpMalformed},
		{name: "a name in capitals", handle: func(f *framed, _ int64, id uint32) bool {
			f.head(id, true, ":status", "200", "Upper", "b")
			return true
		}, op: OpMalformed},
		{name: "a line feed", handle: func(f *framed, _ int64, id uint32) bool {
			f.head(id, true, ":status", "200", "a", "b\nc: d")
			return true
		}, op: OpMalformed},
		{name: "less than it said", handle: func(f *framed, _ int64, id uint32) bool {
			f.head(id, false, ":status", "200", "content-length", "10")
			f.WriteData(id, true, []byte("half"))
			return true
		}, op: OpRead, begun: true},
		{name: "nothing of what it said", handle: func(f *framed, _ int64, id uint32) bool {
			f.head(id, true, ":status", "200", "content-length", "10")
			return true
		}, op: OpRead, begun: true},
		{name: "more than it said", handle: func(f *framed, _ int64, id uint32) bool {
			f.head(id, false, ":status", "200", "content-length", "2")
			f.WriteData(id, true, []byte("half"))
			return true
		}, op: OpRead, begun: true},
		{name: "no HTTP/2", handle: func(f *framed, _ int64, _ uint32) bool {
			fmt.Fprint(f.conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			return false
		}, op: OpRead},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := serveFrames(t, c.handle)
			for _, length := range []int64{-1, 4} {
				x, n := sending("/", []byte("body"), length), newNotes(t)
				err := tr.Do(t.Context(), x, n)
				if c.op == "" {
					if err != nil || !n.ended {
						t.Fatalf("%v, ended %v", err, n.ended)
					}
					continue
				}
				f, ok := errors.AsType[*Failure](err)
				if !ok || f.Op != c.op || f.Sent == c.unsent || f.Begun != c.begun || n.ended {
					t.Fatalf("length %d: %v: %+v", length, err, f)
				}
				if body, _ := io.ReadAll(x.Body); c.unsent && (!f.Replayable || string(body) != "body") {
					t.Errorf("%q is left to be sent again", body)
				}
			}
		})
	}
}
