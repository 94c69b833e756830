package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

var errBroke = errors.New("engine died")

// A hang-up is seen at once, whatever the request is waiting for; in the middle
// of an answer of which nothing more comes, after a moment.
func TestHangUpCancelsWithItsCause(t *testing.T) {
	waiting := make(chan struct{})
	cause := make(chan error, 1)
	fx := start(t, func(ctx context.Context, x *exchange.Exchange) {
		switch x.Request.Target {
		case "/half":
			_, _ = x.Body.Read(make([]byte, 1))
		case "/read":
			_, _ = io.ReadAll(x.Body)
		case "/stream":
			_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
			_, _ = x.Sink.Write([]byte("begun"))
			_ = x.Sink.Flush()
		}
		waiting <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		x.Sink.Break(context.Cause(ctx))
	})
	for name, request := range map[string]string{
		"silent, no body":           get("/"),
		"silent, with a next one":   get("/") + get("/next"),
		"silent, body unread":       "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"silent, large body unread": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"silent, body half read":    "POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
		"silent, chunks half read":  "POST /half HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
		"silent, body read":         "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"mid-stream":                get("/stream"),
		"mid-stream, body unread":   "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
	} {
		for _, how := range []string{"close", "reset", "half-close"} {
			if how == "half-close" && strings.HasPrefix(name, "silent") {
				continue // it is there: see TestHalfClosedClientIsAnswered
			}
			t.Run(name+", "+how, func(t *testing.T) {
				c := fx.dial(t)
				c.send(t, request)
				wait(t, waiting, "request")
				tcp := c.Conn.(*net.TCPConn)
				switch how {
				case "reset":
					_ = tcp.SetLinger(0)
					_ = tcp.Close()
				case "half-close":
					_ = tcp.CloseWrite()
				default:
					_ = tcp.Close()
				}
				if got := wait(t, cause, "cancellation"); !errors.Is(got, exchange.ErrClientGone) {
					t.Errorf("cause %v", got)
				}
			})
		}
	}
	t.Run("http/2 reset", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+fx.addr, strings.NewReader("abc"))
		done := make(chan struct{})
		go func() {
			defer close(done)
			if r, err := http2Client(t).Do(req); err == nil {
				_ = r.Body.Close()
			}
		}()
		wait(t, waiting, "request")
		cancel()
		if got := wait(t, cause, "cancellation"); !errors.Is(got, exchange.ErrClientGone) {
			t.Errorf("cause %v", got)
		}
		<-done
	})
}

// The watch is set once per connection and must work for its later requests.
func TestHangUpIsSeenOnALaterRequest(t *testing.T) {
	waiting := make(chan struct{})
	cause := make(chan error, 1)
	fx := start(t, func(ctx context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/first" {
			echo(ctx, x)
			return
		}
		waiting <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		x.Sink.Break(nil)
	})
	c := fx.dial(t)
	for range 3 {
		c.send(t, "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
		c.answer(t, "POST")
	}
	c.send(t, "POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	wait(t, waiting, "request")
	_ = c.Close()
	if got := wait(t, cause, "cancellation"); !errors.Is(got, exchange.ErrClientGone) {
		t.Errorf("cause %v", got)
	}
}

// Half an answer is never made to look whole: what the client's bytes say.
func TestBrokenAnswerLooksBroken(t *testing.T) {
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		length := int64(-1)
		if strings.HasPrefix(x.Request.Target, "/sized") {
			length = 100
		}
		if x.Request.Target != "/nothing" {
			_ = x.Sink.Head(&http1.Response{Status: 200}, length)
			_, _ = x.Sink.Write([]byte("half"))
			if !strings.HasSuffix(x.Request.Target, "unflushed") {
				_ = x.Sink.Flush()
			}
		}
		x.Sink.Break(errBroke)
	})
	for _, target := range []string{"/sized", "/chunked", "/sized-unflushed", "/chunked-unflushed", "/nothing"} {
		for _, head := range []string{"GET", "POST"} {
			t.Run(head+target, func(t *testing.T) {
				c := fx.dial(t)
				body := ""
				if head == "POST" {
					body = "Content-Length: 3\r\n"
				}
				c.send(t, head+" "+target+" HTTP/1.1\r\nHost: a\r\n"+body+"\r\n")
				all, _ := io.ReadAll(c.in)
				if bytes.HasSuffix(all, []byte("0\r\n\r\n")) {
					t.Errorf("ends cleanly: %q", all)
				}
				if target != "/nothing" && !bytes.Contains(all, []byte("half")) {
					t.Errorf("lost what was there: %q", all)
				}
			})
		}
		t.Run("http/2"+target, func(t *testing.T) {
			r, err := http2Client(t).Get("http://" + fx.addr + target)
			if err == nil {
				_, err = io.ReadAll(r.Body)
				_ = r.Body.Close()
			}
			var reset http2.StreamError
			if err == nil || !errors.As(err, &reset) && !strings.Contains(err.Error(), "stream error") {
				t.Errorf("got %v, want the stream reset", err)
			}
		})
	}
	t.Run("http/1.0, where closing is the clean end", func(t *testing.T) {
		c := fx.dial(t)
		c.send(t, "GET /chunked HTTP/1.0\r\n\r\n")
		if all, err := io.ReadAll(c.in); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v, want a reset", all, err)
		}
		c = fx.dial(t)
		c.send(t, "POST /chunked HTTP/1.0\r\nContent-Length: 1000\r\n\r\nand a body that nobody reads")
		if all, err := io.ReadAll(c.in); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("with a body: got %q, %v, want a reset", all, err)
		}
	})
}

// HTTP/2: one stream breaks, the others of the connection live.
func TestBrokenStreamLeavesTheOthers(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/breaks" {
			x.Sink.Break(errBroke)
			return
		}
		close(begun)
		<-finish
		respond(x, 200, "lives")
	})
	nc, err := net.Dial("tcp", fx.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fr := openHTTP2(t, nc)
	ask(t, fr, 1, "/lives")
	wait(t, begun, "first request")
	ask(t, fr, 3, "/breaks")
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := f.(*http2.RSTStreamFrame); ok {
			if r.StreamID != 3 {
				t.Fatalf("stream %d was reset", r.StreamID)
			}
			close(finish)
		}
		if d, ok := f.(*http2.DataFrame); ok {
			if d.StreamID != 1 || string(d.Data()) != "lives" {
				t.Errorf("stream %d: %q", d.StreamID, d.Data())
			}
			return
		}
	}
}

// openHTTP2 speaks the preface.
func openHTTP2(tb testing.TB, nc net.Conn) *http2.Framer {
	tb.Helper()
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		tb.Fatal(err)
	}
	fr := http2.NewFramer(nc, nc)
	if err := fr.WriteSettings(); err != nil {
		tb.Fatal(err)
	}
	return fr
}

func ask(tb testing.TB, fr *http2.Framer, stream uint32, path string) {
	tb.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a.test"}, {":path", path}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	if err != nil {
		tb.Fatal(err)
	}
}

// The preface may come in pieces, and with the first frames at once.
func TestHTTP2PrefaceInPieces(t *testing.T) {
	fx := start(t, echo)
	for _, cut := range []int{1, 3, 10, 17, 18, 20, 23, len(http2.ClientPreface)} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			nc, err := net.Dial("tcp", fx.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			var rest bytes.Buffer
			fr := http2.NewFramer(&rest, nc)
			_ = fr.WriteSettings()
			ask(t, fr, 1, "/x")
			all := append([]byte(http2.ClientPreface), rest.Bytes()...)
			for _, piece := range [][]byte{all[:cut], all[cut:]} {
				if _, err := nc.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			for {
				f, err := fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if d, ok := f.(*http2.DataFrame); ok {
					if !strings.HasPrefix(string(d.Data()), "GET /x a.test 20") {
						t.Errorf("got %q", d.Data())
					}
					return
				}
			}
		})
	}
}

// pair is two ends of a TCP connection, one as a transport has it.
func pair(tb testing.TB) (engine net.Conn, ours *rawconn.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	engine, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	ours, err = rawconn.Wrap(accepted)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = engine.Close(), ours.Close() })
	return engine, ours
}

func TestSplice(t *testing.T) {
	const size = 10 << 20
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for name, tc := range map[string]struct {
		length int64
		h2     bool
	}{"sized": {size, false}, "chunked": {-1, false}, "http/2": {size, true}} {
		t.Run(name, func(t *testing.T) {
			engine, src := pair(t)
			moved := make(chan int64, 1)
			fx := start(t, func(_ context.Context, x *exchange.Exchange) {
				_ = x.Sink.Head(&http1.Response{Status: 200}, tc.length)
				_, _ = x.Sink.Write(content[:100])
				n, err := x.Sink.Splice(src, size-100)
				moved <- n
				if err != nil {
					x.Sink.Break(err)
					return
				}
				_ = x.Sink.End(nil)
			})
			go func() { _, _ = engine.Write(content[100:]) }()
			get := http.Get
			if tc.h2 {
				get = http2Client(t).Get
			}
			r, err := get("http://" + fx.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Equal(body, content) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			if n := <-moved; n != size-100 {
				t.Errorf("moved %d", n)
			}
		})
	}
	t.Run("an engine that ends early is no error of the client", func(t *testing.T) {
		for _, reset := range []bool{false, true} {
			engine, src := pair(t)
			result := make(chan error, 1)
			fx := start(t, func(_ context.Context, x *exchange.Exchange) {
				_ = x.Sink.Head(&http1.Response{Status: 200}, size)
				n, err := x.Sink.Splice(src, size)
				if n >= size {
					err = errors.New("moved more than there was")
				}
				var source *rawconn.SourceError
				if reset && errors.As(err, &source) {
					err = nil
				}
				result <- err
				x.Sink.Break(errBroke)
			})
			if reset {
				_ = engine.(*net.TCPConn).SetLinger(0)
			} else {
				_, _ = engine.Write(content[:1000])
			}
			_ = engine.Close()
			c := fx.dial(t)
			c.send(t, get("/"))
			if err := wait(t, result, "splice's end"); err != nil {
				t.Errorf("reset %v: %v", reset, err)
			}
		}
	})
}

// A client that says something and leaves as soon as it learns of its tunnel must
// not be taken for one that hung up: what makes a tunnel of its connection, and
// needs the front's lock, comes before the 101.
func TestNoClientLearnsOfATunnelBeforeItIsOne(t *testing.T) {
	held, end := make(chan struct{}), make(chan struct{})
	var f *Front
	fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
		f.mu.Lock() // until the client has waited in vain
		close(held)
		_, err := x.Sink.(exchange.Upgrader).Upgrade(&http1.Response{Status: http.StatusSwitchingProtocols})
		if err != nil {
			t.Error(err)
		}
		<-end
		_ = x.Sink.End(nil)
	}, func(front *Front) { f = front })
	c := fx.dial(t)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	<-held
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	early, err := c.in.Peek(1)
	fx.mu.Unlock()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", early, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if r, _ := c.answer(t, http.MethodGet); r.StatusCode != http.StatusSwitchingProtocols {
		t.Error(r.Status)
	}
	close(end)
}
